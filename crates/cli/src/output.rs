//! Standard output, whose reader may leave early: `swap-tensor run | head -1` is no error.

use crate::error::CliError;
use std::fmt;
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

/// Writes one line to standard error, if anybody listens.
pub(crate) fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "swap-tensor: {text}");
}
