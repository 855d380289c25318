//! What to say when a device is out of memory.

use std::fmt;

use allocator_core::{Explanation, OffsetAllocator, Placement, Request, Stats, Verdict};

use crate::book::Book;
use crate::usage::Bytes;
use crate::{Attribution, Usage, Watch, When};

/// Why a request failed, and what would help: who holds what, what is fragmented, what moving or swapping out would free.
///
/// Its text begins as PyTorch's does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutOfMemoryReport {
    /// The request.
    pub request: Request,
    /// The arena in numbers.
    pub arena: Stats,
    /// What stands in the way, and what moving blocks would reach.
    pub explanation: Explanation,
    /// Who holds the device's memory, in this arena and beside it.
    pub holders: Attribution,
    /// What in this arena nobody leases: it could be swapped out.
    pub swappable: Usage,
}

/// How many modules and storages a report's text names.
const NAMED: usize = 5;

pub(crate) fn collect<P: Placement>(
    watch: &Watch,
    allocator: &OffsetAllocator<P>,
    request: Request,
) -> OutOfMemoryReport {
    let mut book = watch.tracker.book();
    let device = book.watches[watch.at as usize].device;
    let counts = &mut book.devices[device as usize].counts;
    counts.ooms = counts.ooms.saturating_add(1);
    OutOfMemoryReport {
        request,
        arena: allocator.stats(),
        explanation: allocator.explain(request),
        holders: crate::attribution::collect(&book, device, When::Current, NAMED),
        swappable: swappable(&book, watch.at, allocator),
    }
}

/// What the blocks without leases hold.
fn swappable<P>(book: &Book, watch: u32, allocator: &OffsetAllocator<P>) -> Usage {
    let mut usage = Usage::default();
    for block in allocator.blocks().filter(|block| block.leases == 0) {
        if let Some(slot) = book.watches[watch as usize].find(block.handle) {
            let bytes = Bytes { allocated: block.range.end - block.range.start, requested: block.requested };
            usage.add(book.blocks.get(slot).category, bytes);
        }
    }
    usage
}

impl fmt::Display for OutOfMemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = &self.holders.device;
        write!(f, "{device} out of memory. Tried to allocate {}. ", amount(self.request.size))?;
        write!(f, "{device} has a total capacity of {} ", amount(self.arena.size))?;
        writeln!(f, "of which {} is free.", amount(self.arena.free))?;
        match self.explanation.verdict {
            Verdict::Fragmented { bytes, moves } => {
                writeln!(f, "moving {} in {moves} moves makes room", amount(bytes))?;
            }
            _ => writeln!(f, "{}", self.explanation)?,
        }
        Ok(())
    }
}

/// An amount as PyTorch's message writes it.
fn amount(bytes: u64) -> String {
    let float = bytes as f64;
    match bytes {
        0..=1024 => format!("{bytes} bytes"),
        ..=0x10_0000 => format!("{:.2} KiB", float / 1024.0),
        ..=0x4000_0000 => format!("{:.2} MiB", float / 1_048_576.0),
        _ => format!("{:.2} GiB", float / 1_073_741_824.0),
    }
}
