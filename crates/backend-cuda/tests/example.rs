//! The example runs: on the simulated driver, where it must leave nothing behind, and without one.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use std::path::PathBuf;
use std::process::Command;

/// What cargo built of the example, beside this test program.
fn example() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let path = program.parent().unwrap().parent().unwrap().join("examples/kernel_on_view");
    assert!(path.exists(), "cargo builds {path:?} with `cargo test -p backend-cuda` (or `--examples`)");
    path
}

#[test]
fn kernel_on_view_runs_on_a_block_that_moves() {
    for seed in ["0", "1", "2"] {
        let ran = Command::new(example()).env("CUDA_SIM_SEED", seed).output().unwrap();
        let (said, warned) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "seed {seed}, {}: {said}{warned}", ran.status);
        assert!(said.ends_with("all 10000 numbers are right\n"), "{said}");
    }
}

#[test]
fn kernel_on_view_says_what_is_missing() {
    let ran = Command::new(example()).env("CUDA_SIM_DEVICES", "0").output().unwrap();
    let warned = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(2), "{warned}");
    assert_eq!(
        warned,
        "kernel_on_view: the CUDA driver cannot be used here: cuInit said CUDA_ERROR_NO_DEVICE\n"
    );
}
