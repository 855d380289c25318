//! Host memory as a device, twice.
//!
//! * [`CpuDevice`] runs: buffers of ordinary pages, copy lanes and compute queues with a thread each, events that
//!   are points on a queue's timeline. Everything is truly asynchronous, so what works here by luck fails here by
//!   chance, as on a GPU.
//! * [`sim::SimDevice`] checks: virtual queues that run only when the host waits, in a seeded order that respects
//!   nothing but the events; vector clocks that find a missing wait the moment work is submitted; poison; faults
//!   on demand.
//!
//! # Which one to pick
//! To *use* tensors without a GPU, or to measure, [`CpuDevice`]. To *test* code that orders work on any device,
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
