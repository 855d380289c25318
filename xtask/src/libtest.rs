//! Understands what `cargo test` prints, line by line.

use std::collections::BTreeMap;

/// The end of one test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Ignored,
}

/// Numbers of tests by verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
}

/// One test program: a unit, integration or doc test.
#[derive(Debug, Default)]
pub(crate) struct Suite {
    /// The crate it belongs to, as cargo names its unit tests: `backend_cpu`.
    pub(crate) owner: String,
    /// `src/lib.rs` for unit tests, `tests/conformance.rs`, `doc`.
    pub(crate) program: String,
    /// Its own account of how long the tests took, in seconds.
    pub(crate) seconds: f64,
    /// Every test with a verdict, by name.
    pub(crate) tests: Vec<(String, Verdict)>,
    /// From the summary lines; a program that died counts as one failure more.
    pub(crate) counts: Counts,
    /// What it printed, to be shown if it fails.
    pub(crate) output: Vec<String>,
    running: bool,
}

/// Collects the programs of one `cargo test`.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    /// The package of each program of another name, both as cargo names files.
    programs: BTreeMap<String, String>,
    suites: Vec<Suite>,
}

impl Listener {
    /// Knows that each program, by its name, belongs to a package.
    pub(crate) fn new(programs: impl IntoIterator<Item = (String, String)>) -> Listener {
        let file = |name: String| name.replace('-', "_");
        let programs = programs.into_iter().map(|(program, package)| (file(program), file(package)));
        Listener { programs: programs.collect(), suites: Vec::new() }
    }

    /// Takes a line. `None`: it belongs to a test program. `Some`: it is cargo's own, worth showing at once.
    pub(crate) fn line<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        if let Some((owner, program)) = header(line) {
            self.close();
            // An integration test's line does not say whose it is; cargo runs it after its crate's unit tests.
            let before = || self.suites.last().map(|suite| suite.owner.clone()).unwrap_or_default();
            let mut owner = owner.unwrap_or_else(before);
            // A program is named after itself, and may be called as another package's library is.
            if let Some(package) = self.programs.get(&owner).filter(|_| is_program(&program)) {
                owner.clone_from(package);
            }
            self.suites.push(Suite { owner, program, ..Suite::default() });
            return None;
        }
        let Some(suite) = self.suites.last_mut() else { return Some(line) };
        suite.output.push(line.to_owned());
        if starts_run(line) {
            suite.running = true;
        } else if let Some(found) = summary(line) {
            suite.running = false;
            suite.counts.passed += found.passed;
            suite.counts.failed += found.failed;
            suite.counts.ignored += found.ignored;
            suite.seconds += seconds(line);
        } else if let Some(test) = verdict(line) {
            suite.tests.push(test);
        }
        None
    }

    /// Everything heard. `succeeded` is cargo's own word, which also knows of what never started.
    pub(crate) fn finish(mut self, succeeded: bool) -> Vec<Suite> {
        self.close();
        let silent = self.suites.iter().all(|suite| suite.counts.failed == 0);
        if !succeeded && silent {
            let counts = Counts { failed: 1, ..Counts::default() };
            // A program that dies before its first line, or a doc test build, leaves its trace in the last output.
            let output = self.suites.last().map(|suite| suite.output.clone()).unwrap_or_default();
            let program = if self.suites.is_empty() { "the build" } else { "cargo test" };
            self.suites.push(Suite { program: program.into(), counts, output, ..Suite::default() });
        }
        self.suites
    }

    /// A program that announced tests and gave no summary has died.
    fn close(&mut self) {
        let Some(suite) = self.suites.last_mut().filter(|suite| suite.running) else { return };
        suite.running = false;
        suite.counts.failed += 1;
        for (_, verdict) in &suite.tests {
            match verdict {
                Verdict::Passed => suite.counts.passed += 1,
                Verdict::Failed => suite.counts.failed += 1,
                Verdict::Ignored => suite.counts.ignored += 1,
            }
        }
        suite.output.push("the test program ended without a summary".to_owned());
    }
}

/// Owner, where it is said, and program: `     Running tests/conformance.rs (target/debug/deps/conformance-0123)`.
fn header(line: &str) -> Option<(Option<String>, String)> {
    let line = line.trim_start();
    if let Some(owner) = line.strip_prefix("Doc-tests ") {
        return Some((Some(owner.to_owned()), "doc".to_owned()));
    }
    let (what, program) = line.strip_prefix("Running ")?.strip_suffix(')')?.split_once(" (")?;
    let Some(what) = what.strip_prefix("unittests ") else { return Some((None, what.to_owned())) };
    let file = program.rsplit(['/', '\\']).next().unwrap_or(program);
    let owner = file.rsplit_once('-').map_or(file, |(name, _)| name);
    Some((Some(owner.to_owned()), what.to_owned()))
}

fn is_program(source: &str) -> bool {
    source == "src/main.rs" || source.starts_with("src/bin/")
}

fn starts_run(line: &str) -> bool {
    line.strip_prefix("running ").is_some_and(|rest| rest.ends_with(" tests") || rest.ends_with(" test"))
}

fn verdict(line: &str) -> Option<(String, Verdict)> {
    let (name, word) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let verdict = match word.split([',', ' ']).next()? {
        "ok" => Verdict::Passed,
        "FAILED" => Verdict::Failed,
        "ignored" => Verdict::Ignored,
        _ => return None,
    };
    Some((name.trim_end_matches(" - should panic").to_owned(), verdict))
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn summary(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut counts = Counts::default();
    for part in rest.split("; ") {
        let (number, word) = part.split_once(' ')?;
        match word {
            "passed" => counts.passed = number.parse().ok()?,
            "failed" => counts.failed = number.parse().ok()?,
            "ignored" => counts.ignored = number.parse().ok()?,
            _ => {}
        }
    }
    Some(counts)
}

fn seconds(summary: &str) -> f64 {
    let text = summary.split_once("finished in ").map_or("", |(_, text)| text.trim_end_matches('s'));
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str, succeeded: bool) -> Vec<Suite> {
        let mut listener = Listener::default();
        for line in text.lines() {
            listener.line(line);
        }
        listener.finish(succeeded)
    }

    #[test]
    fn programs_tests_and_counts_are_read() {
        let suites = listen(
            "    Finished `test` profile\n     Running unittests src/lib.rs (target/debug/deps/backend_cpu-1f)\n\n\
             running 2 tests\ntest a::b ... ok\ntest a::c - should panic ... ok\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n\
             \x20    Running tests/conformance.rs (target/debug/deps/conformance-2e)\n\nrunning 2 tests\n\
             test cpu::transfer::round_trip ... FAILED\ntest sim::transfer::x ... ignored, no driver\n\nfailures:\n\n\
             test result: FAILED. 0 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             \x20  Doc-tests allocator_core\n\nrunning 1 test\ntest crates/a/src/lib.rs - A (line 3) ... ok\n\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\n\
             running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
            false,
        );
        let programs: Vec<String> =
            suites.iter().map(|suite| format!("{} {}", suite.owner, suite.program)).collect();
        assert_eq!(
            programs,
            ["backend_cpu src/lib.rs", "backend_cpu tests/conformance.rs", "allocator_core doc"]
        );
        assert!((suites[2].seconds - 0.1).abs() < 1e-9);
        assert_eq!(suites[0].tests[1], ("a::c".to_owned(), Verdict::Passed));
        assert_eq!(suites[1].tests[0], ("cpu::transfer::round_trip".to_owned(), Verdict::Failed));
        assert_eq!(suites[1].counts, Counts { passed: 0, failed: 1, ignored: 1 });
        assert_eq!(suites[2].counts.passed, 1);
    }

    #[test]
    fn a_program_belongs_to_its_package() {
        let mut listener = Listener::new([("swap-tensor".to_owned(), "swap-tensor-cli".to_owned())]);
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/swap_tensor-1f)",
            "     Running unittests src/main.rs (target/debug/deps/swap_tensor-2e)",
            "     Running tests/cli.rs (target/debug/deps/cli-3d)",
        ] {
            listener.line(line);
        }
        let owners: Vec<String> = listener.finish(true).into_iter().map(|suite| suite.owner).collect();
        assert_eq!(owners, ["swap_tensor", "swap_tensor_cli", "swap_tensor_cli"]);
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let suites = listen("     Running tests/soak.rs (t/soak-1)\nrunning 2 tests\ntest a ... ok\n", false);
        assert_eq!(suites.len(), 1);
        assert_eq!(suites[0].counts, Counts { passed: 1, failed: 1, ignored: 0 });
    }

    #[test]
    fn a_build_that_fails_is_a_failure() {
        let mut listener = Listener::default();
        assert_eq!(listener.line("error[E0308]: mismatched types"), Some("error[E0308]: mismatched types"));
        let suites = listener.finish(false);
        assert_eq!((suites[0].program.as_str(), suites[0].counts.failed), ("the build", 1));
    }
}
