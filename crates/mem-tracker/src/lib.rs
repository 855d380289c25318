//! Who holds which bytes, exactly, at no cost.
//!
//! A device is full, and the question is of what: parameters, gradients, what a forward pass keeps for its backward pass, the
//! optimizer's states; of which layer; now, or at the moment when it was most. A [`Tracker`] is told of every storage that
//! comes and goes, by an arena's [`Observer`](allocator_core::Observer) or by the program, and answers at any time.
//!
//! ```text
//!   Tracker                clones share everything, on any thread
//!   ├─ Device              a name with figures: what it holds now and held at the peak, PyTorch's statistics
//!   │    ├─ Watch          an arena on it: from handles to storages; its ArenaObserver hears the arena
//!   │    └─ add · hold     storages without an arena
//!   ├─ Module              a name: Net.blocks.0
//!   │    └─ Scope          a pass, forward or backward, until it is dropped
//!   └─ Phase               a backward pass, an optimizer's step, a category, until it is dropped
//! ```
//!
//! # Example
//! ```
//! use allocator_core::conformance::VecBuffer; // host memory, for examples
//! use allocator_core::{Arena, Request};
//! use mem_tracker::{Category, Tracker, Units, When};
//!
//! let tracker = Tracker::new();
//! let device = tracker.device("cuda:0")?;
//! let watch = device.watch(1 << 20)?;
//! let mut arena = Arena::new(VecBuffer::new(1 << 20))?;
//! arena.set_observer(Box::new(watch.observer()));
//!
//! // A layer and its weights.
//! let layer = tracker.module("Net.0")?;
//! let weights = arena.allocate(Request::new(4096))?;
//! layer.parameters(&[watch.storage(weights)?])?;
//!
//! let forward = layer.forward(); // from here on, what this thread allocates is the layer's
//! let activation = arena.allocate(Request::new(8192))?;
//! drop(forward);
//! {
//!     let _backward = layer.backward();
//!     let gradient = arena.allocate(Request::new(4096))?; // Temp, until it is said to be a parameter's
//!     tracker.retag(watch.storage(gradient)?, Category::Gradient)?;
//!     arena.release(activation)?;
//! }
//! let peak = device.attribution(When::Peak, 1);
//! assert_eq!((peak.usage.total(), peak.usage.allocated(Category::Gradient)), (16384, 4096));
//! assert_eq!((peak.modules[0].module.as_deref(), peak.largest[0].allocated), (Some("Net.0"), 8192));
//! print!("{}", tracker.display_modulewise_snapshots(2, Units::KiB, true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod attribution;
mod book;
mod category;
mod counts;
mod device;
mod error;
mod module;
mod modules;
mod oom;
mod phase;
mod place;
mod snapshot;
mod state;
mod stats;
mod storage;
mod summary;
mod tracker;
mod units;
mod usage;
mod warning;
mod watch;

pub use attribution::{Attribution, ModuleShare, StorageShare};
pub use book::OpenScope;
pub use category::Category;
pub use counts::Stat;
pub use device::Device;
pub use error::TrackError;
pub use module::{Module, Scope};
pub use modules::ModuleStats;
pub use oom::OutOfMemoryReport;
pub use phase::{Context, Phase};
pub use snapshot::Snapshot;
pub use state::{ModState, Peaks, When};
pub use stats::{MemoryStats, Pools};
pub use storage::{Held, Storage, StorageId};
pub use tracker::Tracker;
pub use units::Units;
pub use usage::Usage;
pub use warning::Warning;
pub use watch::{ArenaObserver, Watch};
