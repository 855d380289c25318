//! `cargo xtask ci`: what a change must pass, one named step after the other.

use crate::process::{self, cargo, passes, program, quietly};
use crate::{bundle, fuzz, readme, rules, setup, soak, test, workspace};
use std::time::{Duration, Instant};

/// Which steps to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    skip: Vec<&'static str>,
    only: Vec<&'static str>,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Options, String> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let list = match arg.as_str() {
                "--skip" => &mut options.skip,
                "--only" => &mut options.only,
                _ => return Err(format!("ci: unknown argument `{arg}`")),
            };
            for name in args.next().ok_or_else(|| format!("{arg} needs a list of steps"))?.split(',') {
                let known = || STEPS.iter().map(|step| step.name).collect::<Vec<_>>().join(", ");
                let step = STEPS.iter().find(|step| step.name == name);
                list.push(step.ok_or_else(|| format!("no step `{name}`; the steps are {}", known()))?.name);
            }
        }
        Ok(options)
    }

    fn wants(&self, step: &Step) -> bool {
        !self.skip.contains(&step.name) && (self.only.is_empty() || self.only.contains(&step.name))
    }
}

/// Runs the steps, each to its end even if one before it failed; whether all passed.
pub(crate) fn run(options: &Options) -> bool {
    let mut ended: Vec<(&str, Outcome, Duration)> = Vec::new();
    for step in STEPS.iter().filter(|step| options.wants(step)) {
        println!("\n== {}: {}", step.name, step.what);
        let started = Instant::now();
        let outcome = (step.run)();
        let took = started.elapsed();
        println!("== {}: {} after {:.1} s", step.name, outcome.word(), took.as_secs_f64());
        ended.push((step.name, outcome, took));
    }
    println!("\n== summary");
    for (name, outcome, took) in &ended {
        println!("{name:8} {:>7.1} s  {}", took.as_secs_f64(), outcome.word());
    }
    let failed = ended.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Failed)).count();
    let skipped = ended.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Skipped(_))).count();
    let all: Duration = ended.iter().map(|(_, _, took)| *took).sum();
    println!(
        "{} of {} steps passed, {failed} failed, {skipped} skipped, {:.0} s",
        ended.len() - failed - skipped,
        ended.len(),
        all.as_secs_f64()
    );
    failed == 0
}

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn() -> Outcome,
}

enum Outcome {
    Passed,
    Failed,
    /// Something this machine lacks, and why it does.
    Skipped(String),
}

impl Outcome {
    fn of(passed: bool) -> Outcome {
        if passed { Outcome::Passed } else { Outcome::Failed }
    }

    fn word(&self) -> String {
        match self {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed => "FAILED".to_owned(),
            Outcome::Skipped(why) => format!("SKIPPED: {why}"),
        }
    }
}

// In an order that finds the cheap mistakes first.
const STEPS: &[Step] = &[
    Step { name: "setup", what: "what the Vulkan tests need", run: vulkan },
    Step { name: "rules", what: "repository rules", run: || Outcome::of(rules::run()) },
    Step {
        name: "fmt",
        what: "formatting",
        run: || Outcome::of(passes(&mut cargo(&["fmt", "--all", "--check"]))),
    },
    Step { name: "clippy", what: "clippy on every feature set, warnings denied", run: clippy },
    Step { name: "docs", what: "rustdoc, warnings denied", run: docs },
    Step { name: "no-std", what: "allocator-core for a target without std", run: no_std },
    Step { name: "matrix", what: "the test matrix and doctests (the README's second command)", run: matrix },
    Step { name: "readme", what: "the README's first command", run: main_job },
    Step {
        name: "examples",
        what: "shaders on views of the arena, under the validation layer",
        run: examples,
    },
    Step {
        name: "reuse",
        what: "programs that take the allocator alone; the fuzz targets compile",
        run: reuse,
    },
    Step { name: "bundle", what: "what is sent to a GPU, on the simulated driver", run: send_off },
    Step {
        name: "loom",
        what: "the pool of pinned memory in every interleaving of a few threads",
        run: || Outcome::of(loom()),
    },
    Step { name: "soak", what: "a hundredth of each soak", run: || Outcome::of(soak::hundredths()) },
    Step {
        name: "miri",
        what: "allocator-core under miri: unit tests, the original's sequences, a short soak",
        run: miri,
    },
];

fn clippy() -> Outcome {
    let packages = match workspace::packages() {
        Ok(packages) => packages,
        Err(why) => {
            println!("cannot read the manifests: {why}");
            return Outcome::Failed;
        }
    };
    let clippy = |args: &[&str]| passes(&mut cargo(&[&["clippy"], args, &["--", "-D", "warnings"]].concat()));
    // With tests first: it warms what the rest shares.
    let mut well = clippy(&["--workspace", "--all-targets"]);
    well &= clippy(&["--workspace", "--all-targets", "--all-features"]);
    // Each by itself, with as little as it can have: beside others it has what they ask for.
    for package in &packages {
        well &= clippy(&["-p", &package.name, "--no-default-features"]);
    }
    for (feature, names) in workspace::by_feature(&packages) {
        let features: Vec<String> = names.iter().map(|name| format!("{name}/{feature}")).collect();
        let features = features.join(",");
        let mut args = vec!["--no-default-features", "--features", &features];
        names.iter().for_each(|name| args.extend(["-p", *name]));
        well &= clippy(&args);
    }
    Outcome::of(well)
}

fn docs() -> Outcome {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--all-features"]);
    Outcome::of(passes(command.env("RUSTDOCFLAGS", "-Dwarnings")))
}

fn no_std() -> Outcome {
    const TARGET: &str = "thumbv7em-none-eabi";
    // `rustup` may be absent where the target is not: building decides.
    quietly(&mut program("rustup", &["target", "add", TARGET]));
    let sysroot = program("rustc", &["--print", "target-libdir", "--target", TARGET]).output();
    let there =
        sysroot.is_ok_and(|out| std::path::Path::new(String::from_utf8_lossy(&out.stdout).trim()).is_dir());
    if !there {
        let why = format!("target {TARGET} is not to be had: rustup target add {TARGET}");
        println!("{why}");
        return if std::env::var_os("CI").is_some() { Outcome::Failed } else { Outcome::Skipped(why) };
    }
    Outcome::of(passes(&mut cargo(&["build", "-p", "allocator-core", "--target", TARGET])))
}

fn vulkan() -> Outcome {
    if std::env::var_os("CI").is_some() {
        return Outcome::of(setup::run(&setup::Options::VULKAN));
    }
    // A developer's machine is not to be changed by running the tests.
    match setup::vulkan_absent() {
        None => Outcome::Passed,
        Some(why) => Outcome::Skipped(format!("{why}; to have it: cargo xtask setup vulkan")),
    }
}

fn matrix() -> Outcome {
    Outcome::of(test::run(&test::Options { require: vec!["cpu", "sim"], release: false }))
}

fn main_job() -> Outcome {
    let mut words = readme::MAIN_JOB.split(' ');
    let name = words.next().unwrap_or_default();
    Outcome::of(passes(&mut program(name, &words.collect::<Vec<_>>())))
}

/// The example that a user of views would start from; its own checks end it with an error, the layer's with a message.
fn examples() -> Outcome {
    if let Some(why) = setup::vulkan_absent() {
        return Outcome::Skipped(why);
    }
    let example = match test::example("crates/swap-tensor/examples/compute_on_view/main.rs") {
        Ok(example) => example,
        Err(why) => {
            println!("{why}");
            return Outcome::Failed;
        }
    };
    // By name: it is built with CUDA, too, which needs its driver.
    Outcome::of(["vulkan", "wgpu"].iter().all(|backend| {
        let mut command = program(&example.to_string_lossy(), &[backend]);
        command.env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation");
        println!("$ {}", process::line(&command));
        let mut said = false;
        let ran = process::lines(&mut command, |line| {
            println!("{line}");
            said |= line.contains("Validation") || line.contains("VUID");
        });
        ran.is_ok_and(|succeeded| succeeded) && !said
    }))
}

/// Two workspaces of their own. They share a directory for what is built, and neither is built twice.
fn reuse() -> Outcome {
    const MANIFEST: &str = "examples/reuse/Cargo.toml";
    const PROGRAMS: [&str; 3] = ["kv-cache", "texture-streamer", "shared-segment"];
    let at = |manifest: &'static str, args: &[&'static str]| {
        let (verb, rest) = args.split_at(1);
        let place = ["--locked", "--manifest-path", manifest, "--target-dir", "target/reuse"];
        passes(&mut cargo(&[verb, &place, rest].concat()))
    };
    let mut well = true;
    for manifest in [MANIFEST, fuzz::MANIFEST] {
        well &= passes(&mut cargo(&["fmt", "--all", "--check", "--manifest-path", manifest]));
    }
    well &= at(MANIFEST, &["clippy", "--all-targets", "--", "-D", "warnings"]);
    for name in PROGRAMS {
        well &= at(MANIFEST, &["run", "--quiet", "--package", name]);
    }
    // Without libFuzzer, which is C++ and takes longer than all of the rest.
    well &= at(fuzz::MANIFEST, &["clippy", "--no-default-features", "--", "-D", "warnings"]);
    Outcome::of(well)
}

/// The folder runs here as it will there, but for the GPU.
fn send_off() -> Outcome {
    if !cfg!(target_os = "linux") {
        return Outcome::Skipped("the simulated driver is a shared library for Linux".to_owned());
    }
    Outcome::of(bundle::run(&bundle::Options::ci()))
}

/// The models of `pinned-host`, under loom's model checker.
pub(crate) fn loom() -> bool {
    let mut command = cargo(&["test", "--release", "-p", "pinned-host", "--test", "loom"]);
    // A folder of its own: the flag makes every dependency another one.
    let folder = workspace::root().join("target/loom");
    passes(command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", folder))
}

fn miri() -> Outcome {
    let nightly = ["run", "nightly", "cargo", "miri"];
    if !quietly(&mut program("rustup", &[&nightly[..], &["--version"]].concat())) {
        quietly(&mut program("rustup", &["component", "add", "--toolchain", "nightly", "miri", "rust-src"]));
    }
    if !quietly(&mut program("rustup", &[&nightly[..], &["setup"]].concat())) {
        let install = "rustup toolchain install nightly --component miri,rust-src";
        return Outcome::Skipped(format!("no nightly toolchain with miri: {install}"));
    }
    let miri = |args: &[&str]| {
        let mut command =
            program("rustup", &[&nightly[..], &["test", "-p", "allocator-core"], args].concat());
        // Interpretation is slow, and depth is the native runs' business.
        command.env("PROPTEST_CASES", "4").env("MIRIFLAGS", "-Zmiri-disable-isolation");
        command.env("RUSTUP_TOOLCHAIN", "nightly");
        command
    };
    // Two that take about as long: each is one thread, however many there could be.
    Outcome::of(process::both(
        miri(&["--lib"]),
        miri(&["--features", "conformance", "--test", "deepspeed", "--test", "soak"]),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_chosen_by_name() {
        let args = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let without = Options::parse(&args("--skip matrix,miri")).unwrap();
        assert!(!STEPS.iter().filter(|step| without.wants(step)).any(|step| step.name == "matrix"));
        let only = Options::parse(&args("--only fmt")).unwrap();
        assert_eq!(STEPS.iter().filter(|step| only.wants(step)).count(), 1);
        assert!(Options::parse(&args("--skip")).is_err());
        assert!(Options::parse(&args("--only tea")).unwrap_err().contains("no step `tea`"));
    }
}
