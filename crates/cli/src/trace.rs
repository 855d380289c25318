//! `--trace`: the timeline of a run, in a file for Perfetto.

use crate::error::CliError;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use swap_tensor::Timeline;

/// A file that will hold the timeline. Nothing in it changes before [`write`](Self::write); if that is never called, a file
/// that was not there before is gone again.
#[derive(Debug)]
pub(crate) struct Trace {
    path: PathBuf,
    file: File,
    timeline: Timeline,
    /// It was made here, and holds nothing yet.
    unwritten: bool,
}

impl Trace {
    /// Opens or makes the file, so that a path that cannot be written is known before any work.
    ///
    /// # Errors
    /// The file cannot be created or opened for writing.
    pub(crate) fn create(path: &Path) -> Result<Trace, CliError> {
        let made = File::options().write(true).create_new(true).open(path);
        let unwritten = made.is_ok();
        let file = made.or_else(|_| File::options().write(true).create(true).truncate(false).open(path));
        let file = file.map_err(|source| CliError::Trace { path: path.to_owned(), source })?;
        Ok(Trace { path: path.to_owned(), file, timeline: Timeline::new(), unwritten })
    }

    /// Refuses to write the trace over the model.
    ///
    /// # Errors
    /// `model` is the trace's file.
    pub(crate) fn spare(&self, model: &Path) -> Result<(), CliError> {
        let real = |path: &Path| fs::canonicalize(path).ok();
        if real(&self.path).is_none_or(|trace| real(model) != Some(trace)) {
            return Ok(());
        }
        Err(CliError::Usage(format!("--trace {}: this is the model itself", self.path.display())))
    }

    /// What the run is recorded in.
    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Replaces the file's contents by the timeline.
    ///
    /// # Errors
    /// The file does not take it.
    pub(crate) fn write(mut self) -> Result<(), CliError> {
        self.unwritten = false;
        let whole = self.file.metadata().is_ok_and(|file| file.is_file());
        // A pipe or a terminal has no length, and nothing in it to replace.
        let emptied = if whole { self.file.rewind().and_then(|()| self.file.set_len(0)) } else { Ok(()) };
        let written = emptied.and_then(|()| self.timeline.write_chrome_json(&self.file));
        let written = written.and_then(|()| self.file.flush());
        written.map_err(|source| CliError::TraceWrite { path: self.path.clone(), source })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if self.unwritten {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_when_there_is_something_to_write_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.json");
        drop(Trace::create(&path).unwrap());
        assert!(!path.exists(), "nothing was written, nothing stays");
        let old = "x".repeat(10_000);
        fs::write(&path, &old).unwrap();
        drop(Trace::create(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), old);
        let trace = Trace::create(&path).unwrap();
        drop(trace.timeline().span("s", "t"));
        trace.write().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(json["traceEvents"].as_array().unwrap().iter().any(|event| event["name"] == "s"));
    }

    #[test]
    fn the_model_is_spared_under_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("m.safetensors");
        fs::write(&model, "weights").unwrap();
        let trace = Trace::create(&dir.path().join(".").join("m.safetensors")).unwrap();
        assert!(matches!(trace.spare(&model), Err(CliError::Usage(_))));
        drop(trace);
        assert_eq!(fs::read(&model).unwrap(), b"weights");
        let trace = Trace::create(&dir.path().join("t.json")).unwrap();
        assert!(trace.spare(&model).is_ok() && trace.spare(Path::new("nowhere")).is_ok());
    }
}
