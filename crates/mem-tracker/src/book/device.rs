//! One device: what it holds, what it held at the peak, what PyTorch's statistics say.

use std::sync::Arc;

use super::Block;
use crate::counts::Counts;
use crate::usage::{Bytes, Moment};
use crate::{Category, Peaks, Usage};

/// A block as it was at the peak, which has changed or gone since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AtPeak {
    pub(crate) slot: u32,
    pub(crate) born: u64,
    pub(crate) bytes: Bytes,
    pub(crate) module: u32,
    pub(crate) label: u32,
    pub(crate) category: Category,
}

/// One device.
#[derive(Debug)]
pub(crate) struct DeviceBook {
    pub(crate) name: Arc<str>,
    /// Storages without an arena occupy multiples of it.
    pub(crate) rounding: u64,
    pub(crate) now: Usage,
    /// When it was most.
    pub(crate) peak: Moment,
    /// What was held at the peak and has changed or gone since. Invariant: together with the blocks that are held since
    /// before the peak and have not changed since, these are the blocks of `peak`.
    pub(crate) past: Vec<AtPeak>,
    pub(crate) counts: Counts,
}

impl DeviceBook {
    pub(crate) fn new(name: Arc<str>, rounding: u64) -> Self {
        let (now, peak) = (Usage::default(), Moment::default());
        Self { name, rounding, now, peak, past: Vec::new(), counts: Counts::default() }
    }

    /// Looks whether this is the peak.
    #[inline]
    pub(crate) fn look(&mut self, peaks: Peaks, clock: u64) {
        if is_more(peaks, self.now.total(), self.peak.usage.total()) {
            self.set_peak(clock);
        }
    }

    /// What is held now is the peak.
    #[inline]
    pub(crate) fn set_peak(&mut self, clock: u64) {
        self.peak = Moment { usage: self.now, at: clock };
        self.past.clear();
    }

    /// A block is about to change or go.
    #[inline]
    pub(crate) fn keep_as_it_was(&mut self, slot: u32, block: &Block) {
        if block.born <= self.peak.at && block.changed <= self.peak.at {
            let Block { born, bytes, module, label, category, .. } = *block;
            self.past.push(AtPeak { slot, born, bytes, module, label, category });
        }
    }
}

/// Whether what is held now takes the place of the most so far: [`Moment::beats`] for a moment that is later.
#[inline]
pub(crate) fn is_more(peaks: Peaks, now: u64, most: u64) -> bool {
    match peaks {
        Peaks::EveryEvent => now >= most,
        Peaks::AtOperations => now > most,
    }
}
