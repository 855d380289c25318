//! Running other programs: cargo, rustup, and whatever the README says.

use crate::workspace;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

/// `cargo ARGS` at the workspace's root.
pub(crate) fn cargo<S: AsRef<str>>(args: &[S]) -> Command {
    program("cargo", args)
}

/// `NAME ARGS` at the workspace's root, without what cargo told *this* process about itself.
pub(crate) fn program<S: AsRef<str>>(name: &str, args: &[S]) -> Command {
    let mut command = Command::new(name);
    command.args(args.iter().map(AsRef::as_ref)).current_dir(workspace::root()).stdin(Stdio::null());
    // `cargo xtask` is a `cargo run`: a build started from here must see what a build started by hand sees, or the
    // two do not share their results.
    for (key, _) in std::env::vars_os() {
        let text = key.to_string_lossy();
        if text == "CARGO" || text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&key);
        }
    }
    command
}

/// Runs to the end with the output passed through; whether it succeeded. A program that cannot start did not.
pub(crate) fn passes(command: &mut Command) -> bool {
    println!("$ {}", line(command));
    match command.status() {
        Ok(status) => status.success(),
        Err(why) => {
            eprintln!("{why}");
            false
        }
    }
}

/// Runs both to the end at the same time, and shows what the second said after what the first did; whether both succeeded.
pub(crate) fn both(mut first: Command, mut second: Command) -> bool {
    thread::scope(|scope| {
        let second = scope.spawn(move || {
            let mut said = Vec::new();
            let ran = lines(&mut second, |line| said.push(line.to_owned()));
            (line(&second), said, ran)
        });
        let first = passes(&mut first);
        let Ok((line, said, ran)) = second.join() else { return false };
        println!("$ {line}\n{}", said.join("\n"));
        first && ran.is_ok_and(|succeeded| succeeded)
    })
}

/// Whether it runs and succeeds; says nothing.
pub(crate) fn quietly(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs to the end and hands over each line of both outputs, in the order they were written; whether it succeeded.
pub(crate) fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> io::Result<bool> {
    let (reader, writer) = io::pipe()?;
    let mut child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // The command keeps its ends of the pipe; while they are open the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        each(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']));
        bytes.clear();
    }
    Ok(child.wait()?.success())
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut line = String::new();
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            line += &format!("{}={} ", key.to_string_lossy(), value.to_string_lossy());
        }
    }
    line += &command.get_program().to_string_lossy();
    for arg in command.get_args() {
        line += " ";
        line += &arg.to_string_lossy();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_both_must_succeed() {
        let ends = |well: bool| {
            let mut command = program("cargo", &[if well { "--version" } else { "--no-such-option" }]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        for (first, second) in [(true, true), (true, false), (false, true), (false, false)] {
            assert_eq!(both(ends(first), ends(second)), first && second);
        }
    }
}
