//! `cargo xtask rules`: what the repository asks of its files, as checks.

use crate::{readme, workspace};
use std::fs;
use std::path::Path;

/// Checks every file and prints what breaks a rule; whether none does.
pub(crate) fn run() -> bool {
    let files = match workspace::files() {
        Ok(files) => files,
        Err(why) => {
            eprintln!("xtask: {why}");
            return false;
        }
    };
    let mut broken = Vec::new();
    let mut checked = 0;
    for file in files.iter().filter(|file| is_text(file)) {
        let Ok(text) = fs::read_to_string(workspace::root().join(file)) else {
            broken.push(format!("{}: not readable as UTF-8 text", file.display()));
            continue;
        };
        checked += 1;
        broken.extend(check(file, &text).into_iter().map(|why| format!("{}: {why}", file.display())));
    }
    if !files.iter().any(|file| file == Path::new("README.md")) {
        broken.push("README.md: missing".to_owned());
    }
    for why in &broken {
        println!("{why}");
    }
    println!("{checked} files checked, {} rules broken", broken.len());
    broken.is_empty()
}

/// Every rule that `text`, the content of `file`, breaks.
fn check(file: &Path, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    broken.extend(machine_path(text).map(|at| format!("line {at}: a path of somebody's machine")));
    broken.extend(unfinished(text).map(|(at, word)| format!("line {at}: `{word}`")));
    if file.extension().is_some_and(|ext| ext == "rs") {
        if !text.starts_with("//!") {
            broken.push("begins without a `//!` comment that says what the module is for".to_owned());
        }
        if file.file_name().is_some_and(|name| name == "lib.rs") {
            broken.extend(
                logic(text).map(|item| format!("lib.rs is a table of contents, and this is not: `{item}`")),
            );
        }
        if !may_be_unsafe(file) {
            broken
                .extend(unsafe_code(text).map(|at| format!("line {at}: unsafe code in a crate without it")));
        }
    }
    if file == Path::new("README.md") {
        let commands = readme::commands(text);
        for needed in [readme::MAIN_JOB, readme::TESTS] {
            if !commands.iter().any(|command| command == needed) {
                broken.push(format!("no shell block holds the command `{needed}`"));
            }
        }
    }
    broken
}

fn is_text(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ext = file.extension().and_then(|ext| ext.to_str()).unwrap_or_default();
    file == Path::new(".ci/run")
        || matches!(ext, "rs" | "toml" | "md" | "sh" | "yml")
        || name.starts_with("LICENSE")
}

/// Line of the first absolute path below a directory that is a person's, or a machine's, own.
fn machine_path(text: &str) -> Option<usize> {
    // Spelled without their slashes, so that this file passes its own rule.
    const OWN: [&str; 5] = ["home", "root", "Users", "work", "tmp/wt"];
    line_where(text, |line| {
        OWN.iter().any(|dir| {
            let path = format!("/{dir}/");
            line.match_indices(&path).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                // `target/work/x` and `https://host/work/` are not absolute paths of a machine.
                !before.is_some_and(|c| {
                    c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '}' | '~' | '>')
                })
            })
        })
    })
}

/// Line and word of the first mark of unfinished work.
fn unfinished(text: &str) -> Option<(usize, String)> {
    let marks =
        [["TO", "DO"], ["FIX", "ME"], ["todo", "!("], ["unimplemented", "!("]].map(|halves| halves.concat());
    marks.into_iter().find_map(|mark| line_where(text, |line| has_word(line, &mark)).map(|at| (at, mark)))
}

/// First item of a `lib.rs` that is more than docs, attributes, modules and re-exports.
fn logic(text: &str) -> Option<String> {
    let code: String = text.lines().map(|line| format!("{}\n", without_comment(line))).collect();
    let mut rest = code.as_str();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        if rest.starts_with('#') {
            rest = after_attribute(rest);
            continue;
        }
        let item = rest.split(';').next().unwrap_or(rest);
        let contents =
            ["pub mod ", "mod ", "pub use ", "use ", "extern crate ", "pub(crate) mod ", "pub(crate) use "];
        let inline = item.contains("mod ") && item.contains('{');
        if inline || !contents.iter().any(|start| item.starts_with(start)) {
            return Some(item.lines().next().unwrap_or_default().to_owned());
        }
        rest = rest.get(item.len() + 1..).unwrap_or_default();
    }
}

/// What follows an attribute: its brackets balance, and no string in it has one of its own.
fn after_attribute(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' if depth == 1 => return &text[at + 1..],
            ']' => depth -= 1,
            _ => {}
        }
    }
    ""
}

/// Where `unsafe` may be: the crates that touch memory, and whatever never ships.
fn may_be_unsafe(file: &Path) -> bool {
    let shipped = !file
        .components()
        .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "benches" | "examples")));
    let touches = [
        "crates/pinned-host",
        "crates/backend-cpu",
        "crates/backend-vulkan",
        "crates/backend-cuda",
        "crates/driver-sim",
        "crates/swap-tensor/src/disk/io",
    ];
    !shipped || touches.iter().any(|crate_dir| file.starts_with(crate_dir))
}

fn unsafe_code(text: &str) -> Option<usize> {
    let word = ["un", "safe"].concat();
    line_where(text, |line| {
        let code = without_comment(line);
        !code.trim_start().starts_with('#') && !code.contains('"') && has_word(code, &word)
    })
}

fn without_comment(line: &str) -> &str {
    // A `//` inside a string is a URL here, and then the rest of the line is no item either.
    line.split("//").next().unwrap_or(line)
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let end = line[at + word.len()..].chars().next();
        let word_char = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !word_char(line[..at].chars().next_back()) && (word.ends_with('(') || !word_char(end))
    })
}

fn line_where(text: &str, matches: impl Fn(&str) -> bool) -> Option<usize> {
    text.lines().position(matches).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(file: &str, text: &str) -> usize {
        check(Path::new(file), text).len()
    }

    #[test]
    fn module_docs() {
        assert_eq!(broken("crates/cli/src/a.rs", "//! A.\n\nfn a() {}\n"), 0);
        assert_eq!(broken("crates/cli/src/a.rs", "fn a() {}\n"), 1);
    }

    #[test]
    fn paths_of_a_machine() {
        for dir in ["home", "root", "Users"] {
            assert_eq!(broken("a.md", &format!("see /{dir}/me/x\n")), 1);
            assert_eq!(
                broken("a.md", &format!("see https://example.org/{dir}/me/x and target/{dir}/x\n")),
                0
            );
        }
    }

    #[test]
    fn unfinished_work() {
        assert_eq!(broken("a.md", &format!("{}: later\n", ["TO", "DO"].concat())), 1);
        assert_eq!(broken("a.md", "TODOS are none\n"), 0);
        let stub = format!("//! A.\nfn a() {{ {}) }}\n", ["todo", "!("].concat());
        assert_eq!(broken("crates/cli/src/a.rs", &stub), 1);
    }

    #[test]
    fn a_table_of_contents() {
        let lib = "crates/a/src/lib.rs";
        let good = "//! A.\n#![no_std]\n#[cfg(feature = \"x\")]\npub mod x;\nmod y; // why\n\npub use y::{\n    A,\n    B,\n};\n";
        assert_eq!(broken(lib, good), 0);
        assert_eq!(broken(lib, "//! A.\nmod a;\nfn f() {}\n"), 1);
        assert_eq!(broken(lib, "//! A.\nmod a { fn f() {} }\n"), 1);
        assert_eq!(broken(lib, "//! A.\n#[derive(Debug)]\npub struct A;\n"), 1);
    }

    #[test]
    fn unsafe_stays_where_it_belongs() {
        let text = format!("//! A.\nfn f() {{ {} {{ g() }} }}\n", ["un", "safe"].concat());
        assert_eq!(broken("crates/swap-tensor/src/a.rs", &text), 1);
        assert_eq!(broken("crates/swap-tensor/src/disk/store.rs", &text), 1);
        assert_eq!(broken("crates/swap-tensor/src/disk/io/a.rs", &text), 0);
        assert_eq!(broken("crates/pinned-host/src/a.rs", &text), 0);
        assert_eq!(broken("crates/swap-tensor/tests/a.rs", &text), 0);
    }

    #[test]
    fn the_readme_has_its_commands() {
        assert_eq!(broken("README.md", "# A\n"), 2);
        assert_eq!(broken("README.md", "```sh\ncargo run --release -- run\ncargo xtask test\n```\n"), 0);
    }
}
