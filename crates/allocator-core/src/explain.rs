//! Why a request fits or does not, and what would help.

use core::fmt;

use crate::{AllocError, OffsetAllocator, Placement, Plan, Request};

/// An answer to "why did this fail?", with what moving blocks or ending leases would reach.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The request.
    pub request: Request,
    /// What stands in its way.
    pub verdict: Verdict,
    /// Bytes in all holes together.
    pub free: u64,
    /// Number of holes.
    pub holes: u64,
    /// Length of the largest hole in bytes.
    pub largest_hole: u64,
    /// Length of the largest hole in bytes once everything has slid down between the leased blocks.
    pub reachable: u64,
    /// The same if no block were leased.
    pub reachable_unleased: u64,
    /// Number of leased blocks.
    pub leased_blocks: u64,
    /// Bytes in them.
    pub leased_bytes: u64,
}

/// What stands in the way of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing: a hole fits.
    Fits,
    /// Holes are large enough together, and moving blocks would join them.
    Fragmented {
        /// Bytes the cheapest plan found moves.
        bytes: u64,
        /// Moves it makes.
        moves: usize,
    },
    /// Moving would make room if the leased blocks could move too.
    Leased,
    /// Enough bytes are free, but the alignments of the blocks or of the request keep them apart.
    Misaligned,
    /// Fewer bytes are free than the request needs: something must be freed.
    Full {
        /// Bytes missing.
        missing: u64,
    },
    /// No allocator could serve the request.
    BadRequest(AllocError),
}

impl<P: Placement> OffsetAllocator<P> {
    /// Says why `request` fits or fails, and what moving would reach. Changes nothing.
    ///
    /// O(n log n) for n blocks, as [`plan_room`](Self::plan_room): for messages and logs, not for hot paths.
    ///
    /// ```
    /// use allocator_core::{OffsetAllocator, Request, Verdict};
    ///
    /// let mut offsets = OffsetAllocator::new(96)?;
    /// let blocks: Vec<_> = (0..3).map(|_| offsets.allocate(Request::new(32))).collect::<Result<_, _>>()?;
    /// offsets.free(blocks[0])?;
    /// offsets.free(blocks[2])?;
    /// let explanation = offsets.explain(Request::new(64));
    /// assert_eq!(explanation.verdict, Verdict::Fragmented { bytes: 32, moves: 1 });
    /// assert_eq!(
    ///     explanation.to_string(),
    ///     "64 bytes (alignment 1): 64 bytes are free in 2 holes, the largest has 32; \
    ///      moving 32 bytes in 1 moves makes room"
    /// );
    /// offsets.lease(blocks[1])?;
    /// assert_eq!(offsets.explain(Request::new(64)).verdict, Verdict::Leased);
    /// # Ok::<(), allocator_core::AllocError>(())
    /// ```
    #[must_use]
    pub fn explain(&self, request: Request) -> Explanation {
        let mut plan = Plan::default();
        let verdict = self.verdict(request, &mut plan);
        let stats = self.stats();
        Explanation {
            request,
            verdict,
            free: stats.free,
            holes: stats.holes,
            largest_hole: stats.largest_hole,
            reachable: self.reachable(true, &mut plan),
            reachable_unleased: self.reachable(false, &mut plan),
            leased_blocks: stats.leased_blocks,
            leased_bytes: stats.leased_bytes,
        }
    }

    fn verdict(&self, request: Request, plan: &mut Plan) -> Verdict {
        let fit = match request.fit(self.grain) {
            Ok(fit) => fit,
            Err(error) => return Verdict::BadRequest(error),
        };
        if self.find(request).is_ok() {
            return Verdict::Fits;
        }
        if let Some(missing) = fit.size.checked_sub(self.counts.free + 1) {
            return Verdict::Full { missing: missing + 1 };
        }
        if self.search_room(&fit, true, plan) {
            return Verdict::Fragmented { bytes: plan.bytes(), moves: plan.moves().len() };
        }
        if self.counts.leased_blocks > 0 && self.search_room(&fit, false, plan) {
            return Verdict::Leased;
        }
        Verdict::Misaligned
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { size, align, .. } = self.request;
        write!(f, "{size} bytes (alignment {align}): {} bytes are free in {} holes", self.free, self.holes)?;
        write!(f, ", the largest has {}; ", self.largest_hole)?;
        match self.verdict {
            Verdict::Fits => f.write_str("it fits"),
            Verdict::Fragmented { bytes, moves } => {
                write!(f, "moving {bytes} bytes in {moves} moves makes room")
            }
            Verdict::Leased => write!(
                f,
                "{} leased blocks ({} bytes) stand in the way: moving reaches a hole of {} bytes, {} without leases",
                self.leased_blocks, self.leased_bytes, self.reachable, self.reachable_unleased
            ),
            Verdict::Misaligned => {
                write!(f, "alignment keeps them apart: moving reaches a hole of {} bytes", self.reachable)
            }
            Verdict::Full { missing } => write!(f, "{missing} bytes must be freed"),
            Verdict::BadRequest(error) => write!(f, "no arena could serve it: {error}"),
        }
    }
}
