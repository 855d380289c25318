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
//!
//! # What counts as what
//! * **Category**: what a thread is doing when it makes a storage decides: an explicit [`Tracker::category`], else
//!   [`Tracker::optimizer_step`] (Optstate), else a backward pass outside of a recomputation (Temp), else Activation. What is a
//!   parameter, a buffer or a gradient must be said ([`Module::parameters`], [`Module::buffers`], [`Tracker::retag`]). The first
//!   category stays until then.
//! * **Module**: a storage is of the innermost module whose scope is open on the thread that makes it. Guards belong to the thread
//!   that made them; [`Tracker::context`] takes a thread's place along to another one. An [`Owner`] says it where no scope can.
//! * **Pass**: the peak of a module's pass is the most that a device held while its scope was open, whatever thread made it.
//!   Scopes may be closed in any order, as PyTorch's backward hooks do.
//! * **Recomputation**: a module that was entered before and runs forward inside a backward pass of its thread. It notes
//!   `Pre-Forward-AC` and `Post-Forward-AC`, and its peak counts to the module's backward pass.
//! * **Bytes**: what a storage occupies and what was asked for are kept apart. A block occupies what its arena says; a storage
//!   without an arena its bytes, rounded to the device's multiple ([`Tracker::device_rounding`]: 512 for what PyTorch's tracker
//!   assumes on CUDA). Every figure without a name of its own is of bytes that are occupied.
//! * **Peaks**: looked for after every event, or after operations as PyTorch does: [`Peaks`].
//! * **Sharing**: parameters, views and names of one block are no storages: its bytes are there once.
//!
//! # Cost
//! An event is O(1): a lock, a slot of a table, a row of figures, and a copy of that row while the total is the highest so far. It
//! does not depend on how many modules there are or how deep their scopes nest, and allocates nothing once warm (example
//! `event_cost`: 21 ns on the machine of the repository's `benches/results/tracker.md`, 27 ns with scopes that open every 32 events,
//! where PyTorch's algorithm needs 0.2 µs in Rust without modules and 12 µs with 500; more where the blocks are too many for the
//! caches, or threads wait for the one lock). The most that was held at each level of open scopes is kept for the stretch during
//! which the level was the last, and joined when scopes close. Opening a scope, and closing the one opened last, is O(devices), for
//! a backward pass and what it computes again also O(open scopes); closing another one is O(later scopes x devices). Questions walk
//! over what there is: O(storages), sorted by size, or O(modules x calls).
//!
//! # The original
//! What became of each public member of PyTorch 2.15's `torch.distributed._tools.mem_tracker.MemTracker`, and of
//! `torch.cuda.memory`:
//!
//! | original | here |
//! |---|---|
//! | `MemTracker()` | [`Tracker::new`], or [`Tracker::with_peaks`] with [`Peaks::AtOperations`] for its own moments |
//! | `with tracker:` | tracking begins with the tracker; [`Tracker::reset_peak`] does to the peak what entering does |
//! | `track_external(*objs)` | a tensor: [`Device::add_as`] with [`Category::Other`]; a module: [`Module::parameters`], [`Module::buffers`]; an optimizer: [`Tracker::retag`] |
//! | weak references to storages | [`Held`], an [`ArenaObserver`], or [`Tracker::remove`] |
//! | `get_tracker_snapshot(type)` | [`Tracker::snapshot`] |
//! | `display_snapshot(type, units, tabulate)` | [`Tracker::display_snapshot`], the same text, returned |
//! | `display_modulewise_snapshots(depth, units, tabulate)` | [`Tracker::display_modulewise_snapshots`] |
//! | `reset_mod_stats()` | [`Tracker::reset_mod_stats`]; needed for nothing: the last calls of each module are kept ([`Tracker::keep_calls`]) |
//! | `memory_tracking`, `_ModMemStats` | [`Tracker::modules`], [`ModuleStats`] |
//! | `_MemRefType`, `_ModState` | [`Category`], [`ModState`] |
//! | `_UpdateType.ADD`, `DEL`, `REF`, `SIZE` | [`Device::add`], [`Tracker::remove`], [`Tracker::retag`], [`Tracker::resize`] |
//! | `__torch_dispatch__` | an arena's observer; [`Tracker::operation`] where the moments matter |
//! | the ModTracker's pre- and post-hooks, forward and backward | [`Module::forward`], [`Module::backward`], and the end of their [`Scope`] |
//! | the optimizer's step hooks | [`Tracker::optimizer_step`] |
//! | `memory_stats`, `memory_stats_as_nested_dict` | [`Device::memory_stats`]; [`MemoryStats::map`] has the keys |
//! | `memory_allocated`, `max_memory_allocated`, `memory_reserved` | `allocated_bytes.all`, `reserved_bytes` of those |
//! | `memory_summary(device, abbreviated)` | [`Device::memory_summary`] |
//! | `reset_peak_memory_stats`, `reset_accumulated_memory_stats` | [`Device::reset_peak_memory_stats`], [`Device::reset_accumulated_memory_stats`] |
//! | `OutOfMemoryError` | [`Watch::out_of_memory`] |
//! | `FSDPMemTracker` | nothing: its categories are of PyTorch's sharding |
//!
//! What differs on purpose: a second iteration is not an error; a peak belongs to the call during which it was reached, also where
//! a module calls itself, when the original gives it to the module's latest call; a module is its name, where the original tells
//! two roots of one class apart and raises both; devices come in the order in which they were made, not in which they last held
//! nothing.
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
mod owner;
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
pub use owner::Owner;
pub use phase::{Context, Phase};
pub use snapshot::Snapshot;
pub use state::{ModState, Peaks, When};
pub use stats::{MemoryStats, Pools};
pub use storage::{Held, Storage, StorageId};
pub use tracker::Tracker;
pub use units::{Amount, Units};
pub use usage::Usage;
pub use warning::Warning;
pub use watch::{ArenaObserver, Watch};
