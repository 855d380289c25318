//! The simulated device itself.

use super::buffer::SimBuffer;
use super::queue::{SimEvent, SimQueue};
use super::run::Work;
use super::state::{Host, Shared};
use super::{Call, Fault, Hazard, Place, PoisonRead, SimConfig, SimError, SimLocker};
use crate::host_bytes::HostBytes;
use allocator_core::{DeviceBuffer, RangeError, check_range};
use pinned_host::{Access, DeviceMemory, HostRegion, Lane, Parking, Refused, SliceOf, Ticket, Transfer};
use std::ops::Range;
use std::sync::Arc;

/// A device whose work runs only when the host waits, watched by three checks; see the [module](super).
pub struct SimDevice {
    shared: Arc<Shared>,
    locker: SimLocker,
    upload: SimQueue,
    download: SimQueue,
    compute: SimQueue,
    parking: Parking<Self>,
    strict: bool,
}

/// What a simulated device still holds: all zero when a program has given everything back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LeakReport {
    /// Buffers, by live clones or by work that has not run.
    pub buffers: usize,
    /// Their bytes.
    pub buffer_bytes: u64,
    /// Host regions.
    pub regions: usize,
    /// Bytes of them that count as locked.
    pub locked_bytes: u64,
    /// Slices of dropped tickets that work still uses.
    pub parked: usize,
    /// Operations that have not run.
    pub queued: usize,
}

impl SimDevice {
    /// A device with an upload lane (queue 0), a download lane (1) and a compute queue (2), or one queue for all.
    pub fn new(config: SimConfig) -> Self {
        Self::in_host(config, Arc::default())
    }

    /// Another device in the same host: it copies from and to the host memory of this one, and of all beside it, while two devices
    /// made by [`new`](Self::new) reach only their own. Nothing else is shared; the checks of each know its own work.
    ///
    /// What is known of a region goes with it on the device that made it; elsewhere its number is not used again.
    pub fn beside(&self, config: SimConfig) -> Self {
        Self::in_host(config, Arc::clone(self.shared.host()))
    }

    fn in_host(config: SimConfig, host: Arc<Host>) -> Self {
        let SimConfig { one_queue, strict, .. } = config;
        let shared = Arc::new(Shared::new(config, host));
        let upload = SimQueue::new(&shared);
        let another = || if one_queue { upload.clone() } else { SimQueue::new(&shared) };
        let (download, compute) = (another(), another());
        let locker = SimLocker::new(&shared);
        SimDevice { shared, locker, upload, download, compute, parking: Parking::new(), strict }
    }

    /// The default compute queue; moves inside buffers run here.
    pub fn queue(&self) -> &SimQueue {
        &self.compute
    }

    /// Another queue.
    pub fn new_queue(&self) -> SimQueue {
        SimQueue::new(&self.shared)
    }

    /// The missing waits found so far (at most some 10,000), in the order of submission.
    pub fn hazards(&self) -> Vec<Hazard> {
        self.shared.with(|sim| sim.hazards.clone())
    }

    /// The reads of bytes that nothing wrote, found so far among the operations that ran.
    pub fn poison_reads(&self) -> Vec<PoisonRead> {
        self.shared.with(|sim| sim.poison_reads.clone())
    }

    /// For tests: fails when a missing wait or a read of poison was found.
    ///
    /// # Panics
    /// With the first few of them.
    #[track_caller]
    pub fn assert_no_hazards(&self) {
        let (hazards, reads) = (self.hazards(), self.poison_reads());
        let found = hazards.iter().map(ToString::to_string).chain(reads.iter().map(ToString::to_string));
        let lines: Vec<String> = found.take(8).collect();
        let total = hazards.len() + reads.len();
        assert!(lines.is_empty(), "the simulated device found {total} mistakes:\n{}", lines.join("\n"));
    }

    /// Strikes the `k`-th `call` from now, counted from 1.
    pub fn inject(&self, call: Call, k: u64, fault: Fault) {
        self.shared.with(|sim| sim.faults.add(call, k, fault));
    }

    /// Nothing goes wrong from now on, unless injected anew. A lost device stays lost.
    pub fn clear_faults(&self) {
        self.shared.with(|sim| sim.faults.clear());
    }

    /// Takes the device away, as [`Fault::DeviceLost`] does.
    pub fn lose(&self) {
        self.shared.with(|sim| sim.lose());
    }

    /// Runs everything submitted to any queue, and lets the host know it ended.
    ///
    /// # Errors
    /// The device is lost.
    pub fn drain_all(&self) -> Result<(), SimError> {
        self.shared.with(|sim| {
            for queue in 0..sim.queues.len() {
                let mark = sim.peek_mark(queue);
                sim.run_until(&mark);
                if !sim.reached(&mark) {
                    return Err(SimError::DeviceLost);
                }
                sim.host_learns(&mark);
            }
            Ok(())
        })
    }

    /// What is still held.
    pub fn leaks(&self) -> LeakReport {
        let parked = self.parking.len();
        self.shared.with(|sim| LeakReport {
            buffers: sim.buffers.len(),
            buffer_bytes: sim.memory.current,
            regions: sim.regions.len(),
            locked_bytes: sim.locked,
            parked,
            queued: sim.queued(),
        })
    }

    /// Checks that `buffer` is this device's and has `len` bytes from `at`.
    fn check(&self, buffer: &SimBuffer, at: u64, len: usize) -> Result<Range<u64>, SimError> {
        if !Arc::ptr_eq(&buffer.owner().shared, &self.shared) {
            return Err(SimError::Foreign { what: "buffer" });
        }
        let (len, size) = (len as u64, buffer.size());
        let end = at.checked_add(len).ok_or(RangeError::OutOfBounds { start: at, len, size })?;
        check_range(size, buffer.grain(), &(at..end))?;
        Ok(at..end)
    }

    /// Submits a transfer and records behind it. `device` and `host` are its accesses.
    fn start(
        &self,
        call: Call,
        lane: &SimQueue,
        slice: SliceOf<Self>,
        device: (Place, Range<u64>, Access),
        host: Access,
        work: impl FnOnce(HostBytes) -> Work,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        self.parking.sweep();
        let region = slice.region();
        if !region.is_reached_by(&self.shared) {
            return Err(Refused { slice: Some(slice), error: SimError::Foreign { what: "slice" } });
        }
        let bytes = slice.offset() as u64..(slice.offset() + slice.len()) as u64;
        let place = Place::Host(region.number());
        let base = region.base().as_ptr().wrapping_add(slice.offset());
        // SAFETY: from here the slice belongs to a ticket, which gives it up only once the event behind this work is
        // settled: to its waiter, to the parking or, forgotten, to nobody. Without an event the queue is drained
        // first, and where that fails the slice is forgotten below.
        let pointer = unsafe { HostBytes::new(base, slice.len()) };
        let submitted = self.shared.with(|sim| {
            let admission = match sim.admit(call, slice.len() as u64) {
                Ok(admission) => admission,
                Err(error) => return Err((error, true)),
            };
            // Between two transfers the slice was the host's, to read and to write.
            sim.host_access(Call::HostSlice, &[(place, bytes.clone(), Access::Write)]);
            sim.submit(lane.number(), call, &[device, (place, bytes, host)], admission.fate, work(pointer));
            let recorded = match admission.record_fails {
                true => Err(SimError::Refused { call: Call::Record, number: 0 }),
                false => lane.try_record_transfer(sim),
            };
            recorded.map_err(|error| {
                // Work of a lost device was discarded: it touches nothing any more.
                let ended = lane.try_finish(sim).is_ok() || sim.lost;
                (error, ended)
            })
        });
        match submitted {
            Ok(event) => Ok(Ticket::new(slice, event, &self.parking)),
            Err((error, true)) => Err(Refused { slice: Some(slice), error }),
            Err((error, false)) => {
                std::mem::forget(slice);
                Err(Refused { slice: None, error })
            }
        }
    }
}

impl Transfer for SimDevice {
    type Error = SimError;
    type Event = SimEvent;
    type Queue = SimQueue;
    type Buffer = SimBuffer;
    type Locker = SimLocker;

    fn locker(&self) -> &SimLocker {
        &self.locker
    }

    fn reaches(&self, other: &Self) -> bool {
        self.shared.is_beside(&other.shared)
    }

    fn buffer(&self, size: u64) -> Result<SimBuffer, SimError> {
        SimBuffer::new(size, &self.compute)
    }

    fn lane(&self, direction: Lane) -> &SimQueue {
        match direction {
            Lane::Upload => &self.upload,
            Lane::Download => &self.download,
        }
    }

    fn upload(
        &self,
        src: SliceOf<Self>,
        dst: &mut SimBuffer,
        at: u64,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        let range = match self.check(dst, at, src.len()) {
            Ok(range) => range,
            Err(error) => return Err(Refused { slice: Some(src), error }),
        };
        let access = (dst.owner().place(), range, Access::Write);
        let dst = Arc::clone(dst.owner());
        self.start(Call::Upload, &self.upload, src, access, Access::Read, |src| Work::Upload { src, dst, at })
    }

    fn download(
        &self,
        src: &SimBuffer,
        from: u64,
        dst: SliceOf<Self>,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        let range = match self.check(src, from, dst.len()) {
            Ok(range) => range,
            Err(error) => return Err(Refused { slice: Some(dst), error }),
        };
        let access = (src.owner().place(), range, Access::Read);
        let src = Arc::clone(src.owner());
        self.start(Call::Download, &self.download, dst, access, Access::Write, |dst| Work::Download {
            src,
            from,
            dst,
        })
    }

    fn parking(&self) -> &Parking<Self> {
        &self.parking
    }

    fn memory(&self) -> DeviceMemory {
        self.shared.with(|sim| sim.memory)
    }

    fn read_now(&self, src: &SimBuffer, from: u64, dst: &mut [u8]) -> Result<(), SimError> {
        self.check(src, from, dst.len())?;
        src.owner().read_now(from, dst)
    }

    fn write_now(&self, dst: &mut SimBuffer, at: u64, src: &[u8]) -> Result<(), SimError> {
        self.check(dst, at, src.len())?;
        dst.owner().write_now(at, src)
    }
}

impl Drop for SimDevice {
    fn drop(&mut self) {
        if self.strict && !std::thread::panicking() {
            self.assert_no_hazards();
        }
    }
}

impl core::fmt::Debug for SimDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SimDevice").field("leaks", &self.leaks()).finish_non_exhaustive()
    }
}
