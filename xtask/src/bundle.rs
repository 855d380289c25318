//! `cargo xtask bundle`: one folder with everything that a machine with a GPU, and without Rust, is to be asked.

mod contents;
mod trial;

use crate::artifacts::Artifacts;
use crate::{process, workspace};
use contents::{BUNDLES, Bundle, CUDA};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    bundle: &'static Bundle,
    out: PathBuf,
    /// Whether to run it where there is no GPU, too.
    trial: bool,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Options, String> {
        let what = args.first().map(String::as_str);
        let known = || BUNDLES.map(|bundle| format!("`{}`", bundle.name)).join(" and ");
        let Some(what) = what else { return Err(format!("bundle: what? {} are what there is", known())) };
        let Some(bundle) = BUNDLES.into_iter().find(|bundle| bundle.name == what) else {
            return Err(format!("bundle: unknown argument `{what}`; {} are what there is", known()));
        };
        let mut options = Options { trial: false, ..Options::trial(bundle) };
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

    /// What CI does. Not with Vulkan's, whose programs are tests that CI runs anyway, on the same driver.
    pub(crate) fn ci() -> Options {
        Options::trial(&CUDA)
    }

    fn trial(bundle: &'static Bundle) -> Options {
        Options { bundle, out: workspace::root().join("target/bundle").join(bundle.name), trial: true }
    }
}

/// Builds the folder, and runs it if that was asked; whether all is well.
pub(crate) fn run(options: &Options) -> bool {
    let Options { bundle, out, trial } = options;
    let made = build(bundle).and_then(|artifacts| {
        fill(bundle, out, &artifacts)?;
        measure(out)?;
        if *trial { trial::run(&bundle.trial, out, &artifacts) } else { Ok(()) }
    });
    if let Err(why) = &made {
        println!("bundle: {why}");
    }
    made.is_ok()
}

/// Everything in one build, so that the programs share what they are made of.
fn build(bundle: &Bundle) -> Result<Artifacts, String> {
    let mut args = vec!["build", "--release"];
    for package in bundle.packages {
        args.extend(["-p", package]);
    }
    let features = bundle.features.join(",");
    args.extend(["--features", &features]);
    let asked: BTreeSet<_> = bundle.programs.iter().map(|program| (program.kind, program.target)).collect();
    for (kind, target) in asked {
        args.extend([kind, target]);
    }
    Artifacts::build(&args)
}

/// Puts programs, scripts and the commit into the folder.
fn fill(bundle: &Bundle, out: &Path, artifacts: &Artifacts) -> Result<(), String> {
    let cannot = |what: &Path| {
        let what = what.display().to_string();
        move |why: std::io::Error| format!("cannot write {what}: {why}")
    };
    fs::create_dir_all(out).map_err(cannot(out))?;
    let names = bundle.programs.iter().map(|program| program.name);
    let names = names.chain(bundle.scripts.iter().map(|(name, _)| *name));
    let ours: BTreeSet<&str> = names.chain([COMMIT]).collect();
    for (name, _) in entries(out)? {
        if !ours.contains(name.as_str()) {
            return Err(format!(
                "{} holds `{name}`, which is of no bundle; name another folder",
                out.display()
            ));
        }
    }
    for program in bundle.programs {
        let (from, to) = (artifacts.program(program.source)?, out.join(program.name));
        // A copy over a program that runs would fail; a fresh file does not.
        let _ = fs::remove_file(&to);
        let mut strip = Command::new("strip");
        // `strip` is of a C toolchain, which Rust's linker needs and every machine with it has.
        if !process::quietly(strip.arg("-o").args([&to, &from])) {
            fs::copy(&from, &to).map_err(cannot(&to))?;
        }
    }
    for (name, text) in bundle.scripts {
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

/// The file that says what was built.
const COMMIT: &str = "commit";
/// A folder has fewer bytes.
const MOST: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn arguments() {
        assert_eq!(parse("cuda --try").unwrap(), Options::ci());
        let options = parse("vulkan --out x/y").unwrap();
        assert_eq!(
            (options.bundle.name, options.out, options.trial),
            ("vulkan", PathBuf::from("x/y"), false)
        );
        assert!(parse("vulkan").unwrap().out.ends_with("target/bundle/vulkan"));
        for wrong in ["", "metal", "vulkan cuda", "cuda --out", "cuda --fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("metal").unwrap_err().contains("`cuda` and `vulkan`"));
    }
}
