//! The simulated device: finds missing waits, wherever the work would have run.
//!
//! Its queues are lists. Operations are recorded and **run only when the host waits** (`synchronize`, `drain`; a
//! `query` runs a few, so that polling ends), in an order drawn from a seed that respects only the order of each
//! queue and the events it was told to wait for. Three checks watch:
//!
//! 1. **Vector clocks** ([`SimDevice::hazards`]): each byte range of each buffer and of each host slice knows its
//!    last writer and the readers since. When an operation is submitted, every earlier access that conflicts must
//!    come before it by queue order, an event, or a wait of the host. Whether it does has nothing to do with the
//!    order of the run, so a missing wait is found on every seed.
//! 2. **Poison** ([`SimDevice::poison_reads`]): bytes that nothing wrote must not be read. Moving them is allowed
//!    and carries the poison along; a move does not poison what it leaves.
//! 3. **Content**: the bytes are real, so the program's own comparison is the third check.
//!
//! Faults ([`FaultPlan`]) are scripted (the k-th call of a kind) or drawn from the seed. Equal seeds and equal
//! programs give equal runs.
//!
//! ```
//! use allocator_core::DeviceBuffer;
//! use backend_cpu::sim::{SimConfig, SimDevice};
//! use pinned_host::{HostPool, Lane, PageLocker, Queue, Transfer};
//!
//! let device = SimDevice::new(SimConfig::seeded(1));
//! let pool = HostPool::new(vec![device.locker().lock(8192)?], 64)?;
//! let mut buffer = device.buffer(4096)?;
//! let sent = device.upload(pool.allocate(1024)?, &mut buffer, 0)?;
//!
//! // Right: the download lane waits for the upload.
//! device.lane(Lane::Download).wait(sent.event())?;
//! device.download(&buffer, 0, pool.allocate(1024)?)?.wait()?;
//! device.assert_no_hazards();
//!
//! // Wrong: the next upload overwrites what a download may still read.
//! let reading = device.download(&buffer, 0, pool.allocate(1024)?)?;
//! let _ = device.upload(pool.allocate(1024)?, &mut buffer, 512)?;
//! assert_eq!(device.hazards()[0].range, 512..1024);
//! # drop(reading);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod buffer;
mod clock;
mod config;
mod device;
mod error;
mod fault;
mod hazard;
mod locker;
mod poison;
mod queue;
mod rng;
mod run;
mod state;

pub use buffer::{SimBuffer, SimView, Touch};
pub use config::SimConfig;
pub use device::{LeakReport, SimDevice};
pub use error::SimError;
pub use fault::{Call, Fault, FaultPlan};
pub use hazard::{Hazard, HazardKind, Operation, Place, PoisonRead};
pub use locker::{SimLocker, SimRegion};
pub use queue::{SimEvent, SimQueue};
