//! The built command, run as a user runs it: models nobody here wrote, wrong input, and readers that leave early.

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
use tempfile::TempDir;

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swap-tensor"));
    command.env("XDG_CACHE_HOME", dir).stdin(Stdio::null());
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir).args(args).output().unwrap()
}

/// Runs a model that must pass every check, and returns the JSON object.
fn passes(model: &Path, args: &[&str]) -> Value {
    let dir = model.parent().unwrap();
    let output = run(dir, &[&["run", model.to_str().unwrap(), "--json"], args].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report["mismatches"], 0);
    report
}

/// Runs something that must be refused: the exit code, and the one line that says why.
fn refused(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = run(dir, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(output.stdout.is_empty());
    (output.status.code().unwrap(), stderr)
}

fn write(dir: &TempDir, tensors: Vec<(String, Dtype, Vec<usize>)>) -> PathBuf {
    let bytes = |dtype: &Dtype, shape: &[usize]| shape.iter().product::<usize>() * dtype.bitsize() / 8;
    let most = tensors.iter().map(|(_, dtype, shape)| bytes(dtype, shape)).max().unwrap_or(0);
    let data: Vec<u8> = (0..most + tensors.len()).map(|i| (i * i / 3 + i) as u8).collect();
    let views = tensors.iter().enumerate().map(|(i, (name, dtype, shape))| {
        let data = &data[i..i + bytes(dtype, shape)];
        (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let path = dir.path().join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    path
}

fn floats(dir: &TempDir, count: usize, each: usize) -> PathBuf {
    write(dir, (0..count).map(|i| (format!("t{i}"), Dtype::F32, vec![each])).collect())
}

#[test]
fn every_dtype_scalars_empty_tensors_and_odd_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let dtypes = [
        Dtype::BOOL,
        Dtype::F4,
        Dtype::F6_E2M3,
        Dtype::F6_E3M2,
        Dtype::U8,
        Dtype::I8,
        Dtype::F8_E5M2,
        Dtype::F8_E4M3,
        Dtype::F8_E8M0,
        Dtype::F8_E4M3FNUZ,
        Dtype::F8_E5M2FNUZ,
        Dtype::I16,
        Dtype::U16,
        Dtype::F16,
        Dtype::BF16,
        Dtype::I32,
        Dtype::U32,
        Dtype::F32,
        Dtype::C64,
        Dtype::F64,
        Dtype::I64,
        Dtype::U64,
    ];
    let mut tensors = Vec::new();
    for dtype in dtypes {
        // Elements smaller than a byte come in numbers that fill bytes.
        let unit = if dtype.bitsize() < 8 { 4 } else { 1 };
        let scalar = if unit == 1 { vec![] } else { vec![unit] };
        for shape in [scalar, vec![0], vec![3, 0, 2], vec![unit * 7], vec![5, unit * 13], vec![1021, unit]] {
            tensors.push((format!("{dtype:?}.{}", tensors.len()), dtype, shape));
        }
    }
    let count = tensors.len();
    let model = write(&dir, tensors);
    let bytes = passes(&model, &[])["model_bytes"].as_u64().unwrap();
    let largest = 1021 * 8;
    let arena = (bytes / 10).max(largest).to_string();
    let report = passes(&model, &["--device-memory", &arena]);
    assert_eq!(report["tensors"], count);
    assert_eq!(report["leases"], 5 * count);
    assert!(report["downloaded_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn twenty_thousand_tiny_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let model = write(&dir, (0..20_000).map(|i| (format!("t{i}"), Dtype::U8, vec![i % 14])).collect());
    let arena = (fs::metadata(&model).unwrap().len() / 100).to_string();
    let report = passes(&model, &["--device-memory", &arena, "--passes", "1"]);
    assert_eq!(report["tensors"], 20_000);
}

#[test]
fn one_tensor_as_large_as_the_arena() {
    let dir = tempfile::tempdir().unwrap();
    let model = write(
        &dir,
        vec![
            ("big".into(), Dtype::F32, vec![50_001]),
            ("small".into(), Dtype::F16, vec![77]),
            ("big2".into(), Dtype::F32, vec![50_001]),
        ],
    );
    for prefetch in ["0", "1", "9"] {
        let report = passes(&model, &["--device-memory", "200004", "--prefetch", prefetch]);
        assert!(report["evictions"].as_u64().unwrap() > 0);
        assert_eq!(report["device_bytes"], 200_004);
    }
}

#[test]
fn a_model_that_fits_stays() {
    let dir = tempfile::tempdir().unwrap();
    let report = passes(&floats(&dir, 10, 1000), &["--device-memory", "1MiB", "--passes", "3"]);
    assert_eq!(report["uploaded_bytes"], 40_000);
    assert_eq!(report["downloaded_bytes"], 0);
    assert_eq!(report["evictions"], 0);
    assert_eq!(report["leases"], 70);
    assert!(report["hits"].as_u64().unwrap() >= 60);
}

/// Device and host memory hold less than the model; the rest is on disk, whoever leaves first.
#[cfg(unix)]
#[test]
fn a_disk_holds_what_host_memory_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let model = floats(&dir, 12, 40_000);
    let disk = dir.path().to_str().unwrap();
    let tiers = ["--device-memory", "640KiB", "--host-memory", "320KiB", "--disk", disk];
    for order in [&["--policy", "lru"][..], &["--policy", "frequency"], &["--schedule", "--passes", "5"]] {
        let report = passes(&model, &[&tiers, order].concat());
        assert!(report["disk_written_bytes"].as_u64().unwrap() > 160_000, "{report}");
        assert!(report["disk_read_bytes"].as_u64().unwrap() > 160_000, "{report}");
        let path = report["disk"].as_str().unwrap();
        assert!(path.contains("io_uring") || path.contains("threads"), "{path}");
    }
    assert!(passes(&model, &["--schedule"])["disk"].is_null());
    let refused = run(dir.path(), &["run", "--disk", "/nowhere/at/all"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("/nowhere/at/all"));
}

#[test]
fn an_empty_model() {
    let dir = tempfile::tempdir().unwrap();
    let report = passes(&write(&dir, vec![]), &[]);
    assert_eq!((&report["tensors"], &report["leases"]), (&Value::from(0), &Value::from(0)));
    let output = run(dir.path(), &["run", dir.path().join("model.safetensors").to_str().unwrap()]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("nothing was transferred") && !stdout.contains('%'), "{stdout}");
}

#[test]
fn the_report_has_the_documented_fields() {
    let dir = tempfile::tempdir().unwrap();
    let model = floats(&dir, 8, 5000);
    let output = run(dir.path(), &["run", model.to_str().unwrap(), "--json", "--device-memory", "64KiB"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let fields = "model tensors model_bytes backend device_bytes passes compute_ms peak_device_bytes \
                  peak_pinned_bytes uploaded_bytes downloaded_bytes moved_bytes leases hits evictions policy \
                  schedule disk disk_written_bytes disk_read_bytes mismatches \
                  seconds stall_seconds stall fill_ms_per_lease write_back_ms_per_lease transfer_gb_per_s \
                  memcpy_gb_per_s transfer_to_memcpy";
    let mut last = 0;
    for field in fields.split_whitespace() {
        let at = stdout.find(&format!("\"{field}\":")).unwrap_or_else(|| panic!("{field} in {stdout}"));
        assert!(at > last, "{field} in its place");
        last = at;
    }
    let report: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report.as_object().unwrap().len(), fields.split_whitespace().count());
    assert_eq!(report["model_bytes"], 160_000);
    assert_eq!(report["device_bytes"], 65536);
    assert!(report["peak_device_bytes"].as_u64().unwrap() >= 65536);
    let number = |field: &str| report[field].as_f64().unwrap();
    assert!(number("transfer_gb_per_s") > 0.0);
    assert!(number("fill_ms_per_lease") > 0.0 && number("write_back_ms_per_lease") > 0.0);
    assert!((number("stall") - number("stall_seconds") / number("seconds")).abs() < 1e-9);
    assert_eq!(number("compute_ms"), 0.0);
}

#[test]
fn without_json_people_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = floats(&dir, 8, 5000);
    let output = run(dir.path(), &["run", model.to_str().unwrap()]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("mismatches  0"), "{stdout}");
    assert!(stdout.contains(" pinned at the peak, ") && stdout.contains(" pageable"), "{stdout}");
    assert!(stdout.contains(" %) of it waiting in leases"), "{stdout}");
    assert!(
        stdout.contains(" ms of fill, ") && stdout.contains(" ms of write-back, 0 ms of work"),
        "{stdout}"
    );
    assert!(output.stderr.is_empty(), "no progress bar in a pipe");
}

#[test]
fn wrong_files() {
    let dir = tempfile::tempdir().unwrap();
    let model = floats(&dir, 3, 100);
    let good = fs::read(&model).unwrap();
    let path = model.to_str().unwrap();
    let refuses = |bytes: &[u8], word: &str| {
        fs::write(&model, bytes).unwrap();
        let (code, stderr) = refused(dir.path(), &["run", path]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(path) && stderr.contains(word), "{stderr}");
    };
    refuses(&[], "too few");
    refuses(&good[..5], "too few");
    refuses(&good[..40], "header");
    refuses(&good[..good.len() - 1], "1200 bytes");
    refuses(&[&good[..], b"more"].concat(), "1200 bytes");
    refuses(&[&[0xFF; 8], &good[8..]].concat(), "header");
    let text = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len(), "the header keeps its length");
        let at = good.windows(from.len()).position(|bytes| bytes == from.as_bytes()).unwrap();
        [&good[..at], to.as_bytes(), &good[at + to.len()..]].concat()
    };
    refuses(&text("F32", "F31"), "F31");
    refuses(&text("[100]", "[900]"), "header");
    refuses(&text("[0,400]", "[8,400]"), "header");
    refuses(&text("\"shape\"", "\"shale\""), "header");

    let nowhere = dir.path().join("nowhere.safetensors");
    let (code, stderr) = refused(dir.path(), &["run", nowhere.to_str().unwrap()]);
    assert!(code == 2 && stderr.contains("nowhere.safetensors"), "{stderr}");
    let (code, stderr) = refused(dir.path(), &["run", dir.path().to_str().unwrap()]);
    assert!(code == 2 && stderr.contains("regular file"), "{stderr}");
}

#[test]
fn wrong_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let model = floats(&dir, 3, 100);
    let path = model.to_str().unwrap();
    let (code, stderr) = refused(dir.path(), &["run", path, "--device-memory", "399"]);
    assert!(code == 2 && stderr.contains("400") && stderr.contains("t"), "{stderr}");
    for size in ["0", "-1", "18446744073709551615"] {
        let (code, stderr) = refused(dir.path(), &["run", path, "--device-memory", size]);
        assert!(code == 2 && stderr.contains("--device-memory"), "{stderr}");
        assert!(stderr.contains("not a usable size"), "{stderr}");
    }
    for option in ["--device-memory", "--host-memory"] {
        for size in ["8000T", "9223372036854775807", "18446744073709551615"] {
            let (code, stderr) = refused(dir.path(), &["run", path, option, size]);
            assert!(code == 2 && stderr.contains(option), "{stderr}");
        }
    }
    let (code, stderr) = refused(dir.path(), &["run", path, "--backend", "abacus"]);
    assert!(code == 2 && stderr.contains("abacus") && stderr.contains("cpu"), "{stderr}");
    for args in
        [&["run", path, "--device-memory", "much"][..], &["run", path, "--passes", "0"], &["walk"], &[]]
    {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
}

#[test]
fn what_names_and_arguments_hold_stays_on_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let model = write(&dir, vec![("t\n\x1b[31m".into(), Dtype::F32, vec![100])]);
    let odd = dir.path().join("two\nlines\x1b.safetensors");
    let says = |args: &[&str], text: &str| {
        let (code, stderr) = refused(dir.path(), args);
        assert!(code == 2 && stderr.contains(text), "{stderr}");
        assert!(!stderr.trim_end_matches('\n').contains(char::is_control), "{stderr:?}");
    };
    says(&["run", model.to_str().unwrap(), "--device-memory", "399"], "t\\n\\u{1b}[31m");
    says(&["run", odd.to_str().unwrap()], "two\\nlines\\u{1b}");
    fs::write(&odd, "too short for a header").unwrap();
    says(&["run", odd.to_str().unwrap()], "two\\nlines\\u{1b}");
    says(&["run", "--backend", "x\ny"], "x\\ny");
    says(&["run", "--passes", "x\n\ny\x1b"], "x\\n\\ny\\u{1b}");
    says(&["walk\r\nrun"], "walk\\r\\nrun");
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_model_and_nobody_waits_for_its_writer() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [&*pipe, Path::new("/dev/zero")] {
        let (code, stderr) = refused(dir.path(), &["run", path.to_str().unwrap()]);
        assert!(code == 2 && stderr.contains("regular file"), "{stderr}");
    }
}

#[test]
fn a_host_budget_too_small_for_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let model = floats(&dir, 50, 1000);
    let args = ["run", model.to_str().unwrap(), "--device-memory", "8000", "--host-memory", "8000"];
    let (code, stderr) = refused(dir.path(), &args);
    assert!(code == 2 && stderr.contains("give at least --host-memory 201600"), "{stderr}");
    passes(&model, &["--device-memory", "8000", "--host-memory", "201600"]);
}

#[test]
fn no_place_for_the_generated_model() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        command(dir.path()).args(["run"]).env_remove("XDG_CACHE_HOME").env_remove("HOME").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("XDG_CACHE_HOME") && stderr.lines().count() == 1, "{stderr}");

    let file = dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let (code, stderr) = refused(&file, &["run"]);
    assert!(code == 2 && stderr.contains("cache directory"), "{stderr}");
}

#[test]
fn a_generated_model_is_as_large_as_asked_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["run", "--model-size", "2MiB", "--device-memory", "768KiB", "--passes", "1", "--json"];
    let report = || {
        let output = run(dir.path(), &args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
        serde_json::from_slice::<Value>(output.stdout.trim_ascii()).unwrap()
    };
    let first = report();
    assert_eq!(first["mismatches"], 0);
    assert!((2 << 20..3 << 20).contains(&first["model_bytes"].as_u64().unwrap()), "{first}");
    assert!(first["evictions"].as_u64() > Some(0));
    let path = PathBuf::from(first["model"].as_str().unwrap());
    assert!(path.ends_with("gpt2-like-2097152-f16.safetensors"), "{path:?}");
    let written = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(report()["model"], first["model"]);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);

    let (code, stderr) = refused(dir.path(), &["run", path.to_str().unwrap(), "--model-size", "2MiB"]);
    assert!(code == 2 && stderr.contains("--model-size"), "{stderr}");
    for size in ["0", "-1", "18446744073709551615"] {
        let (code, stderr) = refused(dir.path(), &["run", "--model-size", size]);
        assert!(code == 2 && stderr.contains("not a usable size"), "{stderr}");
    }
    let (code, stderr) = refused(dir.path(), &["run", "--model-size", "8000T"]);
    assert!(code == 2 && stderr.contains("are needed"), "{stderr}");
    let (code, stderr) = refused(dir.path(), &["run", "--model-size", "2MiB", "--device-memory", "1000"]);
    assert!(code == 2 && stderr.contains("give at least --device-memory"), "{stderr}");
}

/// The file is cut while the command works with it: whatever stage it is in must say so.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let model = floats(&dir, 16, 1 << 20);
    let mut child = command(dir.path())
        .args(["run", model.to_str().unwrap(), "--device-memory", "8MiB", "--passes", "200"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let fds = format!("/proc/{}/fd", child.id());
    let opened = || {
        fs::read_dir(&fds).unwrap().flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == model))
    };
    while !opened() {
        assert!(child.try_wait().unwrap().is_none(), "ended before it opened the model");
        std::thread::yield_now();
    }
    fs::OpenOptions::new().write(true).open(&model).unwrap().set_len(5_000_000).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{stderr}");
    assert!(stderr.lines().count() == 1 && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let model = floats(&dir, 4, 100);
    let path = model.to_str().unwrap();
    for args in [&["info"][..], &["info", "--json"], &["--help"], &["run", path], &["run", path, "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(dir.path()).args(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let output = command(dir.path()).arg("info").stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn info_names_the_backends_and_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["info", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cpu = info["backends"].as_array().unwrap().iter().find(|backend| backend["name"] == "cpu").unwrap();
    assert_eq!((&cpu["compiled"], &cpu["usable"]), (&Value::from(true), &Value::from(true)));
    assert!(info["host"]["page_bytes"].as_u64().unwrap() >= 4096);
    assert!(info["lock_limit"].is_object() && info["host"]["kernel"]["release"].is_string());
    let people = String::from_utf8(run(dir.path(), &["info"]).stdout).unwrap();
    assert!(people.contains("cpu") && people.contains("lock limit"), "{people}");
}
