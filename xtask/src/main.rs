//! Repository commands, run as `cargo xtask COMMAND`. This file only parses and dispatches.

#![forbid(unsafe_code)]

mod artifacts;
mod backends;
mod bench;
mod bundle;
mod ci;
mod fuzz;
mod libtest;
mod process;
mod readme;
mod rules;
mod setup;
mod soak;
mod test;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let outcome = match args.first().map(String::as_str) {
        Some("test") => test::Options::parse(rest).map(|options| test::run(&options)),
        Some("ci") => ci::Options::parse(rest).map(|options| ci::run(&options)),
        Some("soak") => soak::Options::parse(rest).map(|options| soak::run(&options)),
        Some("fuzz") => fuzz::Options::parse(rest).map(|options| fuzz::run(&options)),
        Some("bundle") => bundle::Options::parse(rest).map(|options| bundle::run(&options)),
        Some("bench") => bench::Options::parse(rest).map(|options| bench::run(&options)),
        Some("setup") => setup::Options::parse(rest).map(|options| setup::run(&options)),
        Some("loom") if rest.is_empty() => Ok(ci::loom()),
        Some("rules") if rest.is_empty() => Ok(rules::run()),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(other) => Err(format!("`{other}` is no command of xtask, or takes no such arguments")),
        None => Err("which command?".to_owned()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("xtask: {why}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  test [--require LIST] [--release]   every conformance suite on every backend present, and all other tests
  ci [--skip LIST] [--only LIST]      what a change must pass; the steps are named by a run
  soak arena [--ops N] [--seed S]     random operations on an arena against a shadow model (default 1000000)
  soak swap [--schedules N] [--seed S]  random schedules of the swap pool with seeded faults (default 100000)
  soak pinned [--ops N] [--seed S]    random operations on a pool of page-locked memory (default 1000000)
  soak staged [--copies N]            copies by 8 threads through staging of one slot (default 100000)
  soak cuda [--seeds N] [--seed S]    the stories of the CUDA backend on the simulated driver (default 1000)
  soak faults [--faults N] [--seed S]  threads on a pool over a disk that errs, hangs, flips bits, ... (default 10000)
  soak threads [--minutes N] [--seed S]  8 threads, room for two tensors, a disk: no deadlock, no leak (default 30)
  loom                                a few threads on the pool of page-locked memory, in every interleaving
  fuzz [TARGET] [--seconds N]         the targets of `fuzz/`, or one of them, so long each (default 600)
  bundle cuda|vulkan [--out DIR] [--try]  a folder to run on a machine with a GPU and without Rust (default
                                      target/bundle/cuda, or vulkan); --try runs it on the simulated or the software driver
  bench core [--quick] [--full] [--only LIST] [--out FILE]  allocator-core beside its peers; the rows are named by a run
  setup vulkan                        install Mesa's software Vulkan driver and the validation layer (Debian, Ubuntu)
  rules                               repository rules: module docs, lib.rs as a table of contents, ...

LIST is separated by commas, as in `--require cpu,sim`.";
