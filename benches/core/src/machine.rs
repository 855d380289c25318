//! Where and when a run was made.

use std::fs;
use std::process::Command;

/// Lines for the head of a report: machine, tools, commit, date.
pub(crate) fn lines() -> Vec<String> {
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory =
        field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let memory = memory.map_or("unknown".to_owned(), |kib| format!("{:.0} GiB", kib / f64::from(1 << 20)));
    let kernel = said("uname", &["-sr"]);
    // The version, without what a distributor appends.
    let kernel = kernel.split('-').next().unwrap_or_default();
    let rustc = said("rustc", &["--version"]);
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"]);
    let changed = if changed.is_empty() { "" } else { ", with changes that are not committed" };
    vec![
        format!("Machine: {cpu}, {cores} of its threads to run on, {memory} of memory, {kernel}."),
        format!("Compiler: {rustc}, cargo's release profile{}.", peers()),
        format!(
            "Commit: {}{changed}. Date: {}.",
            said("git", &["rev-parse", "HEAD"]),
            said("date", &["-u", "+%F"])
        ),
    ]
}

/// The system's load averages over 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let loads: Vec<&str> = text.split(' ').take(3).collect();
    if loads.is_empty() || text.is_empty() { "unknown".to_owned() } else { loads.join(" ") }
}

fn peers() -> &'static str {
    if cfg!(feature = "vma") { "" } else { "; without VMA, for lack of a C++ compiler" }
}

/// What follows the first line that begins with `name`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What a program printed; nothing when it is not there.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
