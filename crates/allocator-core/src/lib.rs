//! One contiguous arena that never dies of fragmentation.
#![no_std]
#![forbid(unsafe_code)]

mod buffer;

pub use buffer::{DeviceBuffer, DisjointSteps, RangeError, Remap, check_copy, check_range, disjoint_steps};
