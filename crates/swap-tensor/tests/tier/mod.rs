//! A random program of several threads on a pool over a disk tier, and what must hold during it and after it.
//!
//! Contents say what they are: the tensor's number, the version, and bytes that follow from both. So a reader knows alone whether
//! what it was served is whole, this tensor's, and as new as it must be, whatever others do meanwhile.

mod shadow;
pub(crate) mod watch;

use backend_cpu::{CpuDevice, CpuQueue};
use futures::{FutureExt, executor::block_on};
use pinned_host::PinnedPages;
use shadow::{
    Failed::{self, Cut, Whole},
    Shadow, contents,
};
use std::{
    future::IntoFuture,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};
use swap_tensor::{
    DType, Lease, Mode, Stats, SwapError, SwapPool, TensorSpec, WriteLease,
    disk::{DiskConfig, DiskStore, FaultPlan, IoChoice},
};
use watch::Watch;

/// What a round is made of.
pub(crate) struct Round {
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    /// Bytes of the tiers.
    pub(crate) device: u64,
    pub(crate) host: u64,
    pub(crate) disk: u64,
    /// How long calls wait for others, and for the disk.
    pub(crate) deadline: Duration,
    pub(crate) disk_deadline: Duration,
    pub(crate) faults: FaultPlan,
    /// Whether a bit may come back wrong, so that a copy can be lost.
    pub(crate) flips: bool,
    /// Whether operations hang until they are released.
    pub(crate) hangs: bool,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) steps: u64,
    pub(crate) refusals: u64,
    /// Tensors whose loss was told at the end, a failed write's included.
    pub(crate) lost: u64,
    pub(crate) stats: Stats,
}

struct World<'a> {
    pool: SwapPool<CpuDevice>,
    store: DiskStore,
    queues: [CpuQueue; 2],
    slots: Vec<Mutex<Option<Arc<Shadow>>>>,
    /// Bytes of staging that the pool itself keeps.
    kept: u64,
    flips: bool,
    next: AtomicU64,
    steps: AtomicU64,
    refusals: AtomicU64,
    watch: &'a Watch,
}

/// Runs a round while `more` says so, and checks what is left.
pub(crate) fn run(round: &Round, watch: &Watch, more: impl Fn(&DiskStore) -> bool + Sync) -> Outcome {
    let folder = tempfile::tempdir_in(memory()).unwrap();
    let locked = PinnedPages::current().locked;
    let world = World::new(round, &folder.path().to_owned(), watch);
    let over = AtomicBool::new(false);
    thread::scope(|s| {
        let workers: Vec<_> = (0..round.threads)
            .map(|at| {
                let (world, more) = (&world, &more);
                s.spawn(move || world.work(at, Rng(round.seed * 1000 + at as u64), more))
            })
            .collect();
        let releaser = s.spawn(|| {
            let mut rng = Rng(round.seed);
            while round.hangs && !over.load(SeqCst) {
                thread::sleep(Duration::from_millis(5 + rng.below(150) as u64));
                world.store.release();
            }
        });
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        over.store(true, SeqCst);
        releaser.join().unwrap();
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    let outcome = world.finish();
    until("no descriptor is left", watch, || descriptors(folder.path()) == 0);
    assert_eq!(PinnedPages::current().locked, locked, "locked bytes are left");
    outcome
}

impl<'a> World<'a> {
    fn new(round: &Round, folder: &PathBuf, watch: &'a Watch) -> Self {
        let io = [IoChoice::Auto, IoChoice::Threads][round.seed as usize % 2];
        let store = DiskConfig::new(folder, round.disk).chunk(16 << 10).io(io).faults(round.faults.clone());
        let store = store.open().unwrap();
        let device = CpuDevice::new().unwrap();
        let pool = SwapPool::builder(device)
            .device_memory(round.device)
            .host_memory(round.host)
            .staging(256 << 10)
            .deadline(round.deadline)
            .disk_deadline(round.disk_deadline)
            .disk(store.clone())
            .build()
            .unwrap();
        let kept = staged(&pool);
        World {
            queues: [pool.queue().clone(), pool.device().new_queue().unwrap()],
            slots: (0..2 * SIZES.len()).map(|_| Mutex::new(None)).collect(),
            kept,
            flips: round.flips,
            next: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            pool,
            store,
            watch,
        }
    }

    fn work(&self, at: usize, mut rng: Rng, more: impl Fn(&DiskStore) -> bool) {
        while more(&self.store) {
            let slot = rng.below(self.slots.len());
            let shadow = self.slots[slot].lock().unwrap().clone();
            let Some(shadow) = shadow else {
                self.watch.doing(at, "create");
                self.create(slot, &mut rng);
                continue;
            };
            self.step(at, slot, &shadow, &mut rng);
            self.steps.fetch_add(1, SeqCst);
        }
        self.watch.doing(at, "ended");
    }

    fn step(&self, at: usize, slot: usize, shadow: &Shadow, rng: &mut Rng) {
        let (tensor, queue) = (&shadow.tensor, &self.queues[rng.below(2)]);
        let operation = OPERATIONS[rng.below(OPERATIONS.len())];
        self.watch.doing(at, operation);
        let done = match operation {
            "read" => shadow.served(|into| tensor.read_on(queue)?.read_now(into)),
            "download" => shadow.served(|into| tensor.read_on(queue)?.download(into)),
            "await" => shadow.served(|into| {
                let lease = block_on(tensor.lease().on(queue).into_future())?;
                lease.read_now(into)
            }),
            "copy" => shadow.served(|into| tensor.copy_to(into)),
            "write" => shadow.written(|bytes| {
                tensor.write_on(queue).and_then(|mut lease| lease.write_now(bytes)).map_err(Whole)
            }),
            "await to write" => shadow.written(|bytes| {
                let lease = block_on(tensor.lease_mut().on(queue).into_future());
                lease.map_err(Whole).and_then(|lease| replace(lease, bytes))
            }),
            "overwrite" => shadow
                .written(|bytes| tensor.overwrite().map_err(Whole).and_then(|lease| replace(lease, bytes))),
            "load" => shadow.written(|bytes| {
                tensor.load(bytes).map_err(|error| match error {
                    // Through the device, for want of host memory: it may be cut half-way.
                    SwapError::Host { .. } | SwapError::Device { .. } => Cut(error),
                    other => Whole(other),
                })
            }),
            "swap out" => tensor.swap_out(),
            "evict" => {
                tensor.evict();
                Ok(())
            }
            "fetch" => {
                self.pool.prefetch(&[tensor]);
                Ok(())
            }
            "call off" => {
                self.pool.cancel_prefetch(&[tensor]);
                Ok(())
            }
            "give up" => {
                let mut leasing = tensor.lease().into_future();
                let _ = leasing.poll_unpin(&mut Context::from_waker(Waker::noop())).map(drop);
                Ok(())
            }
            "several" => self.several(shadow, rng),
            "settle" => block_on(self.pool.settle_async()),
            "check" => {
                self.pool.check().unwrap();
                Ok(())
            }
            _ => {
                self.slots[slot].lock().unwrap().take();
                Ok(())
            }
        };
        if let Err(error) = done {
            self.refused(shadow, &error);
        }
    }

    fn create(&self, slot: usize, rng: &mut Rng) {
        let number = self.next.fetch_add(1, SeqCst);
        let bytes = SIZES[rng.below(SIZES.len())];
        let spec = TensorSpec::new(format!("t{number}"), DType::U8, [bytes]).unwrap();
        match self.pool.create(spec, &contents(number, 0, bytes)) {
            Ok(tensor) => {
                let shadow = Shadow::new(tensor, number);
                // Another thread may have filled it meanwhile: then that one's goes.
                self.slots[slot].lock().unwrap().replace(Arc::new(shadow));
            }
            Err(error) => self.told(&error),
        }
    }

    fn several(&self, one: &Shadow, rng: &mut Rng) -> Result<(), SwapError> {
        let other = self.slots[rng.below(self.slots.len())].lock().unwrap().clone();
        let Some(other) = other.filter(|other| other.number != one.number) else { return Ok(()) };
        let wanted = [(&one.tensor, Mode::Read), (&other.tensor, Mode::Read)];
        let leased = match rng.below(2) {
            0 => self.pool.lease_all(&wanted),
            _ => block_on(self.pool.lease_many(&wanted).into_future()),
        };
        let leases = match leased {
            Ok(leases) => leases,
            // Whose fault it was only its name says.
            Err(error @ (SwapError::NoValidCopy { .. } | SwapError::BadCopy { .. }))
                if error.to_string().contains(&format!("{:?}", other.name())) =>
            {
                self.refused(&other, &error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for (lease, shadow) in leases.iter().zip([one, &other]) {
            let Lease::Read(lease) = lease else { panic!("asked for reading") };
            shadow.served(|into| lease.read_now(into))?;
        }
        Ok(())
    }

    /// An error met with a tensor: a loss must have a reason.
    fn refused(&self, shadow: &Shadow, error: &SwapError) {
        let loss = matches!(
            error,
            SwapError::NoValidCopy { .. } | SwapError::BadCopy { .. } | SwapError::Corrupt { .. }
        );
        let excused = self.flips || shadow.ever_cut.load(SeqCst);
        assert!(!loss || excused, "{} is lost for no reason: {error}", shadow.name());
        self.told(error);
    }

    fn told(&self, error: &SwapError) {
        use SwapError::{
            BadCopy, Corrupt, DeviceBudget, Disk, DiskBudget, Host, HostBudget, Leased, NoValidCopy, Timeout,
        };
        let known = matches!(
            error,
            BadCopy { .. }
                | Corrupt { .. }
                | DeviceBudget { .. }
                | Disk { .. }
                | DiskBudget { .. }
                | Host { .. }
                | HostBudget { .. }
                | Leased { .. }
                | NoValidCopy { .. }
                | Timeout { .. }
        );
        assert!(known, "nothing that fails here explains it: {error:?}");
        self.refusals.fetch_add(1, SeqCst);
    }

    /// Clear skies: what was not lost comes back, and nothing stays behind.
    fn finish(self) -> Outcome {
        self.store.clear_faults();
        until("the pool settles", self.watch, || {
            self.store.release();
            self.pool.settle().is_ok()
        });
        let mut lost = 0;
        for slot in &self.slots {
            let Some(shadow) = slot.lock().unwrap().take() else { continue };
            let mut last = Ok(());
            until("a tensor is served, or its loss told", self.watch, || {
                last = shadow.served(|into| shadow.tensor.copy_to(into));
                // The deadlines are short.
                !matches!(
                    last,
                    Err(SwapError::Timeout { .. } | SwapError::Leased { .. } | SwapError::Host { .. })
                )
            });
            if let Err(error) = last {
                let excused = shadow.cut.load(SeqCst) || self.flips;
                assert!(excused, "{} did not come back: {error}", shadow.name());
                lost += 1;
            }
            self.pool.check().unwrap();
        }
        let stats = self.pool.stats();
        until("the pool settles again", self.watch, || self.pool.settle().is_ok());
        let left = || {
            let stats = self.pool.stats();
            let copies = [stats.device_bytes, stats.host_bytes, stats.disk_bytes, stats.held_bytes];
            let store = self.store.stats();
            (copies, staged(&self.pool) - self.kept, store.in_flight, store.extents, store.dead_bytes)
        };
        until("nothing is left", self.watch, || left() == ([0; 4], 0, 0, 0, 0));
        self.pool.check().unwrap();
        let (steps, refusals) = (self.steps.load(SeqCst), self.refusals.load(SeqCst));
        Outcome { steps, refusals, lost, stats }
    }
}

fn replace(mut lease: WriteLease<CpuDevice>, bytes: &[u8]) -> Result<(), Failed> {
    lease.upload(bytes).map_err(Cut)
}

fn staged(pool: &SwapPool<CpuDevice>) -> u64 {
    let staging = pool.staging();
    staging.read.in_use + staging.write.in_use
}

/// Returns once `what` holds; the watch ends the program if it never does.
fn until(what: &'static str, watch: &Watch, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < watch::PATIENCE, "{what}: it never came to that");
        thread::sleep(Duration::from_millis(1));
    }
    watch.advance();
}

/// Descriptors of files that were made in `folder`.
fn descriptors(folder: &std::path::Path) -> usize {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return 0 };
    let of_folder = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|file| file.starts_with(folder))
    };
    open.flatten().filter(of_folder).count()
}

/// Memory, if there is a file system of it: a real disk has other users.
fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// SplitMix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// Bytes of tensors: less than a page, pieces of a pack, and several pieces of staging and of I/O.
const SIZES: [u64; 6] = [16, 700, 5000, 20_000, LARGEST - 999, LARGEST];
pub(crate) const LARGEST: u64 = 72 << 10;

/// What threads do, as often as it is named.
const OPERATIONS: [&str; 20] = [
    "read",
    "read",
    "download",
    "await",
    "await",
    "copy",
    "copy",
    "write",
    "await to write",
    "overwrite",
    "load",
    "swap out",
    "swap out",
    "evict",
    "fetch",
    "call off",
    "give up",
    "several",
    "drop",
    "check",
];
