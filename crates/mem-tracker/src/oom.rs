//! What to say when a device is out of memory.

use std::fmt;

use allocator_core::{Block, Explanation, OffsetAllocator, Placement, Request, Stats, Verdict};

use crate::book::Book;
use crate::usage::Bytes;
use crate::{Amount, Attribution, Usage, Watch, When};

/// Why a request failed, and what would help: who holds what, what is fragmented, what moving or swapping out would free.
///
/// The first line of its text is worded as PyTorch's message; what follows PyTorch does not say.
///
/// ```
/// use allocator_core::conformance::VecBuffer; // host memory, for examples
/// use allocator_core::{Arena, Request};
/// use mem_tracker::Tracker;
///
/// let tracker = Tracker::new();
/// let watch = tracker.device("cuda:0")?.watch(6 << 20)?;
/// let mut arena = Arena::new(VecBuffer::new(6 << 20))?;
/// arena.set_observer(Box::new(watch.observer()));
/// let layer = tracker.module("Net.0")?;
/// let forward = layer.forward();
/// let kept = arena.allocate(Request::new(2 << 20))?;
/// drop(forward);
/// arena.lease(kept)?;
/// arena.allocate(Request::new(2 << 20))?;
///
/// let request = Request::new(4 << 20);
/// assert!(arena.allocate(request).is_err());
/// let report = watch.out_of_memory(arena.allocator(), request);
/// assert!(report.swapping_helps());
/// assert_eq!(
///     report.to_string(),
///     "cuda:0 out of memory. Tried to allocate 4.00 MiB. The arena has a total capacity of 6.00 MiB of which 2.00 MiB is \
///      free. Of the allocated memory 4.00 MiB is requested by its users, and 0 bytes is lost to rounding.\n\
///      held: 4.00 MiB Activation\n\
///      by module: 2.00 MiB Net.0, 2.00 MiB outside of modules\n\
///      largest: 2.00 MiB Activation of Net.0, 2.00 MiB Activation\n\
///      free: 1 holes, the largest has 2.00 MiB; moving blocks reaches 2.00 MiB\n\
///      missing: 2.00 MiB; swapping out what is idle frees 2.00 MiB (2.00 MiB Activation), which is enough"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// What in this arena is idle, that is, not leased and free to leave, and known to the tracker: it could be swapped out.
    pub swappable: Usage,
}

/// How many modules and storages a report names.
const NAMED: usize = 5;

pub(crate) fn collect<P: Placement>(
    watch: &Watch,
    allocator: &OffsetAllocator<P>,
    request: Request,
    mut may_leave: impl FnMut(&Block) -> bool,
) -> OutOfMemoryReport {
    // Looking for a plan takes time, and `may_leave` is not ours: neither under the lock.
    let (arena, explanation) = (allocator.stats(), allocator.explain(request));
    let idle: Vec<Block> = allocator.blocks().filter(|block| block.leases == 0 && may_leave(block)).collect();
    let mut book = watch.tracker().book();
    let device = book.watches[watch.number() as usize].device;
    let counts = &mut book.devices[device as usize].counts;
    counts.ooms = counts.ooms.saturating_add(1);
    OutOfMemoryReport {
        request,
        arena,
        explanation,
        holders: crate::attribution::collect(&book, device, When::Current, NAMED),
        swappable: held_by(&book, watch.number(), &idle),
    }
}

/// What blocks of a watched arena hold, as far as the tracker knows them.
fn held_by(book: &Book, watch: u32, blocks: &[Block]) -> Usage {
    let mut usage = Usage::default();
    for block in blocks {
        if let Some(slot) = book.block(watch, block.handle) {
            let bytes = Bytes { allocated: block.range.end - block.range.start, requested: block.requested };
            usage.add(book.blocks.get(slot).category, bytes);
        }
    }
    usage
}

impl OutOfMemoryReport {
    /// Bytes that must leave the arena so that moving the others makes room; 0 when moving alone does, or nothing would.
    #[must_use]
    pub fn missing(&self) -> u64 {
        match self.explanation.verdict {
            Verdict::Full { missing } => missing,
            _ => 0,
        }
    }

    /// Whether swapping out what is idle makes room, as far as bytes tell: alignment and leased blocks can still be in the
    /// way.
    #[must_use]
    pub fn swapping_helps(&self) -> bool {
        (1..=self.swappable.total()).contains(&self.missing())
    }

    fn first_line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, arena) = (&self.holders.device, &self.arena);
        write!(f, "{device} out of memory. Tried to allocate {}. ", Amount(self.request.size))?;
        write!(f, "The arena has a total capacity of {} ", Amount(arena.size))?;
        write!(f, "of which {} is free. ", Amount(arena.free))?;
        let lost = arena.live.saturating_sub(arena.requested);
        write!(f, "Of the allocated memory {} is requested by its users, ", Amount(arena.requested))?;
        writeln!(f, "and {} is lost to rounding.", Amount(lost))
    }

    fn free(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = &self.explanation;
        write!(f, "free: {} holes, the largest has {}; ", why.holes, Amount(why.largest_hole))?;
        write!(f, "moving blocks reaches {}", Amount(why.reachable))?;
        if why.leased_blocks > 0 && why.reachable_unleased > why.reachable {
            write!(f, ", and {} if the ", Amount(why.reachable_unleased))?;
            write!(f, "{} leased blocks ({}) were not", why.leased_blocks, Amount(why.leased_bytes))?;
        }
        writeln!(f)
    }

    fn remedy(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.explanation.verdict {
            Verdict::Fragmented { bytes, moves } => {
                write!(f, "fragmented: moving {} in {moves} moves makes room", Amount(bytes))
            }
            Verdict::Full { missing } => {
                let (frees, enough) =
                    (self.swappable.total(), if self.swapping_helps() { "enough" } else { "not enough" });
                write!(f, "missing: {}; swapping out what is idle frees ", Amount(missing))?;
                write!(f, "{} ({}), which is {enough}", Amount(frees), self.swappable)
            }
            Verdict::Leased => {
                let why = &self.explanation;
                write!(f, "leased: moving makes room once leases end, of {} blocks (", why.leased_blocks)?;
                write!(f, "{}) at most", Amount(why.leased_bytes))
            }
            Verdict::Misaligned => {
                let reaches = Amount(self.explanation.reachable);
                write!(
                    f,
                    "misaligned: free bytes suffice and moving joins no more than {reaches} of them; "
                )?;
                match self.request.align {
                    0 | 1 => f.write_str("free a block"),
                    align => write!(f, "ask for an alignment below {align}, or free a block"),
                }
            }
            // Its own text says all there is.
            _ => write!(f, "{}", self.explanation),
        }
    }
}

impl fmt::Display for OutOfMemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first_line(f)?;
        writeln!(f, "{}", self.holders)?;
        self.free(f)?;
        self.remedy(f)
    }
}
