//! `--trace` and `--compute-ms`: the timeline that the command writes, and what it refuses.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may stop where they stand, as tests may"
)]

use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swap-tensor"));
    command.env("XDG_CACHE_HOME", dir).stdin(Stdio::null()).arg("run").args(args).output().unwrap()
}

/// Eight tensors of 20,000 bytes.
fn model(dir: &Path) -> PathBuf {
    let bytes: Vec<u8> = (0..20_000u32).map(|i| (i * i / 3) as u8).collect();
    let views =
        (0..8).map(|i| (format!("layer \"{i}\""), TensorView::new(Dtype::F32, vec![5000], &bytes).unwrap()));
    let path = dir.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    path
}

/// The report of a run that succeeds, and the events of its trace.
fn traced(args: &[&str]) -> (Value, Vec<Value>) {
    let dir = tempfile::tempdir().unwrap();
    let (model, trace) = (model(dir.path()), dir.path().join("out.json"));
    let always =
        [model.to_str().unwrap(), "--json", "--device-memory", "64KiB", "--trace", trace.to_str().unwrap()];
    let output = run(dir.path(), &[&always[..], args].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    let report = serde_json::from_slice(output.stdout.trim_ascii()).unwrap();
    let mut trace: Value = serde_json::from_slice(&fs::read(&trace).unwrap()).unwrap();
    assert_eq!(trace["otherData"]["dropped"], 0);
    (report, trace["traceEvents"].take().as_array().unwrap().clone())
}

fn spans<'a>(events: &'a [Value], category: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["ph"] == "X" && event["cat"] == category).collect()
}

#[test]
fn the_trace_has_what_the_report_counts() {
    let (report, events) = traced(&["--compute-ms", "0.5", "--passes", "1"]);
    assert_eq!((&report["mismatches"], &report["compute_ms"]), (&Value::from(0), &Value::from(0.5)));
    let bytes =
        |category| spans(&events, category).iter().map(|e| e["args"]["bytes"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(bytes("upload"), report["uploaded_bytes"].as_u64().unwrap());
    assert_eq!(bytes("download"), report["downloaded_bytes"].as_u64().unwrap());
    assert!(bytes("file read") >= 160_000 && bytes("download") > 0);
    assert!(!spans(&events, "stall").is_empty());

    let work = spans(&events, "program");
    assert_eq!(work.len(), 24, "one for each lease");
    assert!(work.iter().all(|e| e["dur"].as_f64().unwrap() >= 500.0), "a sleep is never shorter");
    assert!(work.iter().any(|e| e["name"] == "layer \"3\""));
    let track = |e: &Value| (e["pid"].clone(), e["tid"].clone());
    let others = events.iter().filter(|e| e["ph"] == "X" && e["cat"] != "program");
    assert!(work.iter().all(|e| track(e) == track(work[0])), "work has one track");
    assert!(others.clone().all(|e| track(e) != track(work[0])), "of its own");
    let title = events.iter().find(|e| e["name"] == "thread_name" && track(e) == track(work[0])).unwrap();
    assert_eq!(title["args"]["name"], "compute");
    let process = events.iter().filter(|e| e["name"] == "process_name");
    assert!(process.map(|e| &e["args"]["name"]).any(|name| name == "cpu"));
    // The time under leases is part of the run.
    assert!(report["seconds"].as_f64().unwrap() >= 24.0 * 0.5e-3);
}

#[test]
fn without_work_there_is_no_track_for_it() {
    let (report, events) = traced(&["--passes", "1"]);
    assert!(spans(&events, "program").is_empty() && !spans(&events, "upload").is_empty());
    assert_eq!(report["compute_ms"], 0.0);
}

fn refused(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = run(dir, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.lines().count() == 1 && output.stdout.is_empty(), "{stderr}");
    (output.status.code().unwrap(), stderr)
}

#[test]
fn a_trace_that_cannot_be_made_is_refused_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let missing = dir.path().join("no such directory").join("t.json");
    for path in [&*missing, dir.path()] {
        let (code, stderr) =
            refused(dir.path(), &[model.to_str().unwrap(), "--trace", path.to_str().unwrap()]);
        assert!(code == 2 && stderr.contains("cannot create the trace"), "{stderr}");
        assert!(stderr.contains(path.to_str().unwrap()), "{stderr}");
        // Before anything is made, too.
        let (code, _) = refused(dir.path(), &["--model-size", "1MiB", "--trace", path.to_str().unwrap()]);
        assert_eq!((code, dir.path().join("swap-tensor").exists()), (2, false));
    }
}

#[test]
fn the_model_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let before = fs::read(&model).unwrap();
    let path = model.to_str().unwrap();
    let (code, stderr) = refused(dir.path(), &[path, "--trace", path]);
    assert!(code == 2 && stderr.contains("the model itself"), "{stderr}");
    assert_eq!(fs::read(&model).unwrap(), before);
}

#[test]
fn a_run_that_is_refused_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (model, trace) = (model(dir.path()), dir.path().join("t.json"));
    let args = [model.to_str().unwrap(), "--trace", trace.to_str().unwrap(), "--device-memory", "100"];
    assert_eq!(refused(dir.path(), &args).0, 2);
    assert!(!trace.exists());
}

#[test]
fn times_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    for wrong in ["-1", "much", "nan", "1e9"] {
        let (code, stderr) = refused(dir.path(), &["--compute-ms", wrong]);
        assert!(code == 2 && stderr.contains("--compute-ms"), "{stderr}");
    }
}
