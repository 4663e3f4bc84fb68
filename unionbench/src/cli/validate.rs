//! `unionbench validate`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::plan;
use crate::scenario;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Scenario files
    #[arg(required = true)]
    scenarios: Vec<PathBuf>,
    /// Changes a key before checking, as in --set stack.layers=8
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for path in &args.scenarios {
        let checked = scenario::load(path, &args.set).map_err(anyhow::Error::from).and_then(
            |(scenario, _)| {
                plan::expand(&scenario, &plan::Choices::default()).map_err(anyhow::Error::from)
            },
        );
        match checked {
            Ok(plan) => println!(
                "{}: {} stacks, {} backends, {} cells, {} steps",
                path.display(),
                plan.stacks.len(),
                plan.backends.len(),
                plan.setups.iter().map(|setup| setup.phases.len()).sum::<usize>(),
                plan.steps.len()
            ),
            Err(error) => {
                eprintln!("unionbench: {error:#}");
                code = ExitCode::from(2);
            }
        }
    }
    Ok(code)
}
