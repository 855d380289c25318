//! Understands what `cargo build` says it has built.

use crate::{process, workspace};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Where cargo says it put things: its messages about what it built.
pub(crate) struct Artifacts(String);

impl Artifacts {
    /// From what cargo wrote to standard output, given `--message-format=json-render-diagnostics`.
    fn new(messages: String) -> Artifacts {
        Artifacts(messages)
    }

    /// Has cargo build what `args` ask for.
    pub(crate) fn build<S: AsRef<str>>(args: &[S]) -> Result<Artifacts, String> {
        let mut command = process::cargo(args);
        command.arg("--message-format=json-render-diagnostics");
        println!("$ {}", process::line(&command));
        let output =
            command.stderr(Stdio::inherit()).output().map_err(|why| format!("cannot run cargo: {why}"))?;
        if !output.status.success() {
            return Err("it does not build".to_owned());
        }
        Ok(Artifacts::new(String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// The program built from the file with this path in the workspace.
    pub(crate) fn program(&self, source: &str) -> Result<PathBuf, String> {
        let found = self.of(source).find_map(|message| strings(message, "executable").next());
        found.map(PathBuf::from).ok_or_else(|| format!("cargo built no program from {source}"))
    }

    /// The shared library built from the file with this path in the workspace.
    pub(crate) fn library(&self, source: &str) -> Result<PathBuf, String> {
        let files = self.of(source).flat_map(|message| strings(message, "filenames")).map(PathBuf::from);
        let found = files.into_iter().find(|file| file.extension().is_some_and(|ext| ext == "so"));
        found.ok_or_else(|| format!("cargo built no shared library from {source}"))
    }

    fn of<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a str> {
        let source = workspace::root().join(source);
        self.0.lines().filter(move |line| {
            line.starts_with(r#"{"reason":"compiler-artifact""#)
                && strings(line, "src_path").any(|found| Path::new(&found) == source)
        })
    }
}

/// The strings, or the strings of the list, that belong to `key` in one of cargo's messages, which are JSON without blanks.
fn strings(message: &str, key: &str) -> impl Iterator<Item = String> {
    let mut rest = message.split_once(&format!("\"{key}\":")).map_or("", |(_, rest)| rest);
    rest = rest.strip_prefix('[').unwrap_or(rest);
    std::iter::from_fn(move || {
        let mut text = String::new();
        let mut chars = rest.strip_prefix('"')?.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    let after = &rest[at + 2..];
                    rest = after.strip_prefix(',').filter(|next| next.starts_with('"')).unwrap_or("");
                    return Some(text);
                }
                // Of the escapes that a path may have: separators and quotes.
                '\\' => text.push(chars.next()?.1),
                c => text.push(c),
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "crates/backend-cuda/tests/conformance.rs";
    const LIBRARY: &str = "crates/driver-sim/src/lib.rs";

    #[test]
    fn programs_are_found_in_what_cargo_says() {
        let source = |file: &str| workspace::root().join(file).display().to_string().replace('\\', r"\\");
        let message = |file, files: &str, program: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["test"],"src_path":"{}"}},"filenames":[{files}],"executable":{program},"fresh":true}}"#,
                source(file)
            )
        };
        let text = [
            r#"{"reason":"build-script-executed"}"#.to_owned(),
            message("crates/swap-tensor/tests/conformance.rs", r#""/t/a""#, r#""/t/a""#),
            message("crates/backend-cuda/src/lib.rs", r#""/t/b.rlib""#, "null"),
            message(SOURCE, r#""/t/c""#, r#""/t/a \"c\" \\d""#),
            message(LIBRARY, r#""/t/libd.rlib","/t/libd.so""#, "null"),
        ];
        let artifacts = Artifacts::new(text.join("\n"));
        assert_eq!(artifacts.program(SOURCE).unwrap(), Path::new(r#"/t/a "c" \d"#));
        assert_eq!(artifacts.library(LIBRARY).unwrap(), Path::new("/t/libd.so"));
        let missing = artifacts.program("crates/backend-cuda/src/lib.rs").unwrap_err();
        assert!(missing.contains("crates/backend-cuda/src/lib.rs"), "{missing}");
    }
}
