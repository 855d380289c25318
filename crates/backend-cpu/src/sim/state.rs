//! The simulated device's one state: what was submitted, what is known, what was found.

use super::clock::{Clock, HOST, Shadow, Use, queue_slot};
use super::fault::Faults;
use super::poison::Written;
use super::rng::Rng;
use super::run::Pending;
use super::{Call, Fault, Hazard, Operation, Place, PoisonRead, SimConfig, SimError};
use crate::sync::lock;
use pinned_host::{Access, DeviceMemory};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// What the handles (device, queues, buffers, events, regions) of one simulated device share.
pub(crate) struct Shared {
    pub(crate) grain: u64,
    sim: Mutex<Sim>,
    /// Places whose owner was dropped. A list of its own, so that dropping a handle never needs `sim`: the last
    /// clone of a buffer may go while an operation runs.
    gone: Mutex<Vec<Place>>,
    host: Arc<Host>,
}

/// What simulated devices share that lie in one host: the numbers of places, so that a region of any of them is one place to all.
#[derive(Default)]
pub(crate) struct Host {
    last_place: AtomicU64,
}

impl Shared {
    pub(crate) fn new(config: SimConfig, host: Arc<Host>) -> Self {
        Shared { grain: config.grain, sim: Mutex::new(Sim::new(config)), gone: Mutex::new(Vec::new()), host }
    }

    /// Runs `f` on the state. What `f` discards is dropped after the state is free again, since it may hold
    /// anything a kernel captured.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Sim) -> R) -> R {
        assert!(!super::run::in_kernel(), "a simulated kernel must not use its device");
        let mut sim = lock(&self.sim);
        for place in lock(&self.gone).drain(..) {
            sim.forget(place);
        }
        let result = f(&mut sim);
        let discarded = std::mem::take(&mut sim.discarded);
        drop(sim);
        drop(discarded);
        result
    }

    pub(crate) fn new_place_number(&self) -> u64 {
        self.host.last_place.fetch_add(1, Relaxed)
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Whether both lie in one host, and reach the same host memory.
    pub(crate) fn is_beside(&self, other: &Shared) -> bool {
        Arc::ptr_eq(&self.host, &other.host)
    }

    pub(crate) fn let_go(&self, place: Place) {
        lock(&self.gone).push(place);
    }
}

/// One access of an operation, as it is declared.
pub(crate) type Touches<'a> = &'a [(Place, Range<u64>, Access)];

/// A point on a queue's list, and all that is known to have ended before it.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) queue: usize,
    /// Operations up to this one were reported by an earlier event.
    pub(crate) from: u64,
    pub(crate) value: u64,
    pub(crate) clock: Arc<Clock>,
    /// The mark of a transfer: it speaks of operation `value` alone, and takes no failure from the events to come.
    pub(crate) transfer: bool,
}

/// An operation that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) operation: u64,
    /// It is reported by the transfer's own event, and by no other.
    pub(crate) transfer: bool,
    pub(crate) error: SimError,
}

/// How an operation will end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Good,
    Fail,
    BitFlip,
    Delay,
    Short,
}

pub(crate) struct Sim {
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    pub(crate) queues: Vec<VirtualQueue>,
    pub(crate) buffers: BTreeMap<u64, Store>,
    pub(crate) lost: bool,
    pub(crate) hazards: Vec<Hazard>,
    pub(crate) poison_reads: Vec<PoisonRead>,
    /// What was taken from the queues unrun; see [`Shared::with`].
    pub(crate) discarded: Vec<Pending>,
    pub(crate) memory: DeviceMemory,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) regions: BTreeMap<u64, Region>,
    pub(crate) locked: u64,
    pub(crate) lock_limit: Option<u64>,
    /// What the host has waited for; its own slot counts its accesses.
    host: Clock,
    shadows: BTreeMap<Place, Shadow>,
    operations: u64,
}

/// A buffer's bytes.
pub(crate) struct Store {
    pub(crate) bytes: Vec<u8>,
    pub(crate) written: Written,
}

/// A host region's account.
pub(crate) struct Region {
    pub(crate) bytes: u64,
    pub(crate) locked: bool,
}

pub(crate) struct VirtualQueue {
    /// Submitted and not run, oldest first.
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) done: u64,
    /// Who goes first among queues that can run; drawn anew now and then.
    pub(crate) favour: u64,
    /// Ascending by operation.
    pub(crate) failures: Vec<Failure>,
    submitted: u64,
    recorded: u64,
    /// What has ended before the queue's next operation starts.
    clock: Clock,
}

impl Sim {
    fn new(config: SimConfig) -> Self {
        Sim {
            rng: Rng::new(config.seed),
            faults: Faults::new(config.faults),
            queues: Vec::new(),
            buffers: BTreeMap::new(),
            lost: false,
            hazards: Vec::new(),
            poison_reads: Vec::new(),
            discarded: Vec::new(),
            memory: DeviceMemory::default(),
            memory_limit: config.memory_limit,
            regions: BTreeMap::new(),
            locked: 0,
            lock_limit: config.lock_limit,
            host: Clock::default(),
            shadows: BTreeMap::new(),
            operations: 0,
        }
    }

    pub(crate) fn new_queue(&mut self) -> usize {
        let favour = self.rng.next();
        self.queues.push(VirtualQueue {
            pending: VecDeque::new(),
            done: 0,
            favour,
            failures: Vec::new(),
            submitted: 0,
            recorded: 0,
            clock: Clock::default(),
        });
        self.queues.len() - 1
    }

    /// Asks the device and the fault plan whether `call` goes through, and how its work will end.
    pub(crate) fn admit(&mut self, call: Call, asked: u64) -> Result<Admission, SimError> {
        if self.lost {
            return Err(SimError::DeviceLost);
        }
        let (number, fault) = self.faults.strike(call, &mut self.rng);
        let refused = Err(SimError::Refused { call, number });
        let good = Admission { fate: Fate::Good, record_fails: false };
        let Some(fault) = fault else { return Ok(good) };
        match fault {
            Fault::OutOfMemory if call == Call::Lock => {
                Err(SimError::LockLimit { asked, locked: self.locked, limit: self.lock_limit })
            }
            Fault::OutOfMemory => {
                Err(SimError::OutOfMemory { asked, held: self.memory.current, limit: self.memory_limit })
            }
            Fault::Refuse => refused,
            Fault::DeviceLost => {
                self.lose();
                Err(SimError::DeviceLost)
            }
            Fault::FailRecord if matches!(call, Call::Upload | Call::Download) => {
                Ok(Admission { record_fails: true, ..good })
            }
            Fault::FailRecord => refused,
            _ if !matches!(call, Call::Upload | Call::Download | Call::CopyWithin | Call::Launch) => refused,
            Fault::Fail => Ok(Admission { fate: Fate::Fail, ..good }),
            Fault::BitFlip => Ok(Admission { fate: Fate::BitFlip, ..good }),
            Fault::Delay => Ok(Admission { fate: Fate::Delay, ..good }),
            Fault::Short => Ok(Admission { fate: Fate::Short, ..good }),
        }
    }

    /// Takes the device away: what is queued never runs.
    pub(crate) fn lose(&mut self) {
        self.lost = true;
        for queue in &mut self.queues {
            self.discarded.extend(queue.pending.drain(..));
        }
    }

    /// Submits work to a queue, checking its accesses against all before.
    pub(crate) fn submit(
        &mut self,
        queue: usize,
        call: Call,
        touches: Touches<'_>,
        fate: Fate,
        work: super::run::Work,
    ) {
        let operation = self.next_operation(call, Some(queue));
        let lane = &mut self.queues[queue];
        lane.submitted += 1;
        lane.clock.join(&self.host);
        lane.clock.set(queue_slot(queue), lane.submitted);
        lane.pending.push_back(Pending { operation, work, fate });
        let by = Use { slot: queue_slot(queue), time: lane.submitted, operation };
        check(&mut self.shadows, &mut self.hazards, touches, &lane.clock, by);
    }

    /// An access by the host itself, which has happened when this returns.
    pub(crate) fn host_access(&mut self, call: Call, touches: Touches<'_>) -> Operation {
        let operation = self.next_operation(call, None);
        let time = self.host.get(HOST) + 1;
        self.host.set(HOST, time);
        check(&mut self.shadows, &mut self.hazards, touches, &self.host, Use { slot: HOST, time, operation });
        operation
    }

    /// Orders the next work of `queue` after `mark`, for the checks.
    pub(crate) fn learn(&mut self, queue: usize, mark: &Mark) {
        self.queues[queue].clock.join(&mark.clock);
    }

    /// The host has seen that what `mark` speaks of has ended.
    pub(crate) fn host_learns(&mut self, mark: &Mark) {
        self.host.join(&mark.clock);
    }

    /// The point behind everything submitted to `queue`.
    pub(crate) fn mark(&mut self, queue: usize) -> Mark {
        let host = &self.host;
        let lane = &mut self.queues[queue];
        lane.clock.join(host);
        let from = std::mem::replace(&mut lane.recorded, lane.submitted);
        let clock = Arc::new(lane.clock.clone());
        Mark { queue, from, value: lane.submitted, clock, transfer: false }
    }

    /// As [`mark`](Self::mark), taking no failure from the next event.
    pub(crate) fn peek_mark(&self, queue: usize) -> Mark {
        let lane = &self.queues[queue];
        let clock = Arc::new(lane.clock.clone());
        Mark { queue, from: lane.submitted, value: lane.submitted, clock, transfer: false }
    }

    /// The point behind a transfer just submitted to `queue`.
    pub(crate) fn transfer_mark(&self, queue: usize) -> Mark {
        Mark { transfer: true, ..self.peek_mark(queue) }
    }

    pub(crate) fn reached(&self, mark: &Mark) -> bool {
        self.queues[mark.queue].done >= mark.value
    }

    /// How the work that `mark` speaks of ended, once it has.
    pub(crate) fn outcome(&self, mark: &Mark) -> Result<(), SimError> {
        let reported = |failure: &&Failure| match mark.transfer {
            true => failure.operation == mark.value,
            false => !failure.transfer && failure.operation > mark.from && failure.operation <= mark.value,
        };
        match self.queues[mark.queue].failures.iter().find(reported) {
            Some(failure) => Err(failure.error.clone()),
            None => Ok(()),
        }
    }

    /// Number of operations that were submitted and have not run.
    pub(crate) fn queued(&self) -> usize {
        self.queues.iter().map(|queue| queue.pending.len()).sum()
    }

    fn next_operation(&mut self, call: Call, queue: Option<usize>) -> Operation {
        self.operations += 1;
        Operation { number: self.operations, call, queue }
    }

    /// Drops what is known of a place whose owner is gone.
    fn forget(&mut self, place: Place) {
        self.shadows.remove(&place);
        match place {
            Place::Buffer(number) => {
                if let Some(store) = self.buffers.remove(&number) {
                    self.memory.current -= store.bytes.len() as u64;
                }
            }
            Place::Host(number) => {
                if let Some(region) = self.regions.remove(&number).filter(|region| region.locked) {
                    self.locked -= region.bytes;
                }
            }
        }
    }
}

/// The answer of [`Sim::admit`].
pub(crate) struct Admission {
    pub(crate) fate: Fate,
    pub(crate) record_fails: bool,
}

/// Checks all accesses of one operation, then enters them: an operation is in no conflict with itself.
fn check(
    shadows: &mut BTreeMap<Place, Shadow>,
    hazards: &mut Vec<Hazard>,
    touches: Touches<'_>,
    clock: &Clock,
    by: Use,
) {
    for (place, range, access) in touches {
        let shadow = shadows.entry(*place).or_default();
        if hazards.len() < MAX_REPORTS {
            shadow.check(*place, range, *access, clock, by.operation, hazards);
        }
    }
    // Reads first: a write of the same operation to the same bytes is the later use.
    for wanted in [Access::Read, Access::Write] {
        for (place, range, access) in touches.iter().filter(|(_, _, access)| *access == wanted) {
            shadows.entry(*place).or_default().enter(range, *access, by);
        }
    }
}

/// A program with a wait missing in its inner loop is not to fill memory with reports of it.
pub(crate) const MAX_REPORTS: usize = 10_000;
