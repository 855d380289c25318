//! Queues and events of the simulated device.

use super::run::{NO_BYTES, Work};
use super::state::{Fate, Mark, Shared, Sim};
use super::{Call, SimError, Touch};
use pinned_host::{Event, Queue};
use std::sync::Arc;

/// A queue of a [`SimDevice`](super::SimDevice): a list of operations that run when the host waits.
#[derive(Clone)]
pub struct SimQueue {
    shared: Arc<Shared>,
    index: usize,
}

impl SimQueue {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        SimQueue { shared: Arc::clone(shared), index: shared.with(Sim::new_queue) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Its number on the device, as reports name it.
    pub fn number(&self) -> usize {
        self.index
    }

    /// Enqueues a kernel over the ranges it declares; reads and writes of them are checked as any operation's.
    ///
    /// `kernel` gets a copy of each range, in the order of `touches`; what it leaves in those declared as
    /// [`Access::Write`](pinned_host::Access) is written back. It runs while the device is locked, so it must not
    /// use the device: that is a panic, and a panic makes the operation fail.
    ///
    /// ```
    /// use allocator_core::DeviceBuffer;
    /// use backend_cpu::sim::{SimConfig, SimDevice};
    /// use pinned_host::{Access, Event, Queue, Transfer};
    ///
    /// let device = SimDevice::new(SimConfig::seeded(0));
    /// let mut buffer = device.buffer(8)?;
    /// device.write_now(&mut buffer, 0, &[1, 2, 3, 4])?;
    /// let (from, to) = (buffer.view(0..4)?, buffer.view(4..8)?);
    /// device.queue().launch(&[from.read(), to.write()], |bytes| {
    ///     let doubled = bytes[0].iter().map(|x| 2 * x).collect();
    ///     bytes[1] = doubled;
    /// })?;
    /// device.queue().record()?.synchronize()?;
    /// assert_eq!(to.bytes()?, [2, 4, 6, 8]);
    /// # Ok::<(), backend_cpu::sim::SimError>(())
    /// ```
    ///
    /// # Errors
    /// A buffer of another device, a fault, a lost device; nothing was enqueued.
    pub fn launch(
        &self,
        touches: &[Touch],
        kernel: impl FnOnce(&mut [Vec<u8>]) + Send + 'static,
    ) -> Result<(), SimError> {
        if !touches.iter().all(|touch| Arc::ptr_eq(&touch.owner.shared, &self.shared)) {
            return Err(SimError::Foreign { what: "buffer" });
        }
        let checked: Vec<_> =
            touches.iter().map(|touch| (touch.owner.place(), touch.range.clone(), touch.access)).collect();
        let owned = touches
            .iter()
            .map(|touch| (Arc::clone(&touch.owner), touch.range.clone(), touch.access))
            .collect();
        let work = Work::Kernel { touches: owned, run: Box::new(kernel) };
        self.shared.with(|sim| {
            let fate = sim.admit(Call::Launch, NO_BYTES)?.fate;
            sim.submit(self.index, Call::Launch, &checked, fate, work);
            Ok(())
        })
    }

    /// Waits for everything submitted, outside of what faults can strike.
    pub(crate) fn finish(&self, sim: &mut Sim) -> Result<(), SimError> {
        let mark = sim.peek_mark(self.index);
        sim.run_until(&mark);
        if !sim.reached(&mark) {
            return Err(SimError::DeviceLost);
        }
        sim.host_learns(&mark);
        Ok(())
    }

    /// Records, unless a fault says otherwise.
    pub(crate) fn try_record(&self, sim: &mut Sim) -> Result<SimEvent, SimError> {
        sim.admit(Call::Record, NO_BYTES)?;
        Ok(SimEvent { shared: Arc::clone(&self.shared), mark: sim.mark(self.index) })
    }

    /// Records behind a transfer just submitted, unless a fault says otherwise.
    pub(crate) fn try_record_transfer(&self, sim: &mut Sim) -> Result<SimEvent, SimError> {
        sim.admit(Call::Record, NO_BYTES)?;
        Ok(SimEvent { shared: Arc::clone(&self.shared), mark: sim.transfer_mark(self.index) })
    }

    /// Waits for everything submitted, however it went, unless a fault says otherwise.
    pub(crate) fn try_finish(&self, sim: &mut Sim) -> Result<(), SimError> {
        sim.admit(Call::Drain, NO_BYTES)?;
        self.finish(sim)
    }

    /// Drains, unless a fault says otherwise.
    pub(crate) fn try_drain(&self, sim: &mut Sim) -> Result<(), SimError> {
        sim.admit(Call::Drain, NO_BYTES)?;
        let mark = sim.mark(self.index);
        self.finish(sim)?;
        sim.outcome(&mark)
    }
}

impl Queue for SimQueue {
    type Event = SimEvent;

    fn wait(&self, event: &SimEvent) -> Result<(), SimError> {
        if !Arc::ptr_eq(&event.shared, &self.shared) {
            return Err(SimError::Foreign { what: "event" });
        }
        self.shared.with(|sim| {
            sim.admit(Call::Wait, NO_BYTES)?;
            sim.learn(self.index, &event.mark);
            sim.submit(self.index, Call::Wait, &[], Fate::Good, Work::Wait(event.mark.clone()));
            Ok(())
        })
    }

    fn record(&self) -> Result<SimEvent, SimError> {
        self.shared.with(|sim| self.try_record(sim))
    }

    fn same_queue(&self, other: &Self) -> bool {
        self.index == other.index && Arc::ptr_eq(&self.shared, &other.shared)
    }

    fn drain(&self) -> Result<(), SimError> {
        self.shared.with(|sim| self.try_drain(sim))
    }
}

impl core::fmt::Debug for SimQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SimQueue").field("number", &self.index).finish_non_exhaustive()
    }
}

/// A point on the list of one [`SimQueue`].
///
/// As on [`CpuDevice`](crate::CpuDevice), a failed operation is reported by the first event recorded after it; a failed
/// transfer by its own event, and by no other. An
/// event that was pending when the device was lost reports that, and is settled: its work never runs.
#[derive(Clone)]
pub struct SimEvent {
    shared: Arc<Shared>,
    mark: Mark,
}

impl SimEvent {
    /// What the host learns by looking: nothing while the work is pending.
    fn observe(&self, sim: &mut Sim) -> Result<bool, SimError> {
        if !sim.reached(&self.mark) {
            return if sim.lost { Err(SimError::DeviceLost) } else { Ok(false) };
        }
        sim.host_learns(&self.mark);
        sim.outcome(&self.mark).map(|()| true)
    }
}

impl Event for SimEvent {
    type Error = SimError;

    fn query(&self) -> Result<bool, SimError> {
        self.shared.with(|sim| {
            sim.poll(&self.mark);
            self.observe(sim)
        })
    }

    fn synchronize(&self) -> Result<(), SimError> {
        self.shared.with(|sim| {
            sim.run_until(&self.mark);
            self.observe(sim).map(drop)
        })
    }

    fn covers(&self, earlier: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &earlier.shared)
            && self.mark.queue == earlier.mark.queue
            && self.mark.value >= earlier.mark.value
    }

    fn is_settled(&self) -> bool {
        self.shared.with(|sim| {
            sim.poll(&self.mark);
            !matches!(self.observe(sim), Ok(false))
        })
    }
}

impl core::fmt::Debug for SimEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Mark { queue, value, .. } = &self.mark;
        f.debug_struct("SimEvent").field("queue", queue).field("value", value).finish_non_exhaustive()
    }
}
