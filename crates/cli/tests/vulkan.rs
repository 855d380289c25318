//! The built command on Vulkan: the whole walk, a device asked for, and machines without one.

#![cfg(feature = "vulkan")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may stop where they stand, as tests may"
)]

use serde_json::Value;
use std::process::{Command, Output};

fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_swap-tensor"));
    command.env("XDG_CACHE_HOME", dir.path()).envs(env.iter().copied()).args(args).output().unwrap()
}

#[test]
fn the_main_job_runs() {
    let output = run(&["run", "--backend", "vulkan", "--passes", "1", "--json"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(output.stdout.trim_ascii()).unwrap();
    assert_eq!(report["mismatches"], 0);
    assert!(report["downloaded_bytes"].as_u64() > Some(0));
    // The arena, and the scratch for moves that overlap.
    let peak = report["device_bytes"].as_u64().unwrap() + (1 << 20);
    assert_eq!(report["peak_device_bytes"].as_u64(), Some(peak));
}

#[test]
fn what_cannot_be_had_is_one_line() {
    let refused = |args: &[&str], env: &[(&str, &str)]| {
        let output = run(args, env);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        (output.status.code().unwrap(), said)
    };
    let (code, said) = refused(&["run", "--backend", "vulkan", "--device", "no such device"], &[]);
    assert!(code == 2 && said.contains("no such device"), "{said}");
    let (code, said) = refused(&["run", "--backend", "vulkan", "--device-memory", "3GiB"], &[]);
    assert!(code == 2 && said.contains("maxMemoryAllocationSize"), "{said}");
    let none = [("VK_DRIVER_FILES", "/nonexistent"), ("VK_ICD_FILENAMES", "/nonexistent")];
    let (code, said) = refused(&["run", "--backend", "vulkan"], &none);
    assert!(code == 1 && said.contains("mesa-vulkan-drivers"), "{said}");
}
