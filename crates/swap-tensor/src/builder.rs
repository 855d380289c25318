//! How a pool is described and made.

use crate::{
    DeviceIndex, OpenLease, SwapError, SwapPool, Timeline,
    books::Books,
    device::{Device, DeviceBooks, PerDevice},
    flight::DEPTH,
    host_memory::{PAGE, Split, host_error, stage, tier},
    lock::Tasks,
    lower::Lower,
    movers::Movers,
    observe::{Levels, Probe},
    policy::{EvictionPolicy, Lru},
    pool::{Inner, Last, OnLeak},
    rule::Rule,
    track::{Ledger, Tracking},
};
use allocator_core::{Arena, DeviceBuffer};
use pinned_host::{HostPool, Lane, PageLocker, Queue, QueuedBuffer, Transfer};
use std::{
    fmt,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

/// The description of a [`SwapPool`].
pub struct PoolBuilder<T: Transfer> {
    device: T,
    arena: ArenaMemory<T::Buffer>,
    /// The devices after the first.
    more: Vec<(T, ArenaMemory<T::Buffer>)>,
    host_memory: u64,
    staging: Option<u64>,
    deadline: Duration,
    disk_deadline: Duration,
    measure: bool,
    lower: Option<Lower>,
    name: Arc<str>,
    timeline: Option<Timeline>,
    on_leak: Option<OnLeak>,
    policy: Box<dyn EvictionPolicy>,
    schedule: bool,
    keep_below: u64,
    /// Who is told who holds which bytes.
    pub(crate) tracking: Tracking,
}

/// Where the arena's bytes come from.
enum ArenaMemory<B> {
    /// So many are allocated.
    Bytes(u64),
    /// They are there already.
    Buffer(B),
}

impl<T: Transfer> PoolBuilder<T> {
    pub(crate) fn new(device: T) -> Self {
        PoolBuilder {
            device,
            arena: ArenaMemory::Bytes(0),
            more: Vec::new(),
            host_memory: 0,
            staging: None,
            deadline: Duration::from_secs(30),
            disk_deadline: Duration::from_secs(30),
            measure: false,
            lower: None,
            name: "pool".into(),
            timeline: None,
            on_leak: None,
            policy: Box::<Lru>::default(),
            schedule: false,
            keep_below: 0,
            tracking: Tracking::default(),
        }
    }

    /// Length of the arena in bytes, a multiple of the device's grain. Required, unless there is a
    /// [`device_buffer`](Self::device_buffer); the later of the two calls counts.
    #[must_use]
    pub fn device_memory(mut self, bytes: u64) -> Self {
        self.arena = ArenaMemory::Bytes(bytes);
        self
    }

    /// Uses a buffer of the pool's device as the arena, all of it, instead of allocating one: memory that the program had
    /// before, such as a slice of cudarc's (`CudaDevice::buffer_over`).
    ///
    /// What was in it is gone. The pool uses it until the last handle of the pool is dropped; a clone kept by the caller
    /// names the same bytes and can outlive the pool. A buffer of another device is refused by the first transfer.
    #[must_use]
    pub fn device_buffer(mut self, buffer: T::Buffer) -> Self {
        self.arena = ArenaMemory::Buffer(buffer);
        self
    }

    /// Adds a device of the same kind, with an arena of `bytes` of its memory. It is the next [`DeviceIndex`]: the first one added is
    /// `DeviceIndex::new(1)`.
    ///
    /// Each device has a copy of the [`policy`](Self::policy). Host memory and staging are of the first device's kind, and every other
    /// device must reach them ([`Transfer::reaches`]).
    #[must_use]
    pub fn add_device(mut self, device: T, bytes: u64) -> Self {
        self.more.push((device, ArenaMemory::Bytes(bytes)));
        self
    }

    /// [`add_device`](Self::add_device) with a buffer of that device's as the arena, as [`device_buffer`](Self::device_buffer) has it.
    #[must_use]
    pub fn add_device_buffer(mut self, device: T, buffer: T::Buffer) -> Self {
        self.more.push((device, ArenaMemory::Buffer(buffer)));
        self
    }

    /// Bytes of host memory for tensors that are not on the device, beside staging. Default: none, which is enough for
    /// tensors that are only read and come from a file.
    ///
    /// A device may bound the length of a region ([`PageLocker::max_region`]); a tensor then needs room for all of it in one.
    /// It is locked if the locker's allowance covers it beside staging, pageable otherwise (see
    /// [`Stats::pageable_bytes`](crate::Stats::pageable_bytes)); on a device that reaches locked memory only it is locked or refused.
    #[must_use]
    pub fn host_memory(mut self, bytes: u64) -> Self {
        self.host_memory = bytes;
        self
    }

    /// Bytes of staging, half for each direction. Default: 16 MiB, locked as far as the locker's allowance goes.
    ///
    /// Asking for more than can be locked is an error; the default is not.
    #[must_use]
    pub fn staging(mut self, bytes: u64) -> Self {
        self.staging = Some(bytes);
        self
    }

    /// A tier below host memory: what has room in neither goes to this store, and comes back checked.
    ///
    /// Dirty tensors are written there when host memory is full, the one used longest ago first, or straight from the device where
    /// `host_memory` could not hold them at all. A store may serve several pools, and its room is shared by them; it keeps the staging
    /// of each, which it has registered with the kernel, until it goes itself. Tensors smaller than 256 KiB are written in packs of
    /// about 1 MiB; what is alive in packs that are mostly dead moves together, so that small tensors that change take no more than
    /// twice their size, and some MiB.
    ///
    /// ```
    /// use backend_cpu::CpuDevice;
    /// use swap_tensor::{DType, Residency, SwapPool, TensorSpec, disk::DiskConfig};
    ///
    /// let store = DiskConfig::new(std::env::temp_dir(), 16 << 20).open()?;
    /// let pool = SwapPool::builder(CpuDevice::new()?)
    ///     .device_memory(1 << 20)
    ///     .host_memory(1 << 20)
    ///     .disk(store)
    ///     .build()?;
    /// // Eight tensors of 1 MiB: one fits on the device, one in host memory.
    /// let tensors = (0..8u8)
    ///     .map(|i| pool.create(TensorSpec::new(format!("t{i}"), DType::U8, [1 << 20])?, &vec![i; 1 << 20]))
    ///     .collect::<Result<Vec<_>, _>>()?;
    /// let mut bytes = vec![0; 1 << 20];
    /// for (i, tensor) in tensors.iter().enumerate() {
    ///     tensor.read()?.read_now(&mut bytes)?;
    ///     assert!(bytes.iter().all(|&b| b == i as u8));
    /// }
    /// assert!(tensors.iter().filter(|t| t.residency() == Residency::Disk).count() >= 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(all(feature = "disk", unix))]
    #[must_use]
    pub fn disk(mut self, store: crate::disk::DiskStore) -> Self {
        self.lower = Some(Lower::new(store));
        self
    }

    /// Who leaves first when a tier is full. Default: [`Lru`](crate::policy::Lru). Names:
    /// [`policy::by_name`](crate::policy::by_name).
    #[must_use]
    pub fn policy(mut self, policy: Box<dyn EvictionPolicy>) -> Self {
        self.policy = policy;
        self
    }

    /// Replays the order of leases of one iteration in the next, see [`SwapPool::mark_step`]; the [`policy`](Self::policy) decides
    /// where there is none to replay. Default: off.
    #[must_use]
    pub fn schedule(mut self, schedule: bool) -> Self {
        self.schedule = schedule;
        self
    }

    /// Tensors of fewer bytes leave the device only when nothing else can: fetching them again costs more than their room is worth.
    /// Default: 0.
    #[must_use]
    pub fn keep_below(mut self, bytes: u64) -> Self {
        self.keep_below = bytes;
        self
    }

    /// How long a call may wait for leases, staging or room held by others. Default: 30 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long a call may wait for reads and writes of the disk tier, at least the [`deadline`](Self::deadline). Default: 30 s.
    ///
    /// One that takes longer goes on without the call, which ends with [`SwapError::Timeout`] or the error of what it had no room for.
    #[must_use]
    pub fn disk_deadline(mut self, deadline: Duration) -> Self {
        self.disk_deadline = deadline;
        self
    }

    /// Measures how long transfers take, from enqueue to event (one more thread for each direction). Default: off.
    #[must_use]
    pub fn measure_transfers(mut self, measure: bool) -> Self {
        self.measure = measure;
        self
    }

    /// What the pool is called in a timeline and in metrics; pools of one name add up there. Default: `pool`.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Records what the pool does in `timeline`. It watches transfers then, as
    /// [`measure_transfers`](Self::measure_transfers) does. Default: none.
    #[must_use]
    pub fn timeline(mut self, timeline: Timeline) -> Self {
        self.timeline = Some(timeline);
        self
    }

    /// Has `told` called with the leases that are still open when the last handle of the pool is dropped, by name and place: they
    /// hold device memory for as long as they live, or for ever if they were forgotten. Feature `tracing` warns of them as well.
    ///
    /// ```
    /// use backend_cpu::CpuDevice;
    /// use swap_tensor::{DType, SwapPool, TensorSpec};
    ///
    /// let builder = SwapPool::builder(CpuDevice::new()?).device_memory(1 << 20).host_memory(1 << 20);
    /// let pool = builder.on_leak(|open| open.iter().for_each(|lease| eprintln!("leaked: {lease}"))).build()?;
    /// # let tensor = pool.create(TensorSpec::new("w", DType::U8, [4096])?, &[0; 4096])?;
    /// drop(pool); // nothing is open, nothing is said
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn on_leak(mut self, told: impl Fn(&[OpenLease]) + Send + Sync + 'static) -> Self {
        self.on_leak = Some(Box::new(told));
        self
    }

    /// Allocates the arenas, the staging and the host tier.
    ///
    /// # Errors
    /// No device memory given, or a device or the system refuses the memory; [`SwapError::Unreachable`] when the devices cannot share
    /// host memory. Nothing stays allocated.
    pub fn build(self) -> Result<SwapPool<T>, SwapError> {
        self.check()?;
        let first = &self.device;
        let staging = stage(first, self.staging, self.lower.is_some())?;
        let staged = staging.stats();
        // What may be locked besides what is: staging counts already.
        let lockable = first.locker().allowance().unwrap_or(u64::MAX);
        let tier = match self.host_memory {
            0 => Vec::new(),
            bytes => tier(first.locker(), bytes, lockable)?,
        };
        let mut memory = Split { locked: staged.locked(), pageable: staged.pageable() };
        tier.iter().for_each(|region| memory.add(region));
        let side = staging.max_slice(Lane::Upload).min(staging.max_slice(Lane::Download)) as u64;
        let piece = (side / DEPTH as u64 / PAGE * PAGE).clamp(PAGE, PIECE);

        let several = !self.more.is_empty();
        let described = PerDevice::new((self.device, self.arena), self.more);
        let devices = described.try_map(|on, (transfer, arena)| {
            // What host memory holds is told once, with the first device.
            let host = if on == DeviceIndex::FIRST { self.host_memory } else { 0 };
            let listeners = (self.timeline.clone(), self.measure);
            open(transfer, arena, |device| {
                let budget = Levels { device, host, leased: 0 };
                Probe::new(&self.name, several.then_some(on), listeners, budget)
            })
        })?;
        let grain = devices.values().map(|device| device.buffer.grain().max(1)).fold(1, least_common);
        let host = HostPool::new(tier, grain).map_err(|e| host_error("the host tier", e))?;
        if let Some(lower) = &self.lower {
            for lane in [Lane::Upload, Lane::Download] {
                // A byte of the page that there is more of it.
                staging.try_acquire(lane, 1).map(|slice| lower.register::<T>(slice)).ok();
            }
        }
        let mut books = devices.as_ref().try_map(|_, device| {
            Ok::<_, SwapError>(DeviceBooks::new(Arena::new(device.buffer.clone())?, device.probe.clone()))
        })?;
        let rules = PerDevice::each(devices.len(), |on| {
            Rule::new(self.policy.fresh(), self.schedule, devices[on].buffer.size())
        });
        let ledger = Ledger::open(&self.tracking, &self.name, &mut books, &host, self.lower.is_some())?;
        let books = Mutex::new(Books::new(books, rules, ledger));
        let inner = Arc::new_cyclic(|me| Inner {
            books,
            changed: Condvar::new(),
            tasks: Tasks::default(),
            host,
            staging,
            grain,
            piece: piece.next_multiple_of(grain),
            deadline: self.deadline.min(FOR_EVER),
            patience: match self.lower {
                Some(_) => self.disk_deadline.max(self.deadline).min(FOR_EVER),
                None => self.deadline.min(FOR_EVER),
            },
            locked: memory.locked,
            pageable: memory.pageable,
            lower: self.lower,
            movers: Movers::new(),
            keep_below: self.keep_below,
            me: me.clone(),
            on_leak: self.on_leak,
            devices,
        });
        let last = Arc::new(Last(Arc::downgrade(&inner)));
        Ok(SwapPool { inner, last })
    }

    /// Whether the description makes sense, before anything is allocated.
    fn check(&self) -> Result<(), SwapError> {
        let arenas = core::iter::once(&self.arena).chain(self.more.iter().map(|(_, arena)| arena));
        if arenas.into_iter().any(|arena| matches!(arena, ArenaMemory::Bytes(0))) {
            return Err(SwapError::Config { what: "device memory", why: "no size given, or zero".into() });
        }
        let devices = 1 + self.more.len();
        if devices > DeviceIndex::MOST {
            let why = format!("{devices} are more than the {} a pool can have", DeviceIndex::MOST);
            return Err(SwapError::Config { what: "devices", why });
        }
        match self.more.iter().position(|(device, _)| !device.reaches(&self.device)) {
            Some(at) => Err(SwapError::Unreachable { device: DeviceIndex::new(at as u8 + 1) }),
            None => Ok(()),
        }
    }
}

/// A device with its arena's memory.
fn open<T: Transfer>(
    transfer: T,
    arena: ArenaMemory<T::Buffer>,
    probe: impl FnOnce(u64) -> Probe<T::Event>,
) -> Result<Device<T>, SwapError> {
    let buffer = match arena {
        ArenaMemory::Buffer(buffer) => buffer,
        ArenaMemory::Bytes(bytes) => {
            transfer.buffer(bytes).map_err(|e| SwapError::device("allocate the arena", e))?
        }
    };
    let queue = buffer.queue().clone();
    let origin = queue.record().map_err(|e| SwapError::device("record an event", e))?;
    let probe = probe(buffer.size());
    Ok(Device { buffer, queue, origin, probe, transfer })
}

impl<T: Transfer> fmt::Debug for PoolBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (arena, given) = match &self.arena {
            ArenaMemory::Bytes(bytes) => (*bytes, false),
            ArenaMemory::Buffer(buffer) => (buffer.size(), true),
        };
        f.debug_struct("PoolBuilder")
            .field("device_memory", &arena)
            .field("device_buffer", &given)
            .field("devices", &(1 + self.more.len()))
            .field("host_memory", &self.host_memory)
            .field("staging", &self.staging)
            .field("deadline", &self.deadline)
            .field("disk_deadline", &self.disk_deadline)
            .field("measure", &self.measure)
            .field("policy", &self.policy.name())
            .field("schedule", &self.schedule)
            .field("keep_below", &self.keep_below)
            .field("name", &self.name)
            .field("timeline", &self.timeline)
            .finish_non_exhaustive()
    }
}

/// The least multiple of both, neither of which is 0.
fn least_common(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

/// The longest piece of a copy through staging.
const PIECE: u64 = 2 << 20;
/// A deadline that a clock can still be asked for.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
