//! A union in memory: layers, and what operations do to what they show.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;

/// What a path stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Directory,
    File(String),
}

/// One layer: its nodes, and what it hides below itself. Parents are in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    pub nodes: BTreeMap<String, Node>,
    pub whiteouts: BTreeSet<String>,
    pub opaque: BTreeSet<String>,
}

/// One thing done through the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Creates or overwrites.
    Write(String, String),
    Append(String, String),
    Truncate(String, u64),
    Unlink(String),
    MakeDirectory(String),
    RemoveDirectory(String),
    /// Of a file only: directories are renamed in a case of their own.
    Rename(String, String),
    Remount,
}

/// What the union shows; the root is always there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub nodes: BTreeMap<String, Node>,
}

impl Model {
    /// The merged view of layers, topmost first.
    pub fn of(layers: &[Layer]) -> Self {
        let mut nodes = BTreeMap::new();
        for layer in layers.iter().rev() {
            for name in &layer.whiteouts {
                remove_tree(&mut nodes, name);
            }
            for name in &layer.opaque {
                remove_tree(&mut nodes, name);
            }
            for (path, node) in &layer.nodes {
                // A file hides what a directory below it holds, and the reverse.
                let merges = nodes.get(path) == Some(&Node::Directory) && *node == Node::Directory;
                if !merges {
                    remove_tree(&mut nodes, path);
                    nodes.insert(path.clone(), node.clone());
                }
            }
        }
        Self { nodes }
    }

    /// Does it, or says with which errno the file system refuses.
    pub fn apply(&mut self, operation: &Operation) -> Result<(), Errno> {
        match operation {
            Operation::Write(path, text) => {
                self.parent_of(path)?;
                self.refuse_directory(path)?;
                self.nodes.insert(path.clone(), Node::File(text.clone()));
            }
            Operation::Append(path, text) => {
                let old = self.file(path)?;
                self.nodes.insert(path.clone(), Node::File(old + text));
            }
            Operation::Truncate(path, length) => {
                let mut old = self.file(path)?.into_bytes();
                old.resize(*length as usize, 0);
                let text = String::from_utf8_lossy(&old).into_owned();
                self.nodes.insert(path.clone(), Node::File(text));
            }
            Operation::Unlink(path) => {
                self.file(path)?;
                self.nodes.remove(path);
            }
            Operation::MakeDirectory(path) => {
                self.parent_of(path)?;
                if self.nodes.contains_key(path) {
                    return Err(Errno::EXIST);
                }
                self.nodes.insert(path.clone(), Node::Directory);
            }
            Operation::RemoveDirectory(path) => {
                self.parent_of(path)?;
                match self.nodes.get(path) {
                    None => return Err(Errno::NOENT),
                    Some(Node::File(_)) => return Err(Errno::NOTDIR),
                    Some(Node::Directory) => {}
                }
                if self.nodes.keys().any(|other| is_below(other, path)) {
                    return Err(Errno::NOTEMPTY);
                }
                self.nodes.remove(path);
            }
            Operation::Rename(from, to) => {
                let text = self.file(from)?;
                self.parent_of(to)?;
                self.refuse_directory(to)?;
                self.nodes.remove(from);
                self.nodes.insert(to.clone(), Node::File(text));
            }
            Operation::Remount => {}
        }
        Ok(())
    }

    fn file(&self, path: &str) -> Result<String, Errno> {
        self.parent_of(path)?;
        match self.nodes.get(path) {
            None => Err(Errno::NOENT),
            Some(Node::Directory) => Err(Errno::ISDIR),
            Some(Node::File(text)) => Ok(text.clone()),
        }
    }

    fn refuse_directory(&self, path: &str) -> Result<(), Errno> {
        match self.nodes.get(path) {
            Some(Node::Directory) => Err(Errno::ISDIR),
            _ => Ok(()),
        }
    }

    fn parent_of(&self, path: &str) -> Result<(), Errno> {
        let Some((parent, _)) = path.rsplit_once('/') else { return Ok(()) };
        match self.nodes.get(parent) {
            Some(Node::Directory) => Ok(()),
            Some(Node::File(_)) => Err(Errno::NOTDIR),
            None => {
                self.parent_of(parent)?;
                Err(Errno::NOENT)
            }
        }
    }
}

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'))
}

fn remove_tree(nodes: &mut BTreeMap<String, Node>, path: &str) {
    nodes.retain(|other, _| other != path && !is_below(other, path));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(nodes: &[(&str, Node)], whiteouts: &[&str], opaque: &[&str]) -> Layer {
        Layer {
            nodes: nodes.iter().map(|(path, node)| ((*path).to_owned(), node.clone())).collect(),
            whiteouts: whiteouts.iter().map(|name| (*name).to_owned()).collect(),
            opaque: opaque.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn file(text: &str) -> Node {
        Node::File(text.to_owned())
    }

    #[test]
    fn the_topmost_layer_wins_and_hides() {
        let bottom = [
            ("d", Node::Directory),
            ("d/a", file("1")),
            ("d/b", file("1")),
            ("e", Node::Directory),
            ("e/x", file("1")),
        ];
        let top = [("d", Node::Directory), ("d/b", file("2")), ("e", Node::Directory)];
        let layers = [layer(&top, &["d/a"], &["e"]), layer(&bottom, &[], &[])];
        let shown: Vec<_> = Model::of(&layers).nodes.into_iter().collect();
        let expected = [("d", Node::Directory), ("d/b", file("2")), ("e", Node::Directory)];
        assert_eq!(shown, expected.map(|(path, node)| (path.to_owned(), node)));
    }

    #[test]
    fn refusals_are_those_of_a_file_system() {
        let own = |text: &str| text.to_owned();
        let mut model = Model::of(&[layer(&[("d", Node::Directory), ("f", file(""))], &[], &[])]);
        let check = |model: &mut Model, operation, expected| {
            assert_eq!(model.apply(&operation), expected, "{operation:?}");
        };
        check(&mut model, Operation::Unlink(own("d")), Err(Errno::ISDIR));
        check(&mut model, Operation::Unlink(own("x/y")), Err(Errno::NOENT));
        check(&mut model, Operation::Unlink(own("f/y")), Err(Errno::NOTDIR));
        check(&mut model, Operation::RemoveDirectory(own("f")), Err(Errno::NOTDIR));
        check(&mut model, Operation::Write(own("d/g"), own("g")), Ok(()));
        check(&mut model, Operation::RemoveDirectory(own("d")), Err(Errno::NOTEMPTY));
        check(&mut model, Operation::Rename(own("d/g"), own("d")), Err(Errno::ISDIR));
        check(&mut model, Operation::MakeDirectory(own("f")), Err(Errno::EXIST));
    }
}
