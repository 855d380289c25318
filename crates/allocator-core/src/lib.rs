//! One contiguous arena that never dies of fragmentation.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod allocator;
mod arena;
mod bins;
mod blocks;
mod buffer;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod explain;
mod handle;
mod moves;
mod observer;
mod occupancy;
mod params;
mod placement;
mod plan;
mod request;
mod space;
mod stats;

pub use allocator::{Candidate, OffsetAllocator};
pub use arena::{Arena, Compaction};
pub use buffer::{DeviceBuffer, DisjointSteps, RangeError, Remap, check_copy, check_range, disjoint_steps};
pub use error::{AllocError, ApplyError, ArenaError, Inconsistency, MoveFault};
pub use explain::{Explanation, Verdict};
pub use handle::Handle;
pub use observer::Observer;
pub use params::ParamId;
pub use placement::{BestFit, Hole, Holes, LowestOffset, Placement, SizeClass, Spot};
pub use plan::{Move, Plan};
pub use request::{Block, Fit, Lifetime, Request};
pub use stats::Stats;
