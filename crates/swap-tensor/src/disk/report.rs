//! Which path I/O takes, and why no better one.

use core::fmt;
use std::path::PathBuf;

/// Which path the I/O of a store takes, for each directory. Displays as lines for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoReport {
    /// In the order of the configuration.
    pub drives: Vec<DriveReport>,
}

/// Which path the I/O of one directory takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DriveReport {
    /// The directory.
    pub directory: PathBuf,
    /// Who does the I/O.
    pub path: IoPath,
    /// Whether it goes past the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Whether memory can be registered with the ring.
    pub registered: bool,
    /// Bytes that direct I/O comes in multiples of here, and extents begin at.
    pub unit: u64,
    /// Bytes that an address for direct I/O is to be a multiple of.
    pub alignment: usize,
    /// Whether the file system has set the room aside; otherwise a write may find that there is none.
    pub reserved: bool,
    /// What was refused, and why: each says what is done instead.
    pub refusals: Vec<String>,
}

/// Who does the I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IoPath {
    /// A thread with a ring of io_uring's, for each direction.
    Uring,
    /// Threads that call `pread` and `pwrite`.
    Threads,
}

impl fmt::Display for IoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, drive) in self.drives.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {drive}", drive.directory.display())?;
        }
        Ok(())
    }
}

impl fmt::Display for DriveReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.path {
            IoPath::Uring => "io_uring",
            IoPath::Threads => "pread and pwrite by threads",
        })?;
        f.write_str(if self.direct { ", O_DIRECT" } else { ", through the page cache" })?;
        if self.path == IoPath::Uring {
            f.write_str(if self.registered { ", registered buffers" } else { ", no registered buffers" })?;
        }
        if !self.reserved {
            f.write_str(", room not reserved")?;
        }
        for refusal in &self.refusals {
            write!(f, "; {refusal}")?;
        }
        Ok(())
    }
}
