//! Which names a phase uses, and in which order each thread takes them.

use std::ffi::CString;

use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::Distribution as _;
use rand_pcg::Pcg64;

use super::{Prepared, WorkloadError};
use crate::plan::{Action, Amount, FileChoice, Keys, LayerChoice, PhasePlan, Trigger};
use crate::stack::Tree;

/// Indices drawn ahead for a phase that ends by the clock; they are used in a
/// circle.
const DRAWN_AHEAD: u64 = 1 << 20;

pub(super) fn prepare(
    phase: &PhasePlan,
    tree: &Tree,
    seed: u64,
) -> Result<Prepared, WorkloadError> {
    if let (Action::Whole(_), Amount::Count(n)) = (&phase.action, phase.amount) {
        return Ok(Prepared::without_names(&phase.action, n));
    }
    let mut rng = Pcg64::seed_from_u64(seed);
    let mut names = names(phase, tree);
    // The order of names is the popularity rank of Zipf's law and the order of
    // a permutation; it must not follow the order of creation.
    // A walk over the tree has an order of its own.
    if !matches!(phase.action, Action::Recursive { .. } | Action::Replay { .. }) {
        names.shuffle(&mut rng);
    }
    let wanted = match (phase.amount, phase.keys) {
        (Amount::Count(n), _) => n,
        (Amount::All, _) | (Amount::DurationMs(_), Keys::Permutation) => names.len() as u64,
        (Amount::DurationMs(_), _) => DRAWN_AHEAD,
    };
    if names.is_empty() && phase.amount == Amount::All {
        return Err(WorkloadError::NothingThere { phase: phase.name.clone() });
    }
    let once_each = phase.keys == Keys::Permutation;
    if names.is_empty() || (once_each && wanted > names.len() as u64) {
        return Err(WorkloadError::TooFewFiles {
            phase: phase.name.clone(),
            wanted,
            there: names.len() as u64,
        });
    }
    let indices = draw(phase.keys, names.len(), wanted, &mut rng);
    let per_thread = indices.len().div_ceil(phase.threads.max(1) as usize).max(1);
    let orders = indices.chunks(per_thread).map(<[u32]>::to_vec).collect();
    let targets = match &phase.action {
        Action::FirstWrite { trigger: Trigger::Link | Trigger::Rename, .. }
        | Action::RenameDirectory { .. } => {
            names.iter().map(|(path, _)| c_string(&format!("{path}.second"))).collect()
        }
        Action::Replay { operations, .. } => {
            operations.iter().enumerate().map(|(i, op)| super::replay::target(i, op)).collect()
        }
        _ => Vec::new(),
    };
    Ok(Prepared {
        action: phase.action.clone(),
        sizes: names.iter().map(|(_, size)| *size).collect(),
        names: names.iter().map(|(path, _)| c_string(path)).collect(),
        targets,
        orders,
        duration_ns: match phase.amount {
            Amount::Count(_) | Amount::All => None,
            Amount::DurationMs(ms) => Some(ms * 1_000_000),
        },
    })
}

fn draw(keys: Keys, n_names: usize, wanted: u64, rng: &mut Pcg64) -> Vec<u32> {
    let zipf = match keys {
        Keys::Zipf(exponent) => rand_distr::Zipf::new(n_names as f64, exponent).ok(),
        Keys::Permutation | Keys::Uniform => None,
    };
    (0..wanted)
        .map(|position| match (&zipf, keys) {
            // Ranks are 1..=n_names.
            (Some(zipf), _) => zipf.sample(rng) as u32 - 1,
            (None, Keys::Permutation) => position as u32,
            (None, _) => rng.random_range(0..n_names as u32),
        })
        .collect()
}

/// Paths relative to the root of the merged tree, with their sizes.
fn names(phase: &PhasePlan, tree: &Tree) -> Vec<(String, u64)> {
    match &phase.action {
        Action::Lookup { layer } | Action::Delete { layer } => of_layer(*layer, tree),
        Action::FirstWrite { files, .. } | Action::Fsync { files } | Action::Read { files } => {
            match files {
                FileChoice::Layer(layer) => of_layer(*layer, tree),
                FileChoice::Group(name) => {
                    tree.group_files(name).into_iter().map(|file| (file.path, file.size)).collect()
                }
            }
        }
        Action::LookupMissing => {
            let wanted = match phase.amount {
                Amount::Count(n) => n,
                Amount::All | Amount::DurationMs(_) => 10_000,
            };
            tree.missing_names(wanted).into_iter().map(|path| (path, 0)).collect()
        }
        Action::Readdir | Action::Walk => {
            let mut all = tree.directories();
            if all.is_empty() {
                all.push(".".to_owned());
            }
            all.into_iter().map(|path| (path, 0)).collect()
        }
        Action::RenameDirectory { .. } => tree
            .directories()
            .into_iter()
            .filter(|path| !path.contains('/'))
            .map(|path| (path, 0))
            .collect(),
        Action::Recursive { .. } => {
            let mut all = of_layer(LayerChoice::Any, tree);
            all.extend(tree.directories().into_iter().map(|path| (path, 0)));
            // The order of paths puts parents before what is in them.
            all.sort();
            all
        }
        Action::Replay { operations, .. } => {
            let files: std::collections::HashMap<String, u64> =
                tree.visible_files().into_iter().map(|file| (file.path, file.size)).collect();
            let size = |path: &str| files.get(path).copied().unwrap_or(0);
            operations.iter().map(|op| (op.on.clone(), size(&op.on))).collect()
        }
        // Has no names; see `prepare`.
        Action::Whole(_) => Vec::new(),
    }
}

fn of_layer(layer: LayerChoice, tree: &Tree) -> Vec<(String, u64)> {
    let layers = match layer.resolve(tree.n_layers()) {
        Some(index) => index..index + 1,
        None => 0..tree.n_layers(),
    };
    layers
        .flat_map(|index| tree.files_in_layer(index))
        .filter(|file| file.visible)
        .map(|file| (file.path, file.size))
        .collect()
}

/// Generated names hold no NUL.
fn c_string(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}
