//! In which order setups are visited.

use std::ops::Range;

use super::StepPlan;

/// In which order the steps of a stack come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// Backends in turns, with probes and without, round by round: a slow drift
    /// of the machine falls on all alike.
    #[default]
    InTurns,
    /// The steps with probes last, backend by backend, so that probes stay
    /// attached from one to the next: where instructions are counted nothing
    /// drifts, and attaching is most of what such a step takes.
    ProbesLast,
}

/// The steps of a stack. Each group has one setup for every backend, in the same
/// order.
pub(super) fn steps(
    groups: &[Range<usize>],
    rounds: u32,
    probes: bool,
    order: Order,
) -> Vec<StepPlan> {
    let in_turns = probes && order == Order::InTurns;
    let rounds_of =
        |round| groups.iter().flat_map(move |group| there_and_back(group.clone(), round, in_turns));
    let mut steps: Vec<_> = (0..rounds).flat_map(rounds_of).collect();
    if probes && order == Order::ProbesLast {
        steps.extend(backend_by_backend(groups, rounds));
    }
    steps
}

/// One round: backends forward without probes and back with them; the next
/// round the other way about, so that no backend always comes first and a
/// slow drift of the machine falls on all alike.
fn there_and_back(
    setups: Range<usize>,
    round: u32,
    probes: bool,
) -> impl Iterator<Item = StepPlan> {
    let forward: Vec<usize> = setups.collect();
    let backward: Vec<usize> = forward.iter().rev().copied().collect();
    let (first, second) =
        if round.is_multiple_of(2) { (forward, backward) } else { (backward, forward) };
    let plain = first.into_iter().map(move |setup| StepPlan { setup, round, probes: false });
    let probed = if probes { second } else { Vec::new() };
    plain.chain(probed.into_iter().map(move |setup| StepPlan { setup, round, probes: true }))
}

/// All rounds with probes.
fn backend_by_backend(groups: &[Range<usize>], rounds: u32) -> impl Iterator<Item = StepPlan> {
    let n_backends = groups.first().map_or(0, ExactSizeIterator::len);
    (0..n_backends).flat_map(move |backend| {
        groups.iter().flat_map(move |group| {
            let setup = group.start + backend;
            (0..rounds).map(move |round| StepPlan { setup, round, probes: true })
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const GROUPS: [Range<usize>; 2] = [0..3, 3..6];

    fn key(step: &StepPlan) -> (usize, u32, bool) {
        (step.setup, step.round, step.probes)
    }

    #[test]
    fn backends_alternate_there_and_back_in_every_round() {
        let steps = steps(&GROUPS, 2, true, Order::InTurns);
        let first: Vec<_> = steps.iter().take(6).map(|s| (s.setup, s.probes)).collect();
        assert_eq!(first, [(0, false), (1, false), (2, false), (2, true), (1, true), (0, true)]);
        let second = steps.iter().filter(|s| s.round == 1 && s.setup < 3);
        let second: Vec<_> = second.map(|s| (s.setup, s.probes)).collect();
        assert_eq!(second, [(2, false), (1, false), (0, false), (0, true), (1, true), (2, true)]);
        assert_eq!(steps.iter().map(key).collect::<BTreeSet<_>>().len(), 6 * 2 * 2);
        assert_eq!(steps.len(), 6 * 2 * 2, "each once");
    }

    #[test]
    fn steps_with_probes_come_last_backend_by_backend() {
        let last = steps(&GROUPS, 2, true, Order::ProbesLast);
        let in_turns = steps(&GROUPS, 2, true, Order::InTurns);
        let sorted = |steps: &[StepPlan]| steps.iter().map(key).collect::<BTreeSet<_>>();
        assert_eq!(sorted(&last), sorted(&in_turns), "the same steps in another order");
        assert_eq!(last.len(), in_turns.len());
        let (plain, probed) = last.split_at(12);
        assert!(plain.iter().all(|s| !s.probes));
        let visited: Vec<_> = probed.iter().map(|s| s.setup).collect();
        assert_eq!(visited, [0, 0, 3, 3, 1, 1, 4, 4, 2, 2, 5, 5]);
    }

    #[test]
    fn without_probes_the_order_is_the_same() {
        let plain = steps(&GROUPS, 3, false, Order::InTurns);
        assert_eq!(plain, steps(&GROUPS, 3, false, Order::ProbesLast));
        assert_eq!(plain.len(), 18);
        assert!(plain.iter().all(|s| !s.probes));
    }
}
