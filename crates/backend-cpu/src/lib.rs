//! Host memory as a device, twice.
//!
//! * [`CpuDevice`] runs: buffers of ordinary pages, copy lanes and compute queues with a thread each, events that
//!   are points on a queue's timeline. Everything is truly asynchronous, so what works here by luck fails here by
//!   chance, as on a GPU.
//! * [`sim::SimDevice`] checks: virtual queues that run only when the host waits, in a seeded order that respects
//!   nothing but the events; vector clocks that find a missing wait the moment work is submitted; poison; faults
//!   on demand.
//!
//! And as a plain buffer: [`PageBuffer`], synchronous, for an [`Arena`](allocator_core::Arena) that compacts without copying.
//!
//! # Moves without copies
//! On Linux the pages of two ranges of whole 2 MiB granules change places by `mremap`
//! ([`Remap`](allocator_core::Remap)), in [`PageBuffer`] and in [`CpuBuffer`] alike. What is exchanged are entries of page tables,
//! so it costs the same whether the pages are huge or ordinary ones; no memory is given back and faulted in again, and
//! addresses stay. An arena does so after [`Arena::set_remap`](allocator_core::Arena::set_remap); allocate large blocks with
//! `.align(buffer.granule())`, and all their moves qualify.
//!
//! | where | a remap |
//! |---|---|
//! | Linux 6.17 or newer | three calls for each 64 MiB |
//! | Linux 5.7 or newer | three calls for each 2 MiB |
//! | older or simulated kernels, other systems, buffers of less than 4 MiB, [`PageBuffer::fixed`] | copies the source to the destination |
//!
//! Every exchange may cut the system's mapping of the buffer in up to four more pieces, of which a process has 65,530 by
//! default. The buffers of a process together use a quarter of that, and a kernel that refuses sooner is taken at its word: the
//! error says so and nothing has changed; an arena copies then, and so does the queue of a device. If the kernel has
//! no memory left to describe a mapping that it took apart a moment before, which is not known to have happened, the process aborts.
//!
//! # Which one to pick
//! To *use* tensors without a GPU, or to measure, [`CpuDevice`]. For an arena in one thread, [`PageBuffer`]. To *test* code that orders work on any device,
//! [`sim::SimDevice`]: one run with it says more about order than a thousand on a real queue. Both implement
//! [`Transfer`](pinned_host::Transfer) and pass the same conformance suites, so generic code takes either.
//!
//! # What each check can not find
//! | check | finds | cannot find |
//! |---|---|---|
//! | any run on [`CpuDevice`] | lost bytes, deadlocks, leaks | a missing wait whose work happened to end in time; a green run proves no order |
//! | vector clocks | a missing wait between accesses that were declared, on every seed | an access nobody declared (a raw pointer from a view); a wait too many; two host threads that race, since the host has one clock; paths the program did not take |
//! | poison | bytes read that nothing wrote | bytes written by the wrong work; host memory, which counts as written |
//! | content | wrong bytes, whatever the reason | an order that is wrong and came out right this time |
//!
//! # Words
//! Everything in [`sim`] is *simulated*: its times, queues and faults are no measurement of anything.

mod buffer;
mod caches;
mod device;
mod error;
mod event;
mod host_bytes;
mod page_buffer;
mod pages;
mod queue;
mod range_lock;
mod remap;
pub mod sim;
mod sync;
mod work;

pub use buffer::{CpuBuffer, CpuView};
pub use device::CpuDevice;
pub use error::CpuError;
pub use event::CpuEvent;
pub use page_buffer::PageBuffer;
pub use queue::CpuQueue;
