//! The built command on CUDA, over the simulated driver: the whole walk, a device asked for, and a machine without one.

#![cfg(all(feature = "cuda", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may stop where they stand, as tests may"
)]

#[allow(unexpected_cfgs, reason = "its own crate has a feature that this one has not")]
#[path = "../../backend-cuda/tests/common/mod.rs"]
mod common;

use common::Sim;
use serde_json::Value;
use std::process::{Command, Output};

fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    // Says what to do where the simulator is not to be found.
    drop(Sim::new(0));
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_swap-tensor"));
    command.env("XDG_CACHE_HOME", dir.path()).envs(env.iter().copied()).args(args).output().unwrap()
}

#[test]
fn the_main_job_runs() {
    let output = run(&["run", "--backend", "cuda", "--passes", "1", "--json"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(output.stdout.trim_ascii()).unwrap();
    assert_eq!(report["mismatches"], 0);
    assert!(report["downloaded_bytes"].as_u64() > Some(0));
}

#[test]
fn what_cannot_be_had_is_one_line() {
    let refused = |args: &[&str], env: &[(&str, &str)]| {
        let output = run(args, env);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        (output.status.code().unwrap(), said)
    };
    let (code, said) = refused(&["run", "--backend", "cuda", "--device", "no such device"], &[]);
    assert!(code == 2 && said.contains("no such device"), "{said}");
    let (code, said) = refused(&["run", "--backend", "cuda"], &[("CUDA_SIM_DEVICES", "0")]);
    assert!(code == 1 && said.contains("CUDA_ERROR_NO_DEVICE"), "{said}");
    let (code, said) = refused(&["run", "--backend", "cuda"], &[("LD_LIBRARY_PATH", "")]);
    assert!(code == 1 && said.contains("libcuda.so.1"), "{said}");
}
