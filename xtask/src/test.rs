//! `cargo xtask test`: every conformance suite on every backend present, as a table, and all other tests.

use crate::artifacts::Artifacts;
use crate::backends::{self, BACKENDS, Backend};
use crate::libtest::{Counts, Listener, Suite, Verdict};
use crate::process;
use crate::workspace;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Backends whose absence is a failure.
    pub(crate) require: Vec<&'static str>,
    pub(crate) release: bool,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Options, String> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match (arg.as_str(), arg.strip_prefix("--require=")) {
                ("--release", _) => options.release = true,
                ("--require", _) => {
                    options.require(args.next().ok_or("--require needs a list of backends")?)?
                }
                (_, Some(list)) => options.require(list)?,
                _ => return Err(format!("test: unknown argument `{arg}`")),
            }
        }
        Ok(options)
    }

    fn require(&mut self, list: &str) -> Result<(), String> {
        for name in list.split(',').filter(|name| !name.is_empty()) {
            let known = || BACKENDS.iter().map(|backend| backend.name).collect::<Vec<_>>().join(", ");
            let backend =
                backends::named(name).ok_or_else(|| format!("no backend `{name}`; known: {}", known()))?;
            self.require.push(backend.name);
        }
        Ok(())
    }
}

/// Runs the tests and prints the table; whether all is well.
pub(crate) fn run(options: &Options) -> bool {
    let (present, absent): (Vec<_>, Vec<_>) =
        BACKENDS.iter().map(|backend| (backend, (backend.absent)())).partition(|(_, why)| why.is_none());
    let present: Vec<&Backend> = present.into_iter().map(|(backend, _)| backend).collect();

    let started = Instant::now();
    let Some(suites) = cargo_test(options, &present) else { return false };

    let mut failed = Vec::new();
    print!("\n{}", table(&present, &suites));
    for (backend, why) in &absent {
        let why = why.as_deref().unwrap_or_default();
        println!("skipped: backend {} ({why}); to have it: {}", backend.name, backend.install);
        if options.require.contains(&backend.name) {
            failed.push(format!("backend {} is required and absent: {why}", backend.name));
        }
    }
    for backend in present.iter().filter(|_| suites.iter().any(|suite| !suite.tests.is_empty())) {
        // A suite that nobody calls would otherwise look like a suite that holds.
        if promises(backend, &suites).next().is_none() {
            failed.push(format!("no conformance test of backend {} ran", backend.name));
        }
    }
    for why in &failed {
        println!("FAILED: {why}");
    }
    let mut total = Counts { failed: failed.len(), ..Counts::default() };
    for suite in &suites {
        total.passed += suite.counts.passed;
        total.failed += suite.counts.failed;
        total.ignored += suite.counts.ignored;
    }
    let tests = total.passed + total.failed + total.ignored;
    println!("{tests} tests in {} programs, {:.1} s", suites.len(), started.elapsed().as_secs_f64());
    println!("{}", last_line(total));
    total.failed == 0
}

/// Builds what a run of all tests builds, and says which program this example is.
pub(crate) fn example(source: &str) -> Result<PathBuf, String> {
    let present: Vec<&Backend> = BACKENDS.iter().filter(|backend| (backend.absent)().is_none()).collect();
    let mut args = arguments(&Options::default(), &present);
    args.push("--no-run".into());
    Artifacts::build(&args)?.program(source)
}

/// What cargo is given to run, or build, every test.
fn arguments(options: &Options, present: &[&Backend]) -> Vec<String> {
    let mut args = vec!["test".to_owned(), "--workspace".into(), "--no-fail-fast".into()];
    args.extend(options.release.then(|| "--release".into()));
    // The swap story is told by the crate above the backends, with a backend as its harness.
    args.extend([
        "--features".into(),
        "swap-tensor/conformance,swap-tensor/disk,swap-tensor/track,swap-tensor/metrics,swap-tensor/tracing"
            .into(),
    ]);
    for backend in present {
        for feature in backend.features {
            args.extend(["--features".into(), (*feature).to_owned()]);
        }
    }
    args
}

fn cargo_test(options: &Options, present: &[&Backend]) -> Option<Vec<Suite>> {
    let args = arguments(options, present);
    let mut command = process::cargo(&args);
    command.env("CARGO_TERM_COLOR", "never");
    println!("$ {}", process::line(&command));
    let packages = workspace::packages().unwrap_or_else(|why| {
        eprintln!("xtask: cannot read the manifests, programs go by their own names: {why}");
        Vec::new()
    });
    let programs = packages
        .iter()
        .flat_map(|package| package.bins.iter().map(|program| (program.clone(), package.name.clone())));
    let mut listener = Listener::new(programs);
    let ran = process::lines(&mut command, |line| {
        if let Some(cargos) = listener.line(line) {
            println!("{cargos}");
        }
    });
    let suites = match ran {
        Ok(succeeded) => listener.finish(succeeded),
        Err(why) => {
            eprintln!("xtask: cannot run cargo: {why}");
            return None;
        }
    };
    for suite in &suites {
        let Counts { passed, failed, .. } = suite.counts;
        if failed > 0 {
            println!("\n---- FAILED: {} {} ----\n{}\n", suite.owner, suite.program, suite.output.join("\n"));
        } else if passed > 0 {
            println!("{passed:>6} passed in {:>6.2} s  {} {}", suite.seconds, suite.owner, suite.program);
        }
    }
    Some(suites)
}

/// Suites down, backends across; each cell `passed`, or `passed/all` where they differ.
fn table(present: &[&Backend], suites: &[Suite]) -> String {
    let mut rows: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for (column, backend) in present.iter().enumerate() {
        for (suite, verdict) in promises(backend, suites) {
            let cell = &mut rows.entry(suite).or_insert_with(|| vec![(0, 0); present.len()])[column];
            cell.0 += usize::from(verdict == Verdict::Passed);
            cell.1 += 1;
        }
    }
    let first = rows.keys().map(|suite| suite.len()).chain(["conformance".len()]).max().unwrap_or_default();
    let mut text = format!("{:first$}", "conformance");
    for backend in present {
        text += &format!("  {:>10}", backend.name);
    }
    text += "\n";
    for (suite, cells) in rows {
        text += &format!("{suite:first$}");
        for (passed, all) in cells {
            let cell = match (passed, all) {
                (_, 0) => "-".to_owned(),
                (passed, all) if passed == all => passed.to_string(),
                _ => format!("{passed}/{all}"),
            };
            text += &format!("  {cell:>10}");
        }
        text += "\n";
    }
    text
}

/// Conformance suite and verdict of each of a backend's tests called `<backend>::<suite>::<promise>`.
fn promises<'a>(backend: &Backend, suites: &'a [Suite]) -> impl Iterator<Item = (&'a str, Verdict)> {
    // Other programs may have a module of the backend's name.
    let programs = suites.iter().filter(|suite| suite.program.ends_with(CONFORMANCE));
    let name = backend.name.replace('-', "_");
    programs.flat_map(|program| &program.tests).filter_map(move |(test, verdict)| {
        let (suite, _promise) = test.strip_prefix(name.as_str())?.strip_prefix("::")?.split_once("::")?;
        Some((suite, *verdict))
    })
}

fn last_line(total: Counts) -> String {
    let mut line = format!("{} passed, {} failed", total.passed, total.failed);
    if total.ignored > 0 {
        line += &format!(", {} skipped", total.ignored);
    }
    line
}

/// How the names of integration tests end, in the backends' crates and in those above, that hold conformance tests.
const CONFORMANCE: &str = "conformance.rs";

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments() {
        let both = Options { require: vec!["cpu", "sim"], release: true };
        assert_eq!(Options::parse(&args("--require cpu,sim --release")), Ok(both));
        assert_eq!(Options::parse(&args("--require=sim")).unwrap().require, ["sim"]);
        assert!(Options::parse(&args("--require")).is_err());
        assert!(Options::parse(&args("--require abacus")).unwrap_err().contains("known: cpu"));
        assert!(Options::parse(&args("--fast")).is_err());
    }

    #[test]
    fn the_table_counts_promises_per_backend() {
        let test = |name: &str, verdict| (name.to_owned(), verdict);
        let tests = vec![
            test("cpu::transfer::round_trip", Verdict::Passed),
            test("cpu::transfer::dropped", Verdict::Failed),
            test("sim::transfer::round_trip", Verdict::Passed),
            test("cpu::queue::order", Verdict::Passed),
            test("cpu::alone", Verdict::Passed),
        ];
        let mut suite = Suite::default();
        suite.owner = "backend_cpu".to_owned();
        suite.program = "tests/conformance.rs".to_owned();
        suite.tests = tests;
        let mut unit = Suite::default();
        unit.owner = "backend_cpu".to_owned();
        unit.tests = vec![test("sim::clock::tests::ticks", Verdict::Passed)];
        let present: Vec<&Backend> =
            BACKENDS.iter().filter(|backend| ["cpu", "sim"].contains(&backend.name)).collect();
        let table = table(&present, &[suite, unit]);
        let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            cells,
            [vec!["conformance", "cpu", "sim"], vec!["queue", "1", "-"], vec!["transfer", "1/2", "1"]]
        );
    }

    #[test]
    fn the_last_line_stands_alone() {
        assert_eq!(last_line(Counts { passed: 3, failed: 0, ignored: 0 }), "3 passed, 0 failed");
        assert_eq!(last_line(Counts { passed: 3, failed: 1, ignored: 2 }), "3 passed, 1 failed, 2 skipped");
    }
}
