//! Tensors that swap between a device, host memory, disks and files, without ever losing the last valid copy.
//!
//! A [`SwapPool`] owns one arena on a device, or on each of several. A [`Tensor`] is a name for bytes that may be on a device, in host
//! memory, on disk or in an attached safetensors file; a lease ([`ReadLease`], [`WriteLease`]) brings it to a device and keeps
//! it there, at one address, ordered on a queue. When room is short the pool moves blocks if that is enough, drops
//! clean copies, and writes dirty ones back.
//!
//! ```
//! use backend_cpu::CpuDevice;
//! use swap_tensor::{DType, SwapPool, TensorSpec};
//!
//! let pool = SwapPool::builder(CpuDevice::new()?).device_memory(1 << 20).host_memory(8 << 20).build()?;
//! let layers: Vec<_> = (0..6u8)
//!     .map(|i| pool.create(TensorSpec::new(format!("layer.{i}"), DType::U8, [400 << 10])?, &vec![i; 400 << 10]))
//!     .collect::<Result<_, _>>()?;
//!
//! for (i, layer) in layers.iter().enumerate() {
//!     pool.prefetch(&[&layers[(i + 1) % layers.len()]]);
//!     let mut lease = layer.write()?; // two fit at a time; the others make way
//!     let mut weights = vec![0; 400 << 10];
//!     lease.read_now(&mut weights)?;
//!     weights.iter_mut().for_each(|w| *w += 100);
//!     lease.write_now(&weights)?;
//! }
//! let mut weights = vec![0; 400 << 10];
//! layers[3].copy_to(&mut weights)?;
//! assert!(weights.iter().all(|&w| w == 103));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which
//! | to | use |
//! |---|---|
//! | describe a pool: memory, tiers, policy, deadlines | [`PoolBuilder`] |
//! | make tensors, or attach those of a file | [`SwapPool::create`], [`SwapPool::attach_safetensors`] |
//! | make one that is larger than the device | [`TiledTensor`], [`SwapPool::create_tiled`] |
//! | have it on the device while work runs | [`Tensor::read`], [`Tensor::write`], [`SwapPool::lease_all`] |
//! | the same from a task | [`Tensor::lease`], [`SwapPool::lease_many`], [`LeaseRequest`] |
//! | use several devices | [`PoolBuilder::add_device`], [`Tensor::read_at`], [`SwapPool::lease_many_at`]: [`DeviceIndex`] |
//! | fetch ahead | [`SwapPool::prefetch`], or by a recorded order: [`SwapPool::mark_step`] |
//! | say who leaves first | [`policy`], [`Tensor::set_priority`], [`Tensor::pin`] |
//! | hold more than host memory does | `disk` (feature `disk`), `PoolBuilder::disk` |
//! | know who holds which bytes, and why there is no room | feature `track`: `PoolBuilder::tracker`, `SwapPool::explain` |
//! | see what happens | [`Stats`], [`observe`], [`Timeline`], [`SwapPool::leases`] |
//! | port a program of DeepSpeed's contiguous allocator | [`ContiguousAllocator`] |
//!
//! # The copy set
//! Each tensor has a version and, on each device and in each tier below, a slot in one of the states of [`SlotState`], whose table says which step
//! follows which. These hold after every call ([`SwapPool::check`] looks):
//! 1. an undropped tensor has a valid copy of its version, unless every copy is torn, poisoned or lost, and then every
//!    access says so ([`SwapError::NoValidCopy`]);
//! 2. copies never exceed a tier's budget;
//! 3. no room is used again by work that is not ordered after its last use;
//! 4. at most one transfer fills a tensor's slot, and whoever writes on one device is alone on all;
//! 5. a leased address never changes, and every waiter ends, with a lease or an error.
//!
//! # Why not unified memory, or a cache of device buffers?
//! Page migration moves 4 KiB to 2 MiB at a time, on demand, when the kernel already waits; here whole tensors move
//! ahead of time. A cache that allocates and frees device buffers fragments; here one arena moves blocks instead.
//!
//! # Features
//! `cpu` (default): host memory as a device, [`backend_cpu`]. The pool itself is generic over
//! [`Transfer`](pinned_host::Transfer): any implementation works, compiled in here or not. `disk` adds a tier below host memory
//! ([`PoolBuilder::disk`]). `metrics` and `tracing` say what a pool does through the facades of these names: [`observe`] lists it,
//! and the [`Timeline`] that needs no feature. `track` tells a memory tracker who holds which bytes of every tier.
#![cfg_attr(not(feature = "disk"), forbid(unsafe_code))]
// But for `disk::io`, where the kernel is handed memory.
#![cfg_attr(feature = "disk", deny(unsafe_code))]
// The README's example runs with the doctests.
#![cfg_attr(doctest, doc = include_str!("../../../README.md"))]

pub mod backends;
mod below;
mod books;
mod builder;
mod check;
mod claim;
mod coldest;
#[cfg(feature = "conformance")]
pub mod conformance;
mod contents;
mod contiguous;
mod device;
#[cfg(all(feature = "disk", unix))]
pub mod disk;
mod down;
mod dtype;
mod entry;
mod error;
mod file;
mod fill;
mod flight;
mod hints;
mod hold;
mod host_memory;
mod lease;
mod leases;
mod lock;
mod lower;
mod meter;
mod movers;
pub mod observe;
mod order;
pub mod policy;
mod pool;
mod prefetch;
mod reap;
mod request;
mod room;
mod rule;
mod settle;
mod slot;
mod spares;
mod spec;
mod spill;
mod stats;
mod tensor;
mod tiles;
mod track;

pub use builder::PoolBuilder;
pub use contiguous::{ContiguousAllocator, ParamView, TensorId};
pub use device::DeviceIndex;
pub use dtype::{DType, Element};
pub use error::{BoxedError, SwapError};
pub use lease::{Lease, Mode, ReadLease, WriteLease};
pub use leases::OpenLease;
pub use meter::TransferTime;
pub use observe::{Timeline, TimelineSpan};
pub use pool::SwapPool;
pub use request::{Errand, LeaseRequest, Leasing};
pub use slot::{Residency, SlotState};
pub use spec::TensorSpec;
pub use stats::{DeviceStats, Stats};
pub use tensor::Tensor;
pub use tiles::TiledTensor;
#[cfg(feature = "track")]
pub use track::{Keepers, OutOfMemory};
