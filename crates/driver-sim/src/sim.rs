//! The one state of the device: what was made, what was found, how it fares.

use crate::clock::Clock;
use crate::config::{Config, OnUndefined};
use crate::fault::{Class, Fault, Faults};
use crate::kernel::Twin;
use crate::lane::{EventState, Lane, StreamState};
use crate::memory::Memory;
use crate::result::CuError;
use crate::rng::Rng;
use crate::run::Work;
use crate::types::{Context, Event, Function, Module, Pool, Stream};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::ThreadId;

/// The simulated device and all that hangs on it.
pub(crate) struct Sim {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    /// Rises with each reset, so that a thread that waited meanwhile notices.
    pub(crate) epoch: u64,
    pub(crate) initialized: bool,
    pub(crate) memory: Memory,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) streams: BTreeMap<Stream, StreamState>,
    pub(crate) streams_made: u64,
    /// The lane of each thread's own default stream.
    pub(crate) thread_lanes: HashMap<ThreadId, usize>,
    pub(crate) events: BTreeMap<Event, EventState>,
    pub(crate) contexts: Contexts,
    pub(crate) pools: Pools,
    pub(crate) modules: BTreeMap<Module, Vec<&'static Twin>>,
    pub(crate) functions: BTreeMap<Function, (Module, &'static Twin)>,
    /// What the host has waited for; its own slot counts its accesses.
    pub(crate) host: Clock,
    /// What every call answers from now on.
    pub(crate) broken: Option<CuError>,
    /// Host memory that copies were to write when the device broke.
    pub(crate) doubtful: Vec<Range<u64>>,
    /// How the work of the current call is to fail.
    pub(crate) fate: Option<CuError>,
    /// Work that will fail when it runs: its lane and number.
    pub(crate) doomed: Option<(usize, u64)>,
    pub(crate) operations: u64,
    /// Simulated nanoseconds of work that has run.
    pub(crate) nanoseconds: u64,
    /// To the device, to the host, within the device, by kernels.
    pub(crate) copied: [u64; 4],
    pub(crate) undefined: Undefined,
}

/// Contexts: the primary one, and those that were made.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    /// Handle of the primary context while it is retained, and how often.
    pub(crate) primary: Option<(Context, u64)>,
    pub(crate) primary_flags: u32,
    /// Others, with their flags.
    pub(crate) made: BTreeMap<Context, u32>,
    /// Limits that were set, by number.
    pub(crate) limits: BTreeMap<u32, usize>,
}

/// Memory pools: the default one, and those that were made.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    /// Handle of the default pool, once somebody asked.
    pub(crate) default: Option<Pool>,
    /// The pool that `cuMemAllocAsync` uses, if not the default one.
    pub(crate) current: Option<Pool>,
    pub(crate) all: BTreeMap<Pool, PoolState>,
}

/// What a pool is told, and what it has given out.
#[derive(Debug, Default, Clone)]
pub(crate) struct PoolState {
    pub(crate) release_threshold: u64,
    /// The three attributes about reuse, by number from 1.
    pub(crate) reuse: [i32; 3],
    pub(crate) max_size: u64,
    pub(crate) used: u64,
    pub(crate) used_high: u64,
}

/// Undefined uses that were found.
#[derive(Debug, Default)]
pub(crate) struct Undefined {
    pub(crate) count: u64,
    /// The first of them in words.
    pub(crate) texts: Vec<String>,
}

impl Sim {
    pub(crate) fn new(config: Config, faults: Faults, epoch: u64) -> Self {
        let rng = Rng::new(config.seed);
        Sim {
            config,
            rng,
            faults,
            epoch,
            initialized: false,
            memory: Memory::default(),
            lanes: vec![Lane::legacy()],
            streams: BTreeMap::new(),
            streams_made: 0,
            thread_lanes: HashMap::new(),
            events: BTreeMap::new(),
            contexts: Contexts::default(),
            pools: Pools::default(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            host: Clock::default(),
            broken: None,
            doubtful: Vec::new(),
            fate: None,
            doomed: None,
            operations: 0,
            nanoseconds: 0,
            copied: [0; 4],
            undefined: Undefined::default(),
        }
    }

    /// Asks the state of the device and the faults whether a call goes through.
    pub(crate) fn admit(&mut self, name: &'static str, class: Class) -> Result<(), CuError> {
        if class == Class::Always || class == Class::Constant {
            return Ok(());
        }
        let struck = self.faults.strike(name, class);
        if let Some(error) = self.broken {
            return Err(error);
        }
        match struck {
            None => Ok(()),
            Some(Fault::OutOfMemory) => Err(CuError::OUT_OF_MEMORY),
            Some(Fault::Refused(error)) => Err(error),
            Some(Fault::DeviceLost) => Err(self.break_with(CuError::UNKNOWN)),
            Some(Fault::Sticky(error)) if class == Class::Enqueue => {
                self.fate = Some(error);
                Ok(())
            }
            Some(Fault::Sticky(error)) => Err(self.break_with(error)),
        }
    }

    /// Breaks the device: what is in the streams never runs. A driver says nothing of a copy that an engine has begun, so
    /// what copies were to write on the host counts as in use for good.
    pub(crate) fn break_with(&mut self, error: CuError) -> CuError {
        self.doomed = None;
        for pending in self.lanes.iter().flat_map(|lane| &lane.pending) {
            if let Work::Copies(copies) = &pending.work {
                let to_host = copies.iter().filter(|copy| copy.direction == TO_HOST);
                self.doubtful.extend(to_host.map(|copy| copy.dst..copy.dst + copy.len));
            }
        }
        self.lanes.iter_mut().for_each(|lane| lane.pending.clear());
        *self.broken.get_or_insert(error)
    }

    /// Enters an undefined use, and says so.
    pub(crate) fn report(&mut self, text: String) {
        self.undefined.count += 1;
        let quiet = self.config.on_undefined == OnUndefined::Count;
        if !quiet && self.undefined.count <= MOST_PRINTED {
            eprintln!("driver-sim: undefined use: {text}");
        }
        if self.config.on_undefined == OnUndefined::Abort {
            std::process::abort();
        }
        if self.undefined.texts.len() < MOST_KEPT {
            self.undefined.texts.push(text);
        }
    }

    /// Whether `bytes` more of device memory are there.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), CuError> {
        let room = self.config.memory.saturating_sub(self.memory.used);
        if bytes > room { Err(CuError::OUT_OF_MEMORY) } else { Ok(()) }
    }

    /// Number of operations that were enqueued and have not run.
    pub(crate) fn pending(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.pending.len() as u64).sum()
    }
}

/// A value that no handle in this process had before: neither 0 nor a pointer that could be followed.
pub(crate) fn new_handle() -> usize {
    HANDLES | (LAST_HANDLE.fetch_add(1, Relaxed) << 4)
}

/// Whether a value was handed out as a handle.
pub(crate) fn was_handle(value: usize) -> bool {
    let number = (value & !HANDLES) >> 4;
    value & HANDLES == HANDLES && (1..LAST_HANDLE.load(Relaxed)).contains(&number)
}

static LAST_HANDLE: AtomicUsize = AtomicUsize::new(1);
/// Beyond the addresses of user space on every system with 47 bits of them.
const HANDLES: usize = 0x51c0_0000_0000_0000;
/// Direction of a copy to the host.
const TO_HOST: usize = 1;
/// A program with a wait missing in its inner loop is not to fill its log, nor memory.
const MOST_PRINTED: u64 = 50;
const MOST_KEPT: usize = 10_000;
