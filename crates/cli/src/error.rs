//! What can go wrong, and the exit code it leads to.

use crate::size::Size;
use std::io;
use std::path::{Path, PathBuf};

/// Everything the command reports as one line on stderr; want of room, if asked, in more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CliError {
    /// A file that cannot be a model.
    #[error("{}: {why}", path.display())]
    Input { path: PathBuf, why: String },
    #[error("no backend `{name}`; known: {known}")]
    UnknownBackend { name: String, known: String },
    #[error(
        "an arena of {given} is smaller than the largest tensor: `{tensor}` needs {}; give at least --device-memory {needed}",
        Size(*needed)
    )]
    TooSmall { given: Size, tensor: String, needed: u64 },
    /// A combination of arguments that cannot work, in words of its own.
    #[error("{0}")]
    Usage(String),
    #[error("backend {name} is not in this build: {why}")]
    NotCompiled { name: String, why: String },
    /// A size the system or the device does not give.
    #[error("{option} {size} is more than can be had: {why}")]
    NoMemory { option: &'static str, size: Size, why: String },
    /// The host tier had no room for what had to leave the device.
    #[error("cannot {doing}: {why}")]
    HostFull { doing: String, why: String },
    #[error(
        "a host tier of {given} is too small for what changed: {why}; give at least --host-memory {needed}"
    )]
    HostTooSmall { given: Size, needed: u64, why: String },
    /// Want of room, and who has it.
    #[error("{error}")]
    OutOfMemory { error: Box<CliError>, explanation: String },
    #[error("backend {name} cannot be used: {why}")]
    Unusable { name: String, why: String },
    /// The cache directory does not take the generated model.
    #[error("{what} {}: {source}; set XDG_CACHE_HOME to a directory that can be written, or name a model file", path.display())]
    Cache { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "neither XDG_CACHE_HOME nor HOME names a directory for the generated model; set one, or name a model file"
    )]
    NoCache,
    /// The library or the device failed at work that was properly asked for.
    #[error("cannot {doing}: {why}")]
    Failed { doing: String, why: String },
    #[error("{}: the file changed during the run", path.display())]
    Changed { path: PathBuf },
    #[error("{mismatches} of {checks} checks failed: bytes were lost or mixed up, first in {first}")]
    Mismatches { mismatches: u64, checks: u64, first: String },
    /// The file that a timeline was to go to.
    #[error("cannot create the trace {}: {source}", path.display())]
    Trace { path: PathBuf, source: io::Error },
    #[error("cannot write the trace {}: {source}", path.display())]
    TraceWrite { path: PathBuf, source: io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl CliError {
    /// 2: what other arguments or another file would mend. 1: the work failed.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::OutOfMemory { error, .. } => error.exit_code(),
            CliError::Input { .. }
            | CliError::UnknownBackend { .. }
            | CliError::TooSmall { .. }
            | CliError::HostTooSmall { .. }
            | CliError::NoMemory { .. }
            | CliError::Usage(_)
            | CliError::NotCompiled { .. }
            | CliError::Cache { .. }
            | CliError::Trace { .. }
            | CliError::NoCache => 2,
            _ => 1,
        }
    }

    /// What there is to say about it beyond its line.
    pub(crate) fn explanation(&self) -> Option<&str> {
        match self {
            CliError::OutOfMemory { explanation, .. } => Some(explanation),
            _ => None,
        }
    }

    pub(crate) fn input(path: &Path, why: impl ToString) -> CliError {
        CliError::Input { path: path.to_owned(), why: why.to_string() }
    }

    pub(crate) fn cache(what: &'static str, path: &Path) -> impl Fn(io::Error) -> CliError {
        move |source| CliError::Cache { what, path: path.to_owned(), source }
    }
}

/// An error and its causes in one line, without the causes it quotes itself.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Work that failed with `error`.
pub(crate) fn failed(doing: impl Into<String>, error: &dyn std::error::Error) -> CliError {
    CliError::Failed { doing: doing.into(), why: chain(error) }
}
