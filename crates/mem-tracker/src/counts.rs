//! PyTorch's counters of one device: current, peak, and sums since they were last reset.

use crate::usage::Bytes;

/// One figure under PyTorch's four names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stat {
    /// What there is now.
    pub current: u64,
    /// The most there was since [`reset_peak_memory_stats`](crate::Device::reset_peak_memory_stats).
    pub peak: u64,
    /// The sum of all increases since [`reset_accumulated_memory_stats`](crate::Device::reset_accumulated_memory_stats), at most
    /// `u64::MAX`.
    pub allocated: u64,
    /// The sum of all decreases since then.
    pub freed: u64,
}

/// A figure as it is counted: what went is what came less what there is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    current: u64,
    peak: u64,
    /// The sum of all increases since the sums were reset.
    came: u64,
    /// What there was then.
    base: u64,
}

impl Count {
    /// As [`up`](Self::up); `false`, and nothing changed, when it would not fit.
    fn up_to_most(&mut self, by: u64) -> bool {
        let fits = self.current.checked_add(by).is_some();
        if fits {
            self.up(by);
        }
        fits
    }

    #[inline]
    pub(crate) fn up(&mut self, by: u64) {
        self.current = self.current.saturating_add(by);
        self.peak = self.peak.max(self.current);
        self.came = self.came.saturating_add(by);
    }

    #[inline]
    pub(crate) fn down(&mut self, by: u64) {
        self.current = self.current.saturating_sub(by);
    }

    pub(crate) fn stat(&self) -> Stat {
        let Self { current, peak, came, base } = *self;
        Stat { current, peak, allocated: came, freed: came.saturating_add(base).saturating_sub(current) }
    }

    fn reset_peak(&mut self) {
        self.peak = self.current;
    }

    fn reset_accumulated(&mut self) {
        (self.came, self.base) = (0, self.current);
    }
}

/// Storages, the bytes they occupy and the bytes that were asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Three {
    pub(crate) count: Count,
    pub(crate) allocated: Count,
    pub(crate) requested: Count,
}

impl Three {
    #[inline]
    fn up(&mut self, bytes: Bytes) {
        self.count.up(1);
        self.allocated.up(bytes.allocated);
        self.requested.up(bytes.requested);
    }

    #[inline]
    fn down(&mut self, bytes: Bytes) {
        self.count.down(1);
        self.allocated.down(bytes.allocated);
        self.requested.down(bytes.requested);
    }

    fn each(&mut self, run: fn(&mut Count)) {
        [&mut self.count, &mut self.allocated, &mut self.requested].into_iter().for_each(run);
    }
}

/// Every counter of a device.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) all: Three,
    /// Above [`SMALL`] bytes, and up to them.
    pub(crate) large: Three,
    pub(crate) small: Three,
    /// Arenas, and the bytes they span.
    pub(crate) segments: Count,
    pub(crate) reserved: Count,
    pub(crate) ooms: u64,
    /// Blocks that moved.
    pub(crate) moves: u64,
    pub(crate) moved_bytes: u64,
}

impl Counts {
    /// A storage came. One without bytes is none, as for PyTorch's allocator.
    #[inline]
    pub(crate) fn came(&mut self, bytes: Bytes) {
        if bytes.allocated > 0 {
            self.all.up(bytes);
            self.pool(bytes).up(bytes);
        }
    }

    /// A storage went.
    #[inline]
    pub(crate) fn went(&mut self, bytes: Bytes) {
        if bytes.allocated > 0 {
            self.all.down(bytes);
            self.pool(bytes).down(bytes);
        }
    }

    /// An arena came; `false`, and nothing changed, when all together span more than can be counted.
    pub(crate) fn segment_came(&mut self, size: u64) -> bool {
        let fits = self.reserved.up_to_most(size);
        if fits {
            self.segments.up(1);
        }
        fits
    }

    /// An arena went.
    pub(crate) fn segment_went(&mut self, size: u64) {
        self.segments.down(1);
        self.reserved.down(size);
    }

    /// An arena is longer or shorter; `false`, and nothing changed, when all together span more than can be counted.
    pub(crate) fn reserve_instead(&mut self, before: u64, size: u64) -> bool {
        self.reserved.down(before.saturating_sub(size));
        self.reserved.up_to_most(size.saturating_sub(before))
    }

    pub(crate) fn reset_peak(&mut self) {
        self.each(Count::reset_peak);
    }

    pub(crate) fn reset_accumulated(&mut self) {
        self.each(Count::reset_accumulated);
        (self.ooms, self.moves, self.moved_bytes) = (0, 0, 0);
    }

    #[inline]
    fn pool(&mut self, bytes: Bytes) -> &mut Three {
        if bytes.allocated <= SMALL { &mut self.small } else { &mut self.large }
    }

    fn each(&mut self, run: fn(&mut Count)) {
        [&mut self.all, &mut self.large, &mut self.small].into_iter().for_each(|three| three.each(run));
        [&mut self.segments, &mut self.reserved].into_iter().for_each(run);
    }
}

/// What PyTorch's allocator takes from its pool of small blocks: up to 1 MiB.
pub(crate) const SMALL: u64 = 1 << 20;
