//! CUDA devices for the arena and its transfers, through cudarc, with the driver loaded at run time.
//!
//! Builds, links and starts on machines without CUDA: opening a device there is an error that says what is missing. And
//! made to live inside programs that use cudarc already: over their context, their streams, their slice of memory; a block
//! of an arena is a slice to cudarc's kernels, copies and whatever takes its traits `DevicePtr` and `DevicePtrMut`, such as
//! its safe cuBLAS calls. What wants a `CudaSlice` or one of its own views does not take it.
//!
//! | to | use |
//! |---|---|
//! | open a device, or make one over a context or streams | [`CudaOptions`], [`CudaDevice`], [`Streams`], [`Select`] |
//! | have memory: the driver's, the caller's slice, or pages that change places | [`CudaBuffer`], [`CudaDevice::buffer_over`], [`CudaOptions::virtual_memory`] |
//! | give a block to a kernel or a library | [`CudaView`], [`Plain`] |
//! | have page-locked host memory | [`CudaLocker`], [`HostMemory`]; for cudarc's copies [`CudaPinned`] |
//! | order work | [`CudaQueue`], [`CudaEvent`] |
//! | know what went wrong | [`CudaError`] |
//!
//! # How work is ordered
//! Three streams: uploads, downloads, and one for moves and kernels, which may be the caller's. Between them there are
//! events and nothing else: `pinned_host::Hazards` says which. cudarc's own event tracking stays as it is, on for slices
//! that are made in a context opened here: blocks of ours take no part in it, so disjoint ones never wait for one another.
//! Streams made here do not synchronise with the default stream.
//!
//! # Moves
//! CUDA forbids copies that overlap themselves. A move by at least its length is one copy; a shorter one is made in steps
//! as long as the distance, or by way of a bounce buffer, whichever costs less by a model of two numbers
//! ([`CudaOptions::scratch`], [`CudaOptions::step_cost`]), whose defaults fit an H200. Short moves that come together, as those
//! of a compaction do ([`DeviceBuffer::copies_within`](allocator_core::DeviceBuffer::copies_within)), are made by a kernel, up to
//! 170 in a launch: those that touch nothing of one another's in one launch, those of a slide in two, by way of the scratch.
//! With virtual memory, whole pages
//! move without a copy ([`allocator_core::Remap`]): on an H200 that takes twice the time of the copy with pages of 64 MiB and
//! fifty times with pages of 2 MiB, so it is for buffers that grow, and for memory too full to copy through.
//!
//! # Threads
//! As with cudarc, calls leave the device's context current on the calling thread. Dropping a value of this crate's gives the
//! thread back the context it had; cudarc's own values do not.
//!
//! # Errors
//! A call that the driver refuses has enqueued nothing, and nothing has changed. Errors after which CUDA's context is
//! unusable (an illegal address in anybody's kernel, an uncorrectable memory error) are [`CudaError::DeviceLost`], from
//! whatever call they come out of. A move of several pieces of which the driver takes the first and refuses a later one
//! twice is cut: the next event of its queue says so. What happens where nobody can be told is kept for
//! [`CudaDevice::take_late_error`].
//!
//! # In a program that has CUDA already
//! [`CudaOptions::over_streams`] makes a device of its streams, [`CudaDevice::buffer_over`] a buffer of its slice, which an
//! arena or a `swap_tensor::SwapPool` (`PoolBuilder::device_buffer`) then divides, and [`CudaBuffer::into_slice`] gives it
//! back. Kernels take blocks as they are: the example `kernel_on_view` here, and on tensors that were just swapped in
//! `compute_on_view` of `swap-tensor`.
//!
//! # Beside other users of CUDA
//! cudarc cannot be built with two `cuda-…` version features, and this crate chooses `cuda-12080`: a program that uses
//! cudarc too should leave the version to it, or choose the same. A driver for CUDA 12.8 or newer has every function;
//! what an older one lacks is [`CudaError::NoSymbol`], and batches of copies fall back to single ones.
//!
//! **candle.** What works today: candle built for the CPU in the same program. What does not: candle's `cuda` feature. It
//! turns on cudarc's `dynamic-linking`, for all of a program's crates, and this crate does not compile with that: the
//! functions that ask whether there is a driver exist with dynamic loading only. A change of that feature is proposed there
//! (pull request 3916, open in August 2026); versions of cudarc that clash are its issue 3259. Until then tensors go
//! between the two through host memory.

mod buffer;
mod choose;
mod context;
mod device;
mod driver;
mod error;
mod event;
mod groups;
mod host;
mod kernel;
mod memory;
mod options;
mod pages;
mod pinned;
mod plain;
mod queue;
mod turn;
mod view;

pub use buffer::CudaBuffer;
pub use choose::{DeviceInfo, Select};
/// The cudarc this crate was built with: types of another version do not fit.
pub use cudarc;
pub use device::{CudaDevice, SliceRefused};
pub use driver::is_present;
pub use error::CudaError;
pub use event::CudaEvent;
pub use host::{CudaLocker, CudaRegion, HostMemory, RegisterRefused};
pub use options::{CudaOptions, Streams};
pub use pinned::CudaPinned;
pub use queue::CudaQueue;
pub use view::{CudaView, Plain};
