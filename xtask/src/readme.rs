//! The README's commands: that they are there, and what they are.

/// The main job, as a newcomer types it.
pub(crate) const MAIN_JOB: &str = "cargo run --release -- run";
/// The tests, as a newcomer types them.
pub(crate) const TESTS: &str = "cargo xtask test";

/// Commands in the README's shell blocks, in order: lines after `$ `, or all lines of a block without prompts.
pub(crate) fn commands(readme: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut block: Option<Vec<&str>> = None;
    for line in readme.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some("sh" | "bash" | "console")) => block = Some(Vec::new()),
            (Some(lines), Some(_)) => {
                let prompts: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("$ ")).collect();
                let found = if prompts.is_empty() { std::mem::take(lines) } else { prompts };
                commands.extend(found.into_iter().filter(|line| !line.is_empty()).map(str::to_owned));
                block = None;
            }
            (Some(lines), None) => lines.push(line),
            (None, _) => {}
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_and_plain_blocks() {
        let readme = "text\n```console\n$ cargo run --release -- run\noutput\n```\n\
                      ```rust\nlet x = 1;\n```\n```sh\ncargo xtask test\n\ncargo xtask ci\n```\n";
        assert_eq!(commands(readme), [MAIN_JOB, TESTS, "cargo xtask ci"]);
    }
}
