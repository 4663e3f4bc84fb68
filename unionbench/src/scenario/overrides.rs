//! `--set key=value`, applied to the tree before it is read.

use toml::{Table, Value};

/// Sets `key=value` in `tree` and returns the key in its canonical form
/// (`phase[0].count`). An element of a list of tables is named by its index or
/// by its `name` (a backend also by its `kind`).
pub fn apply(tree: &mut Table, text: &str) -> Result<String, String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("it has no `=`; write key=value, as in stack.layers=[1,8]".to_owned())?;
    let value = read_value(value.trim());
    let parts: Vec<&str> = key.trim().split('.').collect();
    if parts.iter().any(|p| p.is_empty()) {
        return Err("the key is empty or has an empty part".to_owned());
    }
    let (&last, parents) = parts.split_last().expect("split yields at least one part");
    let mut canonical = String::new();
    let mut table = tree;
    let mut rest = parents.iter();
    while let Some(&part) = rest.next() {
        push_key(&mut canonical, part);
        let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
        table = match entry {
            Value::Table(t) => t,
            Value::Array(items) => {
                let wanted = *rest.next().ok_or(format!(
                    "`{canonical}` is a list of tables; name one by index or name"
                ))?;
                let index = find(items, wanted).ok_or_else(|| {
                    format!("`{canonical}` has no {wanted:?}; it has {}", listed(items))
                })?;
                canonical.push_str(&format!("[{index}]"));
                items[index].as_table_mut().ok_or(format!("`{canonical}` is not a table"))?
            }
            _ => return Err(format!("`{canonical}` is a value and has no keys in it")),
        };
    }
    if matches!(table.get(last), Some(Value::Array(a)) if a.iter().all(Value::is_table) && !a.is_empty())
    {
        return Err(format!("`{key}` is a list of tables; set a key of one of them"));
    }
    table.insert(last.to_owned(), value);
    push_key(&mut canonical, last);
    Ok(canonical)
}

/// TOML if it reads as such, otherwise the text itself, so that quotes are
/// not needed on a command line.
fn read_value(text: &str) -> Value {
    let parsed = format!("v = {text}").parse::<Table>().ok();
    let value = parsed.filter(|t| t.len() == 1).and_then(|mut t| t.remove("v"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn push_key(canonical: &mut String, part: &str) {
    if !canonical.is_empty() {
        canonical.push('.');
    }
    canonical.push_str(part);
}

fn find(items: &[Value], wanted: &str) -> Option<usize> {
    let named = items.iter().position(|i| label(i) == Some(wanted));
    named.or_else(|| wanted.parse().ok().filter(|&i| i < items.len()))
}

fn label(item: &Value) -> Option<&str> {
    item.get("name").or_else(|| item.get("kind")).and_then(Value::as_str)
}

fn listed(items: &[Value]) -> String {
    let names: Vec<&str> = items.iter().filter_map(label).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(String, String), String> {
        let mut tree: Table = "[stack]\nlayers = 1\n[[phase]]\nname = 'a'\n[[phase]]\nname = 'b'\n"
            .parse()
            .expect("the text is TOML");
        let key = apply(&mut tree, text)?;
        Ok((key, tree.to_string()))
    }

    #[test]
    fn values_are_set_by_path_index_and_name() {
        let (key, text) = check("stack.layers=[1,500]").expect("it is set");
        assert_eq!(key, "stack.layers");
        assert!(text.contains("layers = [1, 500]"), "{text}");
        assert_eq!(check("phase.b.count=3").map(|r| r.0), Ok("phase[1].count".to_owned()));
        assert_eq!(check("phase.0.count=3").map(|r| r.0), Ok("phase[0].count".to_owned()));
        let (_, text) = check("backing.fs=ext4").expect("it is set");
        assert!(text.contains("fs = \"ext4\""), "{text}");
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        for (text, why) in [
            ("stack.layers", "has no `=`"),
            ("phase.count=3", "name one by index or name"),
            ("phase.c.count=3", "has no \"c\"; it has a, b"),
            ("stack.layers.x=3", "is a value"),
            ("phase=3", "is a list of tables"),
            ("=3", "empty"),
        ] {
            let error = check(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
