//! The `swap-tensor` command: parses, dispatches, and turns the outcome into an exit code.

#![forbid(unsafe_code)]

mod args;
mod disk;
mod error;
mod expect;
mod host;
mod info;
mod memcpy;
mod memory;
mod model;
mod output;
mod pattern;
mod progress;
mod report;
mod run;
mod shapes;
mod size;
mod trace;
mod walk;

use args::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Info(args) => info::info(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            error.explanation().into_iter().for_each(output::explain);
            ExitCode::from(error.exit_code())
        }
    }
}
