//! What the checks report.

use super::Call;
use core::fmt;
use std::ops::Range;

/// Two uses of the same bytes that nothing orders: a missing wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hazard {
    /// What the later operation does to the earlier one.
    pub kind: HazardKind,
    /// Whose bytes.
    pub place: Place,
    /// Which bytes, relative to the place.
    pub range: Range<u64>,
    /// The operation that should have waited.
    pub operation: Operation,
    /// The one it should have waited for.
    pub earlier: Operation,
}

/// The order that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HazardKind {
    /// Reads what an earlier write may not have written yet.
    ReadAfterWrite,
    /// Overwrites what an earlier read may still read.
    WriteAfterRead,
    /// Overwrites what an earlier write may still overwrite in turn.
    WriteAfterWrite,
}

/// Where bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A buffer, by its number on the device.
    Buffer(u64),
    /// A host region, by its number on the device, and on those beside it.
    Host(u64),
}

/// An operation of a queue, or an access by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its number on the device, in the order of submission; the first is 1.
    pub number: u64,
    /// What it is.
    pub call: Call,
    /// Number of its queue; `None`: the host.
    pub queue: Option<usize>,
}

/// Bytes read that nothing had written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoisonRead {
    /// The reader.
    pub operation: Operation,
    /// Whose bytes.
    pub place: Place,
    /// The first range of them that nothing wrote.
    pub range: Range<u64>,
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hazard { kind, place, range, operation, earlier } = self;
        write!(
            f,
            "{kind}: {operation} is not ordered after {earlier}, bytes {}..{} of {place}",
            range.start, range.end
        )
    }
}

impl fmt::Display for HazardKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HazardKind::ReadAfterWrite => "read after write",
            HazardKind::WriteAfterRead => "write after read",
            HazardKind::WriteAfterWrite => "write after write",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Buffer(number) => write!(f, "buffer {number}"),
            Place::Host(number) => write!(f, "host region {number}"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.queue {
            Some(queue) => write!(f, "{} (operation {}, queue {queue})", self.call, self.number),
            None => write!(f, "{} (operation {}, by the host)", self.call, self.number),
        }
    }
}

impl fmt::Display for PoisonRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PoisonRead { operation, place, range } = self;
        write!(f, "{operation} reads bytes {}..{} of {place}, which nothing wrote", range.start, range.end)
    }
}
