//! What `run --dry-run` prints: the plan with the calls of every mount, and one
//! line a step.

use crate::plan::Plan;
use crate::run;
use crate::unit::so_many;

pub(super) fn print(plan: &Plan) {
    println!(
        "seed {}, {} without probes{}",
        plan.seed,
        so_many(plan.rounds, "round"),
        if plan.probes { " and as many with" } else { "" }
    );
    for (n, stack) in plan.stacks.iter().enumerate() {
        println!(
            "stack {n}: {} × {} on {} of {}",
            so_many(stack.n_layers, "layer"),
            so_many(stack.files_per_layer, "file"),
            stack.backing.kind.name(),
            stack.backing.size
        );
    }
    for (n, setup) in plan.setups.iter().enumerate() {
        let backend = &plan.backends[setup.backend];
        println!("setup {n}: stack {} through {}", setup.stack, backend.name);
        match run::mount_calls(plan, setup) {
            Ok(calls) => {
                for call in calls {
                    for line in call.to_string().lines() {
                        println!("    {line}");
                    }
                }
            }
            Err(error) => println!("    {error}"),
        }
        for phase in &setup.phases {
            println!("  {}", phase.cell_id);
        }
    }
    for (position, step) in plan.steps.iter().enumerate() {
        println!(
            "step {position}: setup {} round {}{}",
            step.setup,
            step.round + 1,
            if step.probes { " with probes" } else { "" }
        );
    }
}
