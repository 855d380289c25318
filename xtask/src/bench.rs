//! `cargo xtask bench core`: allocator-core beside its peers, built with those that this machine can build.

use crate::process;
use std::ffi::OsString;

/// The arguments of the benchmark, which checks the names of its rows itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    passed_on: Vec<String>,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Options, String> {
        match args.first().map(String::as_str) {
            Some("core") => {}
            Some(other) => return Err(format!("no benchmark `{other}`; it is core")),
            None => return Err("bench what: core?".to_owned()),
        }
        let mut options = Options::default();
        let mut args = args[1..].iter();
        while let Some(arg) = args.next() {
            options.passed_on.push(arg.clone());
            match arg.as_str() {
                "--quick" | "--full" => {}
                "--only" | "--out" => {
                    let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
                    options.passed_on.push(value.clone());
                }
                _ => return Err(format!("bench core: unknown argument `{arg}`")),
            }
        }
        Ok(options)
    }
}

/// Builds and runs it; whether it ended well. A figure that misses its bar is no failure, an overlap of blocks is.
pub(crate) fn run(options: &Options) -> bool {
    let mut args = vec!["run", "--release", "--manifest-path", MANIFEST, "--target-dir", "target/bench-core"];
    match compiler(std::env::var_os("CXX")) {
        Some(_) => args.extend(["--features", "vma"]),
        None => println!(
            "skipped: peer VMA, which is C++: neither CXX nor `c++` is a compiler that runs; to have it: apt-get \
             install g++ (Debian, Ubuntu)"
        ),
    }
    args.push("--");
    args.extend(options.passed_on.iter().map(String::as_str));
    process::passes(&mut process::cargo(&args))
}

/// The C++ compiler that the peer's build script would use, if there is one.
fn compiler(chosen: Option<OsString>) -> Option<String> {
    let chosen = chosen.map(|name| name.to_string_lossy().into_owned());
    let name = chosen.unwrap_or_else(|| "c++".to_owned());
    process::quietly(&mut process::program(&name, &["--version"])).then_some(name)
}

const MANIFEST: &str = "benches/core/Cargo.toml";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn arguments() {
        let options = parse("core --quick --only churn,packing --out core.md").unwrap();
        assert_eq!(options.passed_on, ["--quick", "--only", "churn,packing", "--out", "core.md"]);
        for wrong in ["", "disk", "core --only", "core --fast", "core churn"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_compiler_that_does_not_run_is_none() {
        assert_eq!(compiler(Some("no-such-compiler".into())), None);
    }
}
