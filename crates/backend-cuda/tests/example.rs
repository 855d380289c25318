//! The examples run: on the simulated driver, where they must leave nothing behind, and without one.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use std::path::PathBuf;
use std::process::Command;

/// What cargo built of an example, beside this test program.
fn example(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let path = program.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "cargo builds {path:?} with `cargo test -p backend-cuda` (or `--examples`)");
    path
}

#[test]
fn kernel_on_view_runs_on_a_block_that_moves() {
    for seed in ["0", "1", "2"] {
        let ran = Command::new(example("kernel_on_view")).env("CUDA_SIM_SEED", seed).output().unwrap();
        let (said, warned) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "seed {seed}, {}: {said}{warned}", ran.status);
        assert!(said.ends_with("all 10000 numbers are right\n"), "{said}");
    }
}

#[test]
fn gpu_rates_measures_every_row_and_says_that_this_is_no_gpu() {
    let rates = |args: &[&str]| {
        let mut command = Command::new(example("gpu_rates"));
        let ran = command.args(args).env("BENCH_DATE", "2026-01-02").output().unwrap();
        let (said, warned) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{}: {said}{warned}", ran.status);
        said.into_owned()
    };
    let said = rates(&["--quick", "--markdown"]);
    for line in ["- backend: cuda-sim", "- date: 2026-01-02", "- driver: CUDA 12.8"] {
        assert!(said.lines().any(|found| found == line), "{line} in {said}");
    }
    assert!(said.contains("no GPU") && !said.to_lowercase().contains("uuid"), "{said}");
    let mut rows = Vec::new();
    for way in ["up", "down"] {
        for block in ["1 KiB", "32 KiB", "256 KiB", "1 MiB"] {
            rows.extend(["deep", "alone"].map(|depth| format!("{way} {block} {depth}")));
        }
    }
    rows.extend(["32 KiB", "256 KiB"].map(|block| format!("both ways {block} deep")));
    rows.extend(["32 KiB", "1 MiB"].map(|block| format!("move {block}, disjoint")));
    for (block, distance) in [("1 MiB", "16 KiB"), ("32 KiB", "4 KiB"), ("1 MiB", "1 KiB")] {
        let how = ["", ", forced steps", ", forced bounce"];
        rows.extend(how.map(|how| format!("move {block} by {distance}{how}")));
    }
    let many = ["50 moves of 64 B, disjoint", "50 moves of 1 KiB, disjoint", "512 moves of 16 KiB, disjoint"];
    let many = many.into_iter().chain(["256 moves of 32 KiB, disjoint", "128 moves of 64 KiB, disjoint"]);
    let many =
        many.chain(["64 moves of 128 KiB, disjoint", "50 blocks of 64 B, slid", "50 blocks of 1 KiB, slid"]);
    for what in many.chain(["Arena::compact of 50 blocks of 1 KiB"]) {
        rows.extend(["", ", no kernel"].map(|how| format!("{what}{how}")));
    }
    rows.extend(["cuMemFree", "cuMemFreeAsync"].map(|by| format!("release + allocate, 50 live, / {by}")));
    for pages in ["2 MiB", "4 MiB"] {
        rows.push(format!("compaction by remap, pages of {pages}, 0 B copied"));
        rows.push(format!("remap of 4 MiB, pages of {pages}"));
    }
    for row in &rows {
        let found = said.lines().filter(|line| line.starts_with(&format!("| {row} | "))).count();
        assert_eq!(found, 1, "{row} in {said}");
    }
    let all = said.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what")).count();
    assert_eq!(all, rows.len(), "{said}");
    let verdicts = said.matches("| ok |").count() + said.matches("| BELOW |").count();
    assert_eq!(verdicts, 2 * 3 * 2 + 2 + 2 + 3 + 2, "{said}");
}

#[test]
fn the_examples_say_what_is_missing() {
    for name in ["kernel_on_view", "gpu_rates"] {
        let ran = Command::new(example(name)).env("CUDA_SIM_DEVICES", "0").output().unwrap();
        let warned = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{warned}");
        let missing = "the CUDA driver cannot be used here: cuInit said CUDA_ERROR_NO_DEVICE";
        assert_eq!(warned, format!("{name}: {missing}\n"));
    }
    let ran = Command::new(example("gpu_rates")).arg("--slow").output().unwrap();
    assert_eq!(ran.status.code(), Some(2));
}
