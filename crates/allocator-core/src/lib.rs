//! One contiguous arena that never dies of fragmentation.
//!
//! Device memory is often one large buffer that a program divides up itself: weights of a model, pages of
//! a KV cache, textures. Sooner or later the free bytes are there, but scattered. Here live blocks can
//! **move**: handles stay valid, and only as many bytes are copied as the request at hand needs.
//!
//! ```text
//!   Arena<B>          a DeviceBuffer, its allocator, the executor of plans
//!   ├─ B: DeviceBuffer    size · grain · copy_within (memmove) · view      the backend's: CPU, CUDA, …
//!   ├─ OffsetAllocator    who has which offsets; touches no memory
//!   │    find ─► commit ─► Handle ─► free         O(1), generation-checked names
//!   │    resize_block, resize                     grow and shrink in place
//!   │    lease / unlease                          a leased block is a wall
//!   │    plan_room, plan_compact ─► Plan          pure: [Move { handle, src, dst }, …]
//!   │    commit_move                              one move at a time, others' work in between
//!   ├─ params             parts of blocks that follow every move
//!   └─ Observer           hears alloc, free, move
//!
//!   before  │ a │▒▒▒▒▒│ b │▒▒▒▒▒▒▒▒│  c   │▒▒▒│ d │      a request for ▒▒▒▒▒▒▒▒▒▒▒▒▒ fails …
//!   plan            ┌───┘
//!   after   │ a │ b │▒▒▒▒▒▒▒▒▒▒▒▒▒▒│  c   │▒▒▒│ d │      … until b has moved, and nothing else
//! ```
//!
//! # Highlights
//! * **Tight packing without a search**: [`GoodFit`], the default, compares two holes and packs better than exact best
//!   fit; [`LowestOffset`] and [`BestFit`] are there too, and [`Placement`] is a trait. Measured beside six other
//!   allocators in the repository's `benches/results/core.md`, losing rows included.
//! * **Least moves**: [`OffsetAllocator::plan_room`] weighs sliding a window of blocks together against
//!   evacuating one, by bytes moved. On random arenas of up to six blocks, where the exact optimum can be
//!   computed, its plans move 1.3 % more bytes in all (3.2 % with mixed alignments).
//! * **Plans are data**: whoever has queues and events orders each copy in [`Arena::apply`]'s closure; the
//!   core sees none of them. Between two moves anything may be allocated, freed or leased. Or all of a plan in one, by
//!   [`Arena::apply_plan`]: some backends make many short copies together far faster.
//! * **Failures explain themselves**: [`AllocError::OutOfMemory`] tells full from fragmented,
//!   [`OffsetAllocator::explain`] adds what moving, or ending leases, would reach.
//! * **Names that cannot lie**: a stale or foreign [`Handle`] is an error, never someone else's block.
//! * `u64` offsets, any alignment, a grain for coarse devices; `no_std` with `alloc`, no `unsafe`, no panic
//!   that input can reach, no heap allocation once warm.
//! * **Proof as code**: feature `conformance` exports the suite a backend must pass; see `conformance`.
//!
//! To build an allocator of your own on it, read the [`guide`].
//!
//! # Why not …
//! * *a free list as everywhere* (gpu-allocator, offset-allocator, range-alloc): none of them moves a live
//!   block. When the free bytes are scattered, they are out of memory.
//! * *VMA's defragmentation*: plans in O(n²), and moves a block only into a hole that holds it whole, so it
//!   cannot slide one down by less than its length. Ours plans in O(n log n) and slides.
//! * *compacting everything* (DeepSpeed): copies the whole arena where one block would do. It is there as
//!   [`Compaction::SlideDown`].
//! * *remapping pages*: no copies, but only where the device can, and in granules of megabytes. It is there
//!   as the optional trait [`Remap`], and an arena over such a buffer uses it when told to: [`Arena::set_remap`].
//!
//! What it is not: thread-safe by itself (`&mut self`; put it under your lock), and an owner of memory (the
//! backend's buffer is).
//!
//! # Example
#![cfg_attr(feature = "conformance", doc = "```")]
#![cfg_attr(not(feature = "conformance"), doc = "```ignore")]
//! use allocator_core::conformance::VecBuffer; // host memory, for examples
//! use allocator_core::{Arena, DeviceBuffer, Request};
//!
//! let mut arena = Arena::new(VecBuffer::new(1 << 20))?;
//! let weights = arena.allocate(Request::new(400_000).align(256))?;
//! let cache = arena.allocate(Request::new(400_000).align(256))?;
//! let at = arena.range(cache)?;
//! arena.buffer_mut().write(at.start, b"keys and values")?;
//!
//! arena.release(weights)?; // 648,576 bytes are free now, in two holes
//! let larger = arena.allocate(Request::new(600_000))?; // moves the cache out of the way
//! assert_eq!(&arena.view(cache)?[..15], b"keys and values");
//! println!("{}", arena.occupancy(60));
//! # assert!(arena.stats().moved_bytes == 400_000 && arena.range(larger).is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod address_tree;
mod allocator;
mod arena;
mod bins;
mod buffer;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod execute;
mod explain;
mod fixed;
pub mod guide;
mod handle;
mod moves;
mod nodes;
mod observer;
mod occupancy;
mod overlap;
mod params;
mod placement;
mod plan;
mod remap;
mod request;
mod resize;
mod space;
mod stats;
mod tree_node;

pub use allocator::{Candidate, OffsetAllocator};
pub use arena::{Arena, Compaction};
pub use buffer::{DeviceBuffer, RangeError, Remap, check_copy, check_range};
pub use error::{AllocError, ApplyError, ArenaError, CopiesRefused, Inconsistency, MoveFault, ResizeError};
pub use explain::{Explanation, Verdict};
pub use handle::{AllocatorId, Handle};
pub use observer::Observer;
pub use overlap::{CopyCost, CopyWay, DisjointSteps, bounce_pieces, disjoint_steps};
pub use params::ParamId;
pub use placement::{BestFit, GoodFit, Hole, Holes, LowestOffset, Placement, SizeClass, Spot};
pub use plan::{Move, Plan};
pub use remap::remap_or_copy;
pub use request::{Block, Fit, Lifetime, Request};
pub use stats::Stats;
