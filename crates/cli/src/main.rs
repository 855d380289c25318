//! The `swap-tensor` command: parses, dispatches, and turns the outcome into an exit code.

#![forbid(unsafe_code)]

mod args;
mod error;
mod expect;
mod host;
mod memcpy;
mod model;
mod output;
mod pattern;
mod progress;
mod report;
mod size;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(_) => Ok(()),
        Command::Info(_) => Ok(()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error: error::CliError = error;
            output::complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
