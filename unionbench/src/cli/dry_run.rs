//! What `run --dry-run` prints: the plan with the calls of every mount, and one
//! line a step.

use crate::plan::Plan;
use crate::run;

pub(super) fn print(plan: &Plan) {
    println!(
        "seed {}, {} rounds without probes{}",
        plan.seed,
        plan.rounds,
        if plan.probes { " and as many with" } else { "" }
    );
    for (n, stack) in plan.stacks.iter().enumerate() {
        println!(
            "stack {n}: {} layers × {} files on {} of {}",
            stack.n_layers,
            stack.files_per_layer,
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
