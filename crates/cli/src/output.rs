//! Standard output, whose reader may leave early: `swap-tensor run | head -1` is no error.

use crate::error::CliError;
use std::fmt;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Writes one line. A closed pipe swallows it: the work and its verdict do not depend on who still reads.
///
/// # Errors
/// Any other failure to write, such as a full disk.
pub(crate) fn line(text: impl fmt::Display) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    match written {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output(why)),
        _ => Ok(()),
    }
}

/// Writes one line to standard error, if anybody listens: whatever names and paths hold, it stays one line.
pub(crate) fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "swap-tensor: {}", visible(&text.to_string()));
}

/// Writes more about a complaint to standard error, line by line, each as visible as the complaint.
pub(crate) fn explain(text: &str) {
    let mut err = io::stderr().lock();
    for line in text.lines() {
        let _ = writeln!(err, "  {}", visible(line));
    }
}

/// `text` with everything escaped that would break a line or make a terminal do more than show it.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || BREAKS_OR_TURNS.iter().any(|range| range.contains(&c)) {
            let _ = write!(shown, "{}", c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Separators of lines and paragraphs, and what changes the direction of the text after it.
const BREAKS_OR_TURNS: [std::ops::RangeInclusive<char>; 3] =
    ['\u{200E}'..='\u{200F}', '\u{2028}'..='\u{202E}', '\u{2066}'..='\u{2069}'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_escaped_and_text_is_not() {
        assert_eq!(visible("t\n\x1b[2J\r\u{9b}\u{7f}\0"), "t\\n\\u{1b}[2J\\r\\u{9b}\\u{7f}\\u{0}");
        assert_eq!(visible("a\u{2028}b\u{202e}c"), "a\\u{2028}b\\u{202e}c");
        assert_eq!(visible("größe 'x' \"y\" \\ 重み"), "größe 'x' \"y\" \\ 重み");
    }
}
