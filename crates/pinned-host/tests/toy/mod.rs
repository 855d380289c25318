//! A device of this crate's own to run the suites on: host memory, run at once or only when the host waits.
//!
//! Lazy, it runs no more than what an event needs: its queue up to there, and what that waits for. So a wait that
//! is missing shows as stale bytes. `deaf` removes the waits: the suites must notice.

use allocator_core::{DeviceBuffer, RangeError, check_copy, check_range};
use pinned_host::conformance::Harness;
use pinned_host::*;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy)]
pub(crate) struct Toy {
    pub(crate) lazy: bool,
    pub(crate) deaf: bool,
    pub(crate) grain: u64,
}

impl Harness for Toy {
    type Device = Device;

    fn device(&self) -> Device {
        Device::new(*self)
    }

    fn fail_next_record(&self, device: &Device, lane: Lane) -> bool {
        lock(&device.state).failing = Some(device.lane(lane).index);
        true
    }

    fn lose_device(&self, device: &Device) -> bool {
        let mut state = lock(&device.state);
        state.lost = true;
        state.lines.iter_mut().for_each(|line| line.ops.clear());
        true
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ToyError {
    #[error(transparent)]
    Range(#[from] RangeError),
    #[error("the event is another device's")]
    Foreign,
    #[error("record failed, as asked")]
    Record,
    #[error("the device is lost")]
    Lost,
}

impl DeviceError for ToyError {
    fn kind(&self) -> ErrorKind {
        match self {
            ToyError::Range(_) | ToyError::Foreign => ErrorKind::InvalidUse,
            ToyError::Record => ErrorKind::Failed,
            ToyError::Lost => ErrorKind::DeviceLost,
        }
    }
}

struct State {
    toy: Toy,
    lines: [Line; 3],
    failing: Option<usize>,
    lost: bool,
}

#[derive(Default)]
struct Line {
    ops: VecDeque<Op>,
    submitted: u64,
    done: u64,
}

enum Op {
    Wait { line: usize, number: u64 },
    Run(Box<dyn FnOnce() + Send>),
}

impl State {
    fn submit(&mut self, line: usize, op: Op) -> Result<(), ToyError> {
        if self.lost {
            return Err(ToyError::Lost);
        }
        self.lines[line].submitted += 1;
        self.lines[line].ops.push_back(op);
        if !self.toy.lazy {
            self.run(line, self.lines[line].submitted);
        }
        Ok(())
    }

    /// Runs a line up to an operation, and first what that needs of the others. Waits point only backwards.
    fn run(&mut self, line: usize, number: u64) {
        while self.lines[line].done < number {
            match self.lines[line].ops.pop_front() {
                Some(Op::Wait { line, number }) => self.run(line, number),
                Some(Op::Run(copy)) => copy(),
                None => return,
            }
            self.lines[line].done += 1;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Device {
    state: Arc<Mutex<State>>,
    queues: [ToyQueue; 3],
    memory: Arc<Mutex<DeviceMemory>>,
    parking: Parking<Device>,
    grain: u64,
}

impl Device {
    fn new(toy: Toy) -> Self {
        let state = State { toy, lines: Default::default(), failing: None, lost: false };
        let state = Arc::new(Mutex::new(state));
        let queues = [0, 1, 2].map(|index| ToyQueue { state: Arc::clone(&state), index });
        Device { state, queues, memory: Arc::default(), parking: Parking::new(), grain: toy.grain }
    }

    /// Enqueues a copy between slice and buffer, and makes the ticket.
    fn copy(
        &self,
        lane: Lane,
        mut slice: SliceOf<Self>,
        buffer: &Buffer,
        at: u64,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        self.parking.sweep();
        let (queue, len) = (self.lane(lane), slice.len());
        let checked = check_copy(buffer.size(), self.grain, &(0..len as u64), at);
        if let Err(error) = checked {
            return Err(Refused { slice: Some(slice), error: error.into() });
        }
        let host = HostPtr(slice.as_mut_ptr());
        let (bytes, at) = (Arc::clone(&buffer.bytes), at as usize);
        let run = Op::Run(Box::new(move || {
            let mut bytes = lock(&bytes.0);
            let device = &mut bytes[at..at + len];
            // SAFETY: the slice stays with its ticket, or is parked or leaked, until this has run or is dropped.
            let host = unsafe { core::slice::from_raw_parts_mut(host.get(), len) };
            match lane {
                Lane::Upload => device.copy_from_slice(host),
                Lane::Download => host.copy_from_slice(device),
            }
        }));
        let submitted = lock(&self.state).submit(queue.index, run);
        if let Err(error) = submitted {
            return Err(Refused { slice: Some(slice), error });
        }
        match queue.record() {
            Ok(event) => Ok(Ticket::new(slice, event, &self.parking)),
            Err(error) => {
                let slice = queue.drain().is_ok().then_some(slice);
                Err(Refused { slice, error })
            }
        }
    }
}

struct HostPtr(*mut u8);
// SAFETY: the memory behind it is owned by a slice that nobody uses while the copy is in flight.
unsafe impl Send for HostPtr {}
impl HostPtr {
    fn get(&self) -> *mut u8 {
        self.0
    }
}

impl Transfer for Device {
    type Error = ToyError;
    type Event = ToyEvent;
    type Queue = ToyQueue;
    type Buffer = Buffer;
    type Locker = OsLocker;

    fn locker(&self) -> &OsLocker {
        &OsLocker
    }

    fn buffer(&self, size: u64) -> Result<Buffer, ToyError> {
        if lock(&self.state).lost {
            return Err(ToyError::Lost);
        }
        let mut memory = lock(&self.memory);
        memory.current += size;
        memory.peak = memory.peak.max(memory.current);
        let bytes = Bytes(Mutex::new(vec![0xa5; size as usize]), Arc::clone(&self.memory));
        Ok(Buffer { bytes: Arc::new(bytes), size, grain: self.grain, queue: self.queues[2].clone() })
    }

    fn lane(&self, direction: Lane) -> &ToyQueue {
        match direction {
            Lane::Upload => &self.queues[0],
            Lane::Download => &self.queues[1],
        }
    }

    fn upload(&self, src: SliceOf<Self>, dst: &mut Buffer, at: u64) -> Result<Ticket<Self>, Refused<Self>> {
        self.copy(Lane::Upload, src, dst, at)
    }

    fn download(&self, src: &Buffer, from: u64, dst: SliceOf<Self>) -> Result<Ticket<Self>, Refused<Self>> {
        self.copy(Lane::Download, dst, src, from)
    }

    fn parking(&self) -> &Parking<Self> {
        &self.parking
    }

    fn memory(&self) -> DeviceMemory {
        *lock(&self.memory)
    }

    fn read_now(&self, src: &Buffer, from: u64, dst: &mut [u8]) -> Result<(), ToyError> {
        check_copy(src.size, self.grain, &(0..dst.len() as u64), from)?;
        dst.copy_from_slice(&lock(&src.bytes.0)[from as usize..][..dst.len()]);
        Ok(())
    }

    fn write_now(&self, dst: &mut Buffer, at: u64, src: &[u8]) -> Result<(), ToyError> {
        check_copy(dst.size, self.grain, &(0..src.len() as u64), at)?;
        lock(&dst.bytes.0)[at as usize..][..src.len()].copy_from_slice(src);
        Ok(())
    }
}

struct Bytes(Mutex<Vec<u8>>, Arc<Mutex<DeviceMemory>>);

impl Drop for Bytes {
    fn drop(&mut self) {
        lock(&self.1).current -= lock(&self.0).len() as u64;
    }
}

#[derive(Clone)]
pub(crate) struct Buffer {
    bytes: Arc<Bytes>,
    size: u64,
    grain: u64,
    queue: ToyQueue,
}

impl DeviceBuffer for Buffer {
    type View<'a> = Range<u64>;
    type Error = ToyError;

    fn size(&self) -> u64 {
        self.size
    }

    fn grain(&self) -> u64 {
        self.grain
    }

    fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), ToyError> {
        check_copy(self.size, self.grain, &src, dst)?;
        let bytes = Arc::clone(&self.bytes);
        let run = move || lock(&bytes.0).copy_within(src.start as usize..src.end as usize, dst as usize);
        lock(&self.queue.state).submit(self.queue.index, Op::Run(Box::new(run)))
    }

    fn view(&self, range: Range<u64>) -> Result<Range<u64>, ToyError> {
        check_range(self.size, self.grain, &range)?;
        Ok(range)
    }
}

impl QueuedBuffer for Buffer {
    type Queue = ToyQueue;

    fn queue(&self) -> &ToyQueue {
        &self.queue
    }
}

#[derive(Clone)]
pub(crate) struct ToyQueue {
    state: Arc<Mutex<State>>,
    index: usize,
}

impl Queue for ToyQueue {
    type Event = ToyEvent;

    fn wait(&self, event: &ToyEvent) -> Result<(), ToyError> {
        if !Arc::ptr_eq(&self.state, &event.state) {
            return Err(ToyError::Foreign);
        }
        let mut state = lock(&self.state);
        if state.toy.deaf {
            return Ok(());
        }
        state.submit(self.index, Op::Wait { line: event.line, number: event.number })
    }

    fn record(&self) -> Result<ToyEvent, ToyError> {
        let mut state = lock(&self.state);
        if state.lost {
            return Err(ToyError::Lost);
        }
        if state.failing.take_if(|failing| *failing == self.index).is_some() {
            return Err(ToyError::Record);
        }
        let number = state.lines[self.index].submitted;
        Ok(ToyEvent { state: Arc::clone(&self.state), line: self.index, number })
    }

    fn same_queue(&self, other: &Self) -> bool {
        self.index == other.index && Arc::ptr_eq(&self.state, &other.state)
    }

    fn drain(&self) -> Result<(), ToyError> {
        let mut state = lock(&self.state);
        if state.lost {
            return Err(ToyError::Lost);
        }
        let number = state.lines[self.index].submitted;
        state.run(self.index, number);
        Ok(())
    }
}

#[derive(Clone)]
pub(crate) struct ToyEvent {
    state: Arc<Mutex<State>>,
    line: usize,
    number: u64,
}

impl Event for ToyEvent {
    type Error = ToyError;

    fn query(&self) -> Result<bool, ToyError> {
        let state = lock(&self.state);
        match state.lines[self.line].done >= self.number {
            false if state.lost => Err(ToyError::Lost),
            done => Ok(done),
        }
    }

    fn synchronize(&self) -> Result<(), ToyError> {
        lock(&self.state).run(self.line, self.number);
        self.query().map(|_| ())
    }

    fn covers(&self, earlier: &Self) -> bool {
        Arc::ptr_eq(&self.state, &earlier.state) && self.line == earlier.line && self.number >= earlier.number
    }

    fn is_settled(&self) -> bool {
        // A lost device has dropped what it had not run.
        !matches!(self.query(), Ok(false))
    }
}
