//! `run --memory-report`: its figures are the report's, and a refusal says who has the room.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may stop where they stand, as tests may"
)]

use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Six layers of two tensors, 100,400 bytes each, and a table of 40,000.
fn model(dir: &TempDir) -> PathBuf {
    let data = vec![3u8; 100_000];
    let view = |bytes: usize| TensorView::new(Dtype::F32, vec![bytes / 4], &data[..bytes]).unwrap();
    let layers = (0..6).flat_map(|i| [(format!("h.{i}.w"), view(100_000)), (format!("h.{i}.b"), view(400))]);
    let views = layers.chain([("wte".to_owned(), view(40_000))]);
    let path = dir.path().join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    path
}

fn run(model: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swap-tensor"));
    command.arg("run").arg(model).args(args).stdin(Stdio::null()).output().unwrap()
}

const SMALL: [&str; 4] = ["--device-memory", "250000", "--passes", "1"];

#[test]
fn figures_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(&dir);
    let plain = run(&model, &[&SMALL[..], &["--json"]].concat());
    let plain: Value = serde_json::from_slice(&plain.stdout).unwrap();
    assert_eq!(plain.get("memory_report"), None, "nobody asked");

    let output = run(&model, &[&SMALL[..], &["--json", "--memory-report"]].concat());
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let device = &report["memory_report"]["cpu:0"];
    let stat = |tier: &Value, key: &str| tier["memory_stats"][key].as_u64().unwrap();
    assert_eq!(stat(device, "reserved_bytes.all.current"), 250_000);
    let (came, went) = (stat(device, "allocation.all.allocated"), stat(device, "allocation.all.freed"));
    assert_eq!(went, report["evictions"].as_u64().unwrap(), "what leaves the device is evicted");
    assert_eq!(came - went, stat(device, "allocation.all.current"));
    let peak = stat(device, "allocated_bytes.all.peak");
    assert!((200_000..=250_000).contains(&peak), "two large tensors fit: {peak}");
    assert_eq!(device["peak_bytes"]["Parameter"], peak);
    assert_eq!(device["peak_bytes"]["Activation"], 0);
    let largest = &device["peak_largest"][0];
    assert_eq!((&largest["bytes"], &largest["name"]), (&Value::from(100_000), &Value::from("w")));

    // Everything changed, and had to leave the device or be copied down in the end.
    let host = &report["memory_report"]["host"];
    let modules: Vec<&str> = host["peak_modules"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|share| share["module"].as_str())
        .collect();
    assert!(modules.iter().all(|module| module.starts_with("h.")), "{modules:?}");
    assert!(stat(host, "allocated_bytes.all.peak") >= 400_000);
    assert_eq!(report["memory_report"].get("disk"), None);
}

#[test]
fn tables_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&model(&dir), &[&SMALL[..], &["--memory-report"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let (report, memory) = text.split_once("\nmemory of cpu:0\n").unwrap();
    assert!(report.contains("mismatches  0\n"), "{report}");
    let host = memory.find("memory of host").unwrap();
    let at = |line: &str| memory.find(line).unwrap_or_else(|| panic!("no {line:?} in {memory}"));
    assert!(at("|        Metric         | Cur Usage  | Peak Usage | Tot Alloc  | Tot Freed  |\n") < host);
    assert!(at("at its peak: ") < at("the largest modules then\n  9"));
    assert!(at("the largest tensors then\n  97.66 KiB Parameter w of h.") < host);
}

#[test]
fn a_refusal_says_who_has_the_room() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(&dir);
    let tight = [&SMALL[..], &["--host-memory", "150000"]].concat();
    let refused = |args: &[&str]| {
        let output = run(&model, args);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let plain = refused(&tight);
    assert_eq!(plain.lines().count(), 1, "{plain}");
    let stderr = refused(&[&tight[..], &["--memory-report"]].concat());
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines[0].contains("give at least --host-memory"), "{stderr}");
    assert!(lines[1].starts_with("  host out of memory. Tried to allocate 97.66 KiB. "), "{stderr}");
    assert!(lines[2].starts_with("  held: ") && lines[2].ends_with(" KiB Parameter"), "{stderr}");
    assert!(lines[3].starts_with("  by module: 98.") && lines[3].contains(" h.5"), "{stderr}");
    assert!(lines[5].ends_with("that has to be written elsewhere first"), "{stderr}");
    assert_eq!(lines.len(), 6);
}
