//! The rows of the benchmark. A new one is a file and an entry in the list.

mod calibrate;
mod churn;
mod latency;
mod lowest;
mod original;
mod packing;
mod planning;
mod refusal;

use crate::report::Findings;

/// How much is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Fewer rounds and shorter streams.
    pub(crate) quick: bool,
    /// Also what takes minutes for the peers.
    pub(crate) full: bool,
}

impl Options {
    pub(crate) fn rounds(self) -> usize {
        if self.quick { 3 } else { 5 }
    }

    /// A number of operations, or a fifth of it for a quick run.
    pub(crate) fn scaled(self, operations: usize) -> usize {
        if self.quick { operations / 5 } else { operations }
    }
}

/// One row: a name to choose it by, and what it measures.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) run: fn(&Options) -> Findings,
}

pub(crate) const ROWS: &[Row] = &[
    Row { name: "calibrate", what: "how steady the machine is", run: calibrate::run },
    Row { name: "churn", what: "a free and an allocation among many live blocks", run: churn::run },
    Row { name: "packing", what: "how full the arena gets before a request fails", run: packing::run },
    Row { name: "lowest", what: "the lowest offset that fits", run: lowest::run },
    Row { name: "refusal", what: "the price of a request that must fail", run: refusal::run },
    Row { name: "latency", what: "the slowest single operations", run: latency::run },
    Row { name: "planning", what: "planning moves, and what they reach", run: planning::run },
    Row { name: "original", what: "the work of DeepSpeed's allocator, on host memory", run: original::run },
    // The place of `remap`: no buffer in reach of this crate implements `allocator_core::Remap` with real pages.
    Row { name: "steady", what: "the calibration again, after everything else", run: calibrate::run },
];
