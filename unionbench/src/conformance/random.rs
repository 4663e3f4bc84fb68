//! Random layers and random operations, checked against the union in memory.
//! A failing sequence is shrunk to a short one before it is told.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::test_runner::{
    Config, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRng, TestRunner,
};

use super::Setting;
use super::model::{Layer, Model, Node, Operation};
use super::world::{Done, Mismatch, Tree, World, equal};

/// The name of the case.
pub const NAME: &str = "random_operations_match_the_union_in_memory";

/// Directories first, so that each stands before what lies in it.
const DIRECTORIES: [&str; 3] = ["d", "d/s", "e"];
const FILES: [&str; 6] = ["f", "d/f", "d/g", "d/s/f", "e/f", "e/g"];

/// Runs the sequences.
pub fn check(setting: &Setting<'_>) -> Done {
    if setting.kind == "mergerfs" {
        return Err(Mismatch::Inapplicable("it copies nothing up and has no whiteouts".to_owned()));
    }
    let config = Config {
        cases: setting.n_random,
        failure_persistence: None,
        max_shrink_iters: 200,
        rng_seed: RngSeed::Fixed(setting.seed),
        ..Config::default()
    };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&setting.seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let input = (vec(layer(), 1..4).prop_map(hide_what_is_there), vec(operation(), 1..25));
    let result = runner.run(&input, |(layers, operations)| {
        sequence(setting, &layers, &operations).map_err(|mismatch| match mismatch {
            Mismatch::Differs(seen) => TestCaseError::fail(seen),
            Mismatch::Inapplicable(reason) => TestCaseError::reject(reason),
        })
    });
    result.map_err(|error| match error {
        TestError::Fail(reason, (layers, operations)) => {
            Mismatch::Differs(format!("{} after {operations:?} on {layers:?}", reason.message()))
        }
        TestError::Abort(reason) => Mismatch::Differs(reason.message().to_owned()),
    })
}

fn layer() -> impl Strategy<Value = Layer> {
    // For each name: absent, there, or hidden in this layer.
    let directories = vec((0..4u8, any::<bool>()), DIRECTORIES.len());
    let files = vec(0..6u8, FILES.len());
    (directories, files, 0..1000u32).prop_map(|(directories, files, mark)| {
        let mut layer = Layer::default();
        for (path, (state, opaque)) in DIRECTORIES.iter().zip(directories) {
            match state {
                0 if is_there(&layer, path) => _ = layer.whiteouts.insert((*path).to_owned()),
                1 | 2 => {
                    add_parents(&mut layer, path);
                    layer.nodes.insert((*path).to_owned(), Node::Directory);
                    if opaque && state == 2 {
                        layer.opaque.insert((*path).to_owned());
                    }
                }
                _ => {}
            }
        }
        for (path, state) in FILES.iter().zip(files) {
            match state {
                0 if is_there(&layer, path) => _ = layer.whiteouts.insert((*path).to_owned()),
                1 | 2 if is_there(&layer, path) => {
                    layer.nodes.insert((*path).to_owned(), Node::File(format!("{path} {mark}")));
                }
                _ => {}
            }
        }
        layer
    })
}

/// Whiteouts stay where they hide something in a directory that is merged: a
/// union writes no others, and overlayfs lists stray ones.
fn hide_what_is_there(mut layers: Vec<Layer>) -> Vec<Layer> {
    for index in 0..layers.len() {
        let (above, below) = layers.split_at_mut(index + 1);
        let shown = Model::of(below);
        let Some(layer) = above.last_mut() else { continue };
        let opaque = layer.opaque.clone();
        layer.whiteouts.retain(|path| {
            let in_opaque = opaque.iter().any(|name| path.starts_with(&format!("{name}/")));
            shown.nodes.contains_key(path) && !in_opaque
        });
        layer.opaque.retain(|path| shown.nodes.get(path) == Some(&Node::Directory));
    }
    layers
}

/// The layer holds the directory that the name lies in.
fn is_there(layer: &Layer, path: &str) -> bool {
    match path.rsplit_once('/') {
        Some((parent, _)) => layer.nodes.contains_key(parent),
        None => true,
    }
}

fn add_parents(layer: &mut Layer, path: &str) {
    if let Some((parent, _)) = path.rsplit_once('/') {
        add_parents(layer, parent);
        layer.whiteouts.remove(parent);
        layer.nodes.insert(parent.to_owned(), Node::Directory);
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let file = || select(FILES.to_vec()).prop_map(str::to_owned);
    let directory = || select(DIRECTORIES.to_vec()).prop_map(str::to_owned);
    let text = || (0..1000u32).prop_map(|n| format!("text {n}"));
    prop_oneof![
        (file(), text()).prop_map(|(path, text)| Operation::Write(path, text)),
        (file(), text()).prop_map(|(path, text)| Operation::Append(path, text)),
        (file(), 0..12u64).prop_map(|(path, length)| Operation::Truncate(path, length)),
        file().prop_map(Operation::Unlink),
        directory().prop_map(Operation::MakeDirectory),
        directory().prop_map(Operation::RemoveDirectory),
        (file(), file()).prop_map(|(from, to)| Operation::Rename(from, to)),
        Just(Operation::Remount),
    ]
}

fn sequence(setting: &Setting<'_>, layers: &[Layer], operations: &[Operation]) -> Done {
    let mut world = World::new(setting, NAME, layers.len(), &[])?;
    for (index, layer) in layers.iter().enumerate() {
        write_layer(&world, &format!("l{index}"), layer)?;
    }
    let before = world.read_only_layers()?;
    let mut model = Model::of(layers);
    world.mount()?;
    compare(&world, &model, "the mount")?;
    for operation in operations {
        let expected = model.apply(operation).err().map_or(0, |errno| errno.raw_os_error());
        let found = carry_out(&mut world, operation)?;
        equal(&format!("{operation:?}"), found, expected)?;
        compare(&world, &model, &format!("{operation:?}"))?;
    }
    world.settle(&before)
}

fn write_layer(world: &World, name: &str, layer: &Layer) -> Done {
    for (path, node) in &layer.nodes {
        match node {
            Node::Directory => world.dir(&format!("{name}/{path}"))?,
            Node::File(text) => world.put(&format!("{name}/{path}"), text)?,
        }
    }
    for path in &layer.whiteouts {
        world.whiteout(name, path)?;
    }
    layer.opaque.iter().try_for_each(|path| world.opaque(name, path))
}

/// The errno it was refused with, or 0.
fn carry_out(world: &mut World, operation: &Operation) -> Result<i32, Mismatch> {
    let result: io::Result<()> = match operation {
        Operation::Write(path, text) => fs::write(world.m(path), text),
        Operation::Append(path, text) => OpenOptions::new()
            .append(true)
            .open(world.m(path))
            .and_then(|mut file| file.write_all(text.as_bytes())),
        Operation::Truncate(path, length) => OpenOptions::new()
            .write(true)
            .open(world.m(path))
            .and_then(|file| file.set_len(*length)),
        Operation::Unlink(path) => fs::remove_file(world.m(path)),
        Operation::MakeDirectory(path) => fs::create_dir(world.m(path)),
        Operation::RemoveDirectory(path) => fs::remove_dir(world.m(path)),
        Operation::Rename(from, to) => fs::rename(world.m(from), world.m(to)),
        Operation::Remount => return world.remount().map(|()| 0),
    };
    Ok(super::world::errno(result))
}

fn compare(world: &World, model: &Model, after: &str) -> Done {
    let shown: Tree = world.shown()?;
    let found = shown.iter().map(|(path, line)| {
        // Type and owner come first; the content is what stands behind them.
        let is_directory = line.starts_with("40");
        let text = line.splitn(3, ' ').nth(2).unwrap_or_default();
        let node = if is_directory { Node::Directory } else { Node::File(text.to_owned()) };
        (path.display().to_string(), node)
    });
    equal(&format!("what is shown after {after}"), Model { nodes: found.collect() }, model.clone())
}
