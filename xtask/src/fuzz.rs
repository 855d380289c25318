//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, through cargo-fuzz.

use crate::process::{self, cargo, quietly};

/// The targets' workspace.
pub(crate) const MANIFEST: &str = "fuzz/Cargo.toml";

/// Each mutates what one public state machine is fed with.
const TARGETS: [&str; 3] = ["allocator", "arena", "plan"];

/// Which targets, and how long each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    targets: Vec<&'static str>,
    seconds: u64,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Options, String> {
        let mut options = Options { targets: Vec::new(), seconds: 600 };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--seconds" {
                let value = args.next().ok_or("--seconds needs a number")?;
                // libFuzzer takes 0 for "without end".
                let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
                options.seconds =
                    seconds.ok_or_else(|| format!("--seconds: `{value}` is no number above 0"))?;
                continue;
            }
            let target = TARGETS.into_iter().find(|target| target == arg);
            let known = || format!("fuzz: no target `{arg}`; there are {}", TARGETS.join(", "));
            options.targets.push(target.ok_or_else(known)?);
        }
        if options.targets.is_empty() {
            options.targets = TARGETS.to_vec();
        }
        Ok(options)
    }
}

/// Runs the targets, each to its end even if one before it found something; whether none did.
pub(crate) fn run(options: &Options) -> bool {
    if !quietly(&mut cargo(&["fuzz", "--version"])) {
        println!(
            "NOTHING WAS FUZZED: cargo-fuzz is not installed. To have it: cargo install cargo-fuzz --locked"
        );
        return false;
    }
    let (mut sound, mut executions) = (true, Vec::new());
    for target in &options.targets {
        let time = format!("-max_total_time={}", options.seconds);
        // The crate forbids unsafe code, so a sanitizer has nothing to find; without one a stable compiler will do.
        let run = ["fuzz", "run", "--fuzz-dir", "fuzz", "--sanitizer", "none", target, "--"];
        let mut command = cargo(&[&run[..], &[&time, "-max_len=2048", "-print_final_stats=1"]].concat());
        println!("$ {}", process::line(&command));
        let mut count = None;
        let ended = process::lines(&mut command, |line| {
            println!("{line}");
            count = executed(line).or(count);
        });
        let passed = ended.is_ok_and(|succeeded| succeeded);
        sound &= passed;
        let count = count.map_or_else(|| "an unknown number of".to_owned(), |count| count.to_string());
        executions
            .push(format!("{target:10} {}, {count} executions", if passed { "clean" } else { "FAILED" }));
    }
    println!("\n{}", executions.join("\n"));
    sound
}

/// The number in libFuzzer's line about what it executed.
fn executed(line: &str) -> Option<u64> {
    line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let parse =
            |text: &str| Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parse(""), Ok(Options { targets: TARGETS.to_vec(), seconds: 600 }));
        assert_eq!(parse("plan --seconds 60"), Ok(Options { targets: vec!["plan"], seconds: 60 }));
        for wrong in ["tree", "--seconds", "--seconds 0", "plan --seconds long"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_target_of_the_manifest_is_known() {
        let manifest = std::fs::read_to_string(crate::workspace::root().join(MANIFEST)).unwrap();
        let names: Vec<_> =
            manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")).collect();
        assert_eq!(names, TARGETS.map(|target| format!("{target}.rs\"")));
    }

    #[test]
    fn executions_are_read_from_the_statistics() {
        assert_eq!(executed("stat::number_of_executed_units: 4711"), Some(4711));
        assert_eq!(executed("#4711 DONE cov: 12"), None);
    }
}
