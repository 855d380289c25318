//! `cargo xtask bundle cuda`: one folder with everything that a machine with a GPU, and without Rust, is to be asked.

use crate::artifacts::Artifacts;
use crate::{process, workspace};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    out: PathBuf,
    /// Whether to run it on the simulated driver, too.
    trial: bool,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Options, String> {
        match args.first().map(String::as_str) {
            Some("cuda") => {}
            None => return Err("bundle: what? `cuda` is what there is".to_owned()),
            Some(what) => return Err(format!("bundle: unknown argument `{what}`; `cuda` is what there is")),
        }
        let mut options = Options { out: workspace::root().join("target/bundle/cuda"), trial: false };
        let mut rest = args[1..].iter();
        while let Some(arg) = rest.next() {
            match arg.as_str() {
                "--try" => options.trial = true,
                "--out" => options.out = rest.next().ok_or("--out needs a folder")?.into(),
                _ => return Err(format!("bundle: unknown argument `{arg}`")),
            }
        }
        Ok(options)
    }

    /// What CI does.
    pub(crate) fn trial() -> Options {
        Options { out: workspace::root().join("target/bundle/cuda"), trial: true }
    }
}

/// Builds the folder, and runs it if that was asked; whether all is well.
pub(crate) fn run(options: &Options) -> bool {
    let made = build().and_then(|artifacts| {
        fill(&options.out, &artifacts)?;
        measure(&options.out)?;
        if options.trial { on_the_simulator(&options.out, &artifacts) } else { Ok(()) }
    });
    if let Err(why) = &made {
        println!("bundle: {why}");
    }
    made.is_ok()
}

/// Everything in one build, so that the programs share what they are made of.
fn build() -> Result<Artifacts, String> {
    let mut args = vec!["build", "--release"];
    for package in ["backend-cuda", "swap-tensor", "swap-tensor-cli", "swap-models"] {
        args.extend(["-p", package]);
    }
    args.extend(["--features", FEATURES]);
    for Program { kind, target, .. } in PROGRAMS {
        args.extend([*kind, *target]);
    }
    Artifacts::build(&args)
}

/// Puts programs, scripts and the commit into the folder.
fn fill(out: &Path, artifacts: &Artifacts) -> Result<(), String> {
    let cannot = |what: &Path| {
        let what = what.display().to_string();
        move |why: std::io::Error| format!("cannot write {what}: {why}")
    };
    fs::create_dir_all(out).map_err(cannot(out))?;
    let names = PROGRAMS.iter().map(|program| program.name).chain(SCRIPTS.iter().map(|(name, _)| *name));
    let ours: BTreeSet<&str> = names.chain([COMMIT]).collect();
    for (name, _) in entries(out)? {
        if !ours.contains(name.as_str()) {
            return Err(format!(
                "{} holds `{name}`, which is of no bundle; name another folder",
                out.display()
            ));
        }
    }
    for program in PROGRAMS {
        let (from, to) = (artifacts.program(program.source)?, out.join(program.name));
        // A copy over a program that runs would fail; a fresh file does not.
        let _ = fs::remove_file(&to);
        let mut strip = Command::new("strip");
        // `strip` is of a C toolchain, which Rust's linker needs and every machine with it has.
        if !process::quietly(strip.arg("-o").args([&to, &from])) {
            fs::copy(&from, &to).map_err(cannot(&to))?;
        }
    }
    for (name, text) in SCRIPTS {
        let to = out.join(name);
        fs::write(&to, text).map_err(cannot(&to))?;
        executable(&to).map_err(cannot(&to))?;
    }
    fs::write(out.join(COMMIT), format!("{}\n", commit())).map_err(cannot(out))
}

/// Says how large each file is, and refuses a folder that is too large to be sent about.
fn measure(out: &Path) -> Result<(), String> {
    let mut files = entries(out)?;
    files.sort();
    println!("{}:", out.display());
    for (name, bytes) in &files {
        println!("{:>9.2} MiB  {name}", mebibytes(*bytes));
    }
    let all: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    println!("{:>9.2} MiB  in all", mebibytes(all));
    if all < MOST { Ok(()) } else { Err(format!("the folder has {all} bytes, and may have {MOST}")) }
}

/// Runs the folder as on a machine with a GPU and without Rust, with the simulated driver for a driver, and checks that it
/// calls itself what it is.
fn on_the_simulator(out: &Path, artifacts: &Artifacts) -> Result<(), String> {
    let cannot = |why: std::io::Error| format!("cannot try it: {why}");
    let out = fs::canonicalize(out).map_err(cannot)?;
    let place = std::env::temp_dir().join(format!("swap-tensor-bundle-{}", std::process::id()));
    let (driver, results) = (place.join("driver"), place.join("results"));
    let done = || {
        fs::create_dir_all(&driver).and_then(|()| fs::create_dir_all(&results)).map_err(cannot)?;
        // The machine's own driver, if there is one, is looked for under the first name before ours is under the second.
        for name in ["libcuda.so", "libcuda.so.1"] {
            fs::copy(artifacts.library(SIMULATOR)?, driver.join(name)).map_err(cannot)?;
        }
        let mut command = Command::new(out.join("run.sh"));
        command.current_dir(&results).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        command.env("LD_LIBRARY_PATH", &driver).env("BUNDLE_QUICK", "1");
        // One promise leaves a ticket behind on purpose, which programs for a GPU do not announce to a simulator.
        command.env("CUDA_SIM_ON_LEAK", "ignore");
        println!("$ {}", process::line(&command));
        let passed = process::lines(&mut command, |line| println!("{line}"));
        if !passed.map_err(cannot)? {
            return Err("run.sh failed on the simulated driver".to_owned());
        }
        let written: Vec<String> = entries(&results)?.into_iter().map(|(name, _)| name).collect();
        if written != [RESULTS] {
            return Err(format!("it wrote {written:?}, and not {RESULTS} alone"));
        }
        let text = fs::read_to_string(results.join(RESULTS)).map_err(cannot)?;
        misnamed(&text).map_or(Ok(()), Err)
    };
    let outcome = done();
    let _ = fs::remove_dir_all(&place);
    outcome
}

/// Why results of the simulated driver could be taken for a GPU's, or lack something.
fn misnamed(results: &str) -> Option<String> {
    for needed in [
        "# cuda-sim: a simulated driver in host memory, and no GPU",
        "| suite | cuda-sim: passed | failed | cannot be tried here |",
        "| swap_virtual_memory |",
        "are right",
        "told on cuda-sim",
        "device      cuda-sim,",
        "mismatches  0",
        "- backend: cuda-sim",
        "| up 32 KiB deep |",
        "backend cuda-sim",
        "Everything that must be right on cuda-sim was.",
    ] {
        if !results.contains(needed) {
            return Some(format!("its results lack `{needed}`"));
        }
    }
    let claims = ["backend cuda", "backend: cuda", "device      cuda", "--backend cuda", "| suite | cuda"];
    let line = results.lines().find(|line| {
        claims.iter().any(|claim| {
            line.match_indices(claim).any(|(at, _)| !line[at + claim.len()..].starts_with("-sim"))
        })
    });
    line.map(|line| format!("its results call the simulated driver a GPU: {line}"))
}

/// Names and lengths of the files in a folder.
fn entries(dir: &Path) -> Result<Vec<(String, u64)>, String> {
    let listed = || -> std::io::Result<Vec<(String, u64)>> {
        let entry = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()))
        };
        fs::read_dir(dir)?.map(entry).collect()
    };
    listed().map_err(|why| format!("cannot list {}: {why}", dir.display()))
}

/// The commit that is checked out, and whether files differ from it.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = process::program("git", args).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain"]).is_none_or(|status| !status.is_empty());
    if changed { format!("{head}, with changes") } else { head }
}

#[cfg(unix)]
fn executable(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn executable(_: &Path) -> std::io::Result<()> {
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A program of the folder.
struct Program {
    name: &'static str,
    /// How cargo is asked for it.
    kind: &'static str,
    target: &'static str,
    source: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "conformance",
        kind: "--test",
        target: "conformance",
        source: "crates/backend-cuda/tests/conformance.rs",
    },
    Program {
        name: "cuda_device",
        kind: "--test",
        target: "cuda_device",
        source: "crates/backend-cuda/tests/cuda_device.rs",
    },
    Program {
        name: "many_copies",
        kind: "--test",
        target: "many_copies",
        source: "crates/backend-cuda/tests/many_copies.rs",
    },
    Program {
        name: "allocation_free",
        kind: "--test",
        target: "allocation_free",
        source: "crates/backend-cuda/tests/allocation_free.rs",
    },
    Program {
        name: "swap_conformance",
        kind: "--test",
        target: "cuda_conformance",
        source: "crates/swap-tensor/tests/cuda_conformance.rs",
    },
    Program {
        name: "models_conformance",
        kind: "--test",
        target: "cuda_conformance",
        source: "crates/models/tests/cuda_conformance.rs",
    },
    Program {
        name: "kernel_on_view",
        kind: "--example",
        target: "kernel_on_view",
        source: "crates/backend-cuda/examples/kernel_on_view.rs",
    },
    Program {
        name: "compute_on_view",
        kind: "--example",
        target: "compute_on_view",
        source: "crates/swap-tensor/examples/compute_on_view/main.rs",
    },
    Program {
        name: "gpu_rates",
        kind: "--example",
        target: "gpu_rates",
        source: "crates/backend-cuda/examples/gpu_rates/main.rs",
    },
    Program {
        name: "copy_rate",
        kind: "--example",
        target: "copy_rate",
        source: "crates/swap-tensor/examples/copy_rate.rs",
    },
    Program { name: "swap-tensor", kind: "--bin", target: "swap-tensor", source: "crates/cli/src/main.rs" },
];

const SCRIPTS: [(&str, &str); 2] = [
    ("run.sh", include_str!("../bundle/run.sh")),
    ("torch_rates.py", include_str!("../bundle/torch_rates.py")),
];

/// The suites for the machine's own driver, and the backend in the command.
const FEATURES: &str = "backend-cuda/gpu-tests,swap-tensor/cuda,swap-tensor/conformance,swap-tensor/gpu-tests,swap-tensor-cli/cuda,swap-models/gpu-tests";
/// Built beside the tests, and no part of the folder.
const SIMULATOR: &str = "crates/driver-sim/src/lib.rs";
/// The file that says what was built.
const COMMIT: &str = "commit";
/// What `run.sh` writes on the simulated driver.
const RESULTS: &str = "results-cuda-sim.md";
/// The folder has fewer bytes.
const MOST: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn arguments() {
        assert_eq!(parse("cuda --try").unwrap(), Options::trial());
        let options = parse("cuda --out x/y").unwrap();
        assert_eq!((options.out, options.trial), (PathBuf::from("x/y"), false));
        for wrong in ["", "vulkan", "cuda --out", "cuda --fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_program_has_its_source_and_its_place_in_the_script() {
        for program in PROGRAMS {
            assert!(workspace::root().join(program.source).is_file(), "{}", program.source);
            assert!(SCRIPTS[0].1.contains(program.name), "{}", program.name);
        }
    }

    #[test]
    fn results_of_the_simulator_do_not_pass_for_a_gpus() {
        let good = "# cuda-sim: a simulated driver in host memory, and no GPU\n\
                    | suite | cuda-sim: passed | failed | cannot be tried here |\n| swap_virtual_memory | 9 | 0 | 0 |\n\
                    all numbers are right\ntold on cuda-sim\n`swap-tensor run --backend cuda-sim`\ndevice      cuda-sim, arena\nmismatches  0\n\
                    - backend: cuda-sim\n| up 32 KiB deep | 1 |\nbackend cuda-sim\n\
                    Everything that must be right on cuda-sim was.\n";
        assert_eq!(misnamed(good), None);
        assert!(misnamed(&format!("{good}backend cuda\n")).unwrap().contains("a GPU: backend cuda"));
        assert!(misnamed(&good.replace("mismatches  0", "mismatches  1")).unwrap().contains("lack"));
    }
}
