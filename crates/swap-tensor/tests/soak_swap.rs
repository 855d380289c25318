//! Random programs on a pool over one simulated device, or over two, with seeded faults, against a shadow of every tensor's contents.
//!
//! After each step the invariants of the books hold, a memory tracker's figures are the pool's (in every other program there is
//! one), and the simulated device has seen no missing wait. A read never
//! serves a wrong byte, whatever failed. Where no fault can cut a move or a write half-way, nothing is ever lost.
//!
//! `SOAK_SCHEDULES` sets the number of programs (default 400), `SOAK_SEED` the first seed. A failure names its seed:
//! `SOAK_SEED=<seed> SOAK_SCHEDULES=1` runs that program alone, and `SOAK_TRACE=1` prints its steps.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::sim::{Call, Fault, FaultPlan as SimFaults, SimConfig, SimDevice, SimQueue};
use mem_tracker::{Category, Tracker, When};
use pinned_host::Queue;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use swap_tensor::disk::{self, DiskConfig, DiskStore, FaultPlan, IoChoice};
use swap_tensor::{
    DType, DeviceIndex, Lease, Mode, SlotState, SwapError, SwapPool, Tensor, TensorSpec, WriteLease,
};

#[test]
fn soak_swap() {
    let totals = soak(1);
    assert_eq!(totals.shared, 0);
}

/// Faults strike one of the devices, the other, or both.
#[test]
fn soak_devices() {
    let totals = soak(2);
    assert!(totals.shared > 0, "no tensor was ever on both devices");
}

fn soak(devices: usize) -> Totals {
    let schedules = setting("SOAK_SCHEDULES", 400);
    let first = setting("SOAK_SEED", 0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let contents = write_model(&file);
    let mut totals = Totals::default();
    for seed in first..first + schedules {
        let ran = std::panic::catch_unwind(|| program(seed, devices, &file, &contents));
        match ran {
            Ok(t) => totals.add(&t),
            Err(panic) => {
                eprintln!("seed {seed} failed: SOAK_SEED={seed} SOAK_SCHEDULES=1 runs it alone");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("soak of {devices} devices: {schedules} schedules, {totals:?}");
    assert!(totals.leases > 0 && totals.evictions > 0);
    totals
}

/// What the programs did, to see that they did something.
#[derive(Debug, Default)]
struct Totals {
    steps: u64,
    leases: u64,
    evictions: u64,
    write_backs: u64,
    spills: u64,
    moved_bytes: u64,
    failures: u64,
    lost: u64,
    /// How often a tensor was seen to be valid on both devices.
    shared: u64,
}

impl Totals {
    fn add(&mut self, t: &Totals) {
        self.steps += t.steps;
        self.leases += t.leases;
        self.evictions += t.evictions;
        self.write_backs += t.write_backs;
        self.spills += t.spills;
        self.moved_bytes += t.moved_bytes;
        self.failures += t.failures;
        self.lost += t.lost;
        self.shared += t.shared;
    }
}

/// What may go wrong in a program, and what must hold all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Nothing: every refusal is for want of room or because of a lease.
    Calm,
    /// Calls are refused. Nothing is ever lost.
    Refusals,
    /// Transfers fail when they run. Nothing is ever lost.
    FailingTransfers,
    /// Kernels fail. Nothing is lost but what they, or kernels beside them, were to write.
    FailingKernels,
    /// Moves, kernels and whole devices fail too. No wrong byte is served.
    Storm,
}

const ALL_WEATHER: [Weather; 5] =
    [Weather::Calm, Weather::Refusals, Weather::FailingTransfers, Weather::FailingKernels, Weather::Storm];

impl Weather {
    fn faults(self) -> SimFaults {
        let late = |plan: SimFaults, call| plan.randomly(call, 20, Fault::Delay);
        let calm = [Call::Upload, Call::Download, Call::CopyWithin, Call::Launch]
            .into_iter()
            .fold(SimFaults::none(), late);
        match self {
            Weather::Calm => SimFaults::none(),
            Weather::Refusals => calm
                .randomly(Call::Upload, 8, Fault::Refuse)
                .randomly(Call::Download, 8, Fault::OutOfMemory)
                .randomly(Call::CopyWithin, 8, Fault::Refuse)
                .randomly(Call::Upload, 12, Fault::FailRecord)
                .randomly(Call::Download, 12, Fault::FailRecord)
                .randomly(Call::Wait, 25, Fault::Refuse)
                .randomly(Call::Record, 25, Fault::Refuse),
            Weather::FailingTransfers => calm
                .randomly(Call::Upload, 6, Fault::Fail)
                .randomly(Call::Upload, 12, Fault::Short)
                .randomly(Call::Download, 6, Fault::Fail)
                .randomly(Call::Download, 12, Fault::Short),
            Weather::FailingKernels => calm.randomly(Call::Launch, 3, Fault::Fail),
            Weather::Storm => calm
                .randomly(Call::Upload, 10, Fault::Fail)
                .randomly(Call::Download, 10, Fault::Short)
                .randomly(Call::CopyWithin, 10, Fault::Fail)
                .randomly(Call::Launch, 10, Fault::Fail)
                .randomly(Call::Record, 30, Fault::Refuse)
                .randomly(Call::Drain, 3, Fault::Refuse)
                .randomly(Call::Any, 400, Fault::DeviceLost),
        }
    }

    /// A disk tier, of whatever path of I/O, on which the same kind of thing goes wrong.
    fn disk(self, seed: u64, rng: &mut Rng) -> DiskStore {
        let plan = FaultPlan::seeded(seed);
        let late = |plan: FaultPlan| {
            [disk::Call::Read, disk::Call::Write].into_iter().fold(plan, |plan, call| {
                plan.randomly(call, 20, disk::Fault::Delay)
                    .randomly(call, 10, disk::Fault::Short)
                    .randomly(call, 20, disk::Fault::INTERRUPTED)
                    .randomly(call, 20, disk::Fault::AGAIN)
            })
        };
        let plan = match self {
            Weather::Calm | Weather::FailingKernels => plan,
            Weather::Refusals => late(plan),
            Weather::FailingTransfers => late(plan)
                .randomly(disk::Call::Read, 8, disk::Fault::IO)
                .randomly(disk::Call::Write, 8, disk::Fault::IO)
                .randomly(disk::Call::Write, 12, disk::Fault::NO_SPACE),
            Weather::Storm => late(plan)
                .randomly(disk::Call::Read, 6, disk::Fault::BitFlip)
                .randomly(disk::Call::Write, 12, disk::Fault::BitFlip)
                .randomly(disk::Call::Read, 40, disk::Fault::Hang)
                .randomly(disk::Call::Write, 40, disk::Fault::Hang),
        };
        let io = [IoChoice::Auto, IoChoice::Threads][rng.below(2)];
        let room = [16 << 10, 64 << 10, 1 << 20][rng.below(3)];
        DiskConfig::new(disk_folder(), room).io(io).faults(plan).open().unwrap()
    }

    /// Whether every tensor must come back whole in the end.
    fn keeps_everything(self) -> bool {
        self != Weather::Storm
    }
}

struct World {
    pool: SwapPool<SimDevice>,
    devices: Vec<DeviceIndex>,
    /// The devices on which anything can fail.
    faulty: Vec<DeviceIndex>,
    /// Who holds what, in some programs.
    tracker: Option<Tracker>,
    /// The tier below host memory, in some programs.
    disk: Option<DiskStore>,
    /// Of each device.
    queues: Vec<[SimQueue; 3]>,
    weather: Weather,
    tensors: Vec<Shadow>,
    held: Vec<Held>,
    rng: Rng,
    next_name: u64,
    failures: u64,
    shared: u64,
    trace: bool,
}

/// A tensor and what it must contain.
struct Shadow {
    tensor: Tensor<SimDevice>,
    bytes: Vec<u8>,
    /// A write to it failed half-way, or may have: it may say that it is lost.
    doubtful: bool,
}

/// A lease that outlives the step that took it.
struct Held {
    tensor: usize,
    _lease: Lease<SimDevice>,
}

fn program(seed: u64, devices: usize, file: &Path, contents: &[Vec<u8>]) -> Totals {
    let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D);
    let weather = ALL_WEATHER[rng.below(ALL_WEATHER.len())];
    let mut config = SimConfig::seeded(seed).grain([1, 4][rng.below(2)]).faults(weather.faults());
    if rng.below(8) == 0 {
        config = config.one_queue();
    }
    let disk = (rng.below(3) == 0).then(|| weather.disk(seed, &mut rng));
    let mut faulty: Vec<DeviceIndex> = (0..devices).map(|i| DeviceIndex::new(i as u8)).collect();
    let clear = if devices > 1 { rng.below(3) } else { devices };
    if clear < devices {
        faulty.remove(clear);
    }
    let fair = |config: SimConfig, on: u8| match faulty.contains(&DeviceIndex::new(on)) {
        true => config,
        false => config.faults(SimFaults::none()),
    };
    let first = SimDevice::new(fair(config, 0));
    let second = (devices > 1).then(|| {
        let config = SimConfig::seeded(!seed).grain([1, 4][rng.below(2)]).faults(weather.faults());
        first.beside(fair(config, 1))
    });
    let builder = SwapPool::builder(first).device_memory(12 << 10);
    let builder = match second {
        Some(second) => builder.add_device(second, [12 << 10, 20 << 10][rng.below(2)]),
        None => builder,
    };
    let builder = builder
        .host_memory(
            if disk.is_some() { [0, 4 << 10, 12 << 10] } else { [8 << 10, 24 << 10, 96 << 10] }[rng.below(3)],
        )
        .staging(32 << 10);
    // A hang takes all of the disk's deadline.
    let patience = Duration::from_millis(if weather == Weather::Storm { 5 } else { 5000 });
    let builder = builder.deadline(Duration::ZERO).disk_deadline(patience);
    let tracker = seed.is_multiple_of(2).then(Tracker::new);
    let builder = match &tracker {
        Some(tracker) => builder.tracker(tracker.clone()),
        None => builder,
    };
    let built = match &disk {
        Some(store) => builder.disk(store.clone()).build(),
        None => builder.build(),
    };
    let pool = match built {
        Err(_) if matches!(weather, Weather::Storm | Weather::Refusals) => return Totals::default(),
        built => built.unwrap(),
    };
    let queues = pool
        .devices()
        .map(|(on, device)| [pool.queue_at(on).unwrap().clone(), device.new_queue(), device.new_queue()]);
    let queues = queues.collect();
    let mut world = World {
        devices: pool.devices().map(|(on, _)| on).collect(),
        pool,
        faulty,
        tracker,
        disk,
        queues,
        weather,
        tensors: Vec::new(),
        held: Vec::new(),
        rng,
        next_name: 0,
        failures: 0,
        shared: 0,
        trace: std::env::var_os("SOAK_TRACE").is_some(),
    };
    if world.rng.below(2) == 0 {
        for (tensor, bytes) in world.pool.attach_safetensors(file).unwrap().into_iter().zip(contents) {
            world.tensors.push(Shadow { tensor, bytes: bytes.clone(), doubtful: false });
        }
    }
    let steps = 20 + world.rng.below(60) as u64;
    for step in 0..steps {
        if world.trace {
            // Nothing that asks the pool: looking would change what happens.
            eprintln!("-- step {step} {:?}", world.weather);
        }
        world.step();
        world.check();
    }
    world.finish(steps)
}

impl World {
    fn step(&mut self) {
        let op = self.rng.below(16);
        if self.trace {
            eprintln!("op {op}, {} held", self.held.len());
        }
        match op {
            0 | 1 => self.create(),
            2 if self.disk.is_some() && self.rng.below(2) == 0 => self.create(),
            2 => self.drop_tensor(),
            3..=5 => self.read(),
            6..=8 => self.write(),
            9 => self.prefetch(),
            10 => self.release_one(),
            11 => self.load(),
            12 => self.swap_out_or_evict(),
            13 => self.lease_all(),
            14 => self.pin(),
            _ => self.copy_to(),
        }
        while self.held.len() > 2 {
            self.release_one();
        }
    }

    fn create(&mut self) {
        if self.tensors.len() >= if self.disk.is_some() { 24 } else { 12 } {
            return;
        }
        let len = [0, 1, 7, 64, 900, 1500, 4096, 9000][self.rng.below(8)];
        let bytes = self.rng.bytes(len);
        let (name, module) = (self.next_name, self.next_name % 3);
        let spec = TensorSpec::new(format!("m{module}.t{name}"), DType::U8, [len as u64]).unwrap();
        self.next_name += 1;
        match self.pool.create(spec, &bytes) {
            Ok(tensor) => {
                tensor.set_category(Category::ALL[name as usize % Category::ALL.len()]);
                self.tensors.push(Shadow { tensor, bytes, doubtful: false });
            }
            Err(error) => self.expected(&error),
        }
    }

    fn drop_tensor(&mut self) {
        if let Some(at) = self.pick() {
            // Leases keep their tensor alive.
            if self.held.iter().any(|held| held.tensor == at) {
                return;
            }
            let last = self.tensors.len() - 1;
            self.held.iter_mut().filter(|held| held.tensor == last).for_each(|held| held.tensor = at);
            self.tensors.swap_remove(at);
        }
    }

    fn read(&mut self) {
        let Some(at) = self.pick() else { return };
        let (on, queue) = self.place();
        match self.tensors[at].tensor.lease().at(on).on(&queue).wait() {
            Ok(lease) => {
                self.verify(at, |into| lease.read_now(into));
                match self.rng.below(3) {
                    0 => self.held.push(Held { tensor: at, _lease: Lease::Read(lease) }),
                    1 => self.end(at, lease.queue().record(), |event| lease.finish(event)),
                    _ => drop(lease),
                }
            }
            Err(error) => self.refused_on(on, at, &error),
        }
    }

    fn write(&mut self) {
        let Some(at) = self.pick() else { return };
        let (on, queue) = self.place();
        let lease = match self.tensors[at].tensor.lease_mut().at(on).on(&queue).wait() {
            Ok(lease) => lease,
            Err(error) => return self.refused_on(on, at, &error),
        };
        self.write_under(at, lease);
    }

    /// Writes by a plain write, through staging or with a kernel, and ends the lease in one of three ways.
    fn write_under(&mut self, at: usize, mut lease: WriteLease<SimDevice>) {
        if self.weather == Weather::FailingKernels && !self.held.is_empty() {
            // Two writers may share a queue, and then nobody can say whose kernel failed.
            self.tensors[at].doubtful = true;
            for held in &self.held {
                self.tensors[held.tensor].doubtful = true;
            }
        }
        let len = self.tensors[at].bytes.len();
        let new = self.rng.bytes(len);
        let key = self.rng.next() as u8;
        match self.rng.below(3) {
            0 => match lease.write_now(&new) {
                Ok(()) => self.tensors[at].bytes = new,
                Err(error) => self.refused(at, &error),
            },
            1 => match lease.upload(&new) {
                Ok(()) => self.tensors[at].bytes = new,
                Err(error) => {
                    self.expected(&error);
                    self.tensors[at].doubtful = true;
                }
            },
            _ if len > 0 => {
                let range = lease.range();
                let padded = range.start..range.start + lease.spec().bytes().next_multiple_of(4);
                let view = lease.view().unwrap();
                assert!(view.range().end <= padded.end);
                let launched = lease.queue().launch(&[view.read(), view.write()], move |bytes| {
                    bytes[1] = bytes[0].iter().map(|x| x ^ key).collect();
                });
                match launched {
                    Ok(()) => self.tensors[at].bytes.iter_mut().for_each(|x| *x ^= key),
                    Err(error) => assert_ne!(self.weather, Weather::Calm, "{error}"),
                }
                if matches!(self.weather, Weather::FailingKernels | Weather::Storm) {
                    self.tensors[at].doubtful = true;
                }
            }
            _ => {}
        }
        match self.rng.below(3) {
            0 => self.held.push(Held { tensor: at, _lease: Lease::Write(lease) }),
            1 => self.end(at, lease.queue().record(), |event| lease.finish(event)),
            _ => drop(lease),
        }
    }

    fn end<E: std::fmt::Display>(
        &mut self,
        at: usize,
        event: Result<backend_cpu::sim::SimEvent, E>,
        finish: impl FnOnce(backend_cpu::sim::SimEvent) -> Result<(), SwapError>,
    ) {
        match event {
            Ok(event) => {
                if let Err(error) = finish(event) {
                    self.refused(at, &error);
                }
            }
            // The lease is dropped instead, which finds its own way.
            Err(error) => assert_ne!(self.weather, Weather::Calm, "{error}"),
        }
    }

    fn release_one(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let k = self.rng.below(self.held.len());
        drop(self.held.swap_remove(k));
    }

    fn prefetch(&mut self) {
        let wanted: Vec<usize> = (0..3).filter_map(|_| self.pick()).collect();
        let on = self.device();
        let tensors: Vec<&Tensor<SimDevice>> = wanted.iter().map(|&at| &self.tensors[at].tensor).collect();
        self.pool.prefetch_at(on, &tensors).unwrap();
        // The program goes on only when the fetching thread rests: the seed alone decides what happens.
        self.pool.wait_prefetch();
    }

    fn load(&mut self) {
        let Some(at) = self.pick() else { return };
        let len = self.tensors[at].bytes.len();
        let new = self.rng.bytes(len);
        match self.tensors[at].tensor.load(&new) {
            Ok(()) => {
                self.tensors[at].bytes = new;
                self.tensors[at].doubtful = false;
            }
            Err(error) => {
                self.refused(at, &error);
                // With no host room it goes through the device, where it may be cut half-way.
                self.tensors[at].doubtful |= matches!(error, SwapError::Device { .. });
            }
        }
    }

    fn swap_out_or_evict(&mut self) {
        let Some(at) = self.pick() else { return };
        if self.rng.below(2) == 0 {
            match self.devices.len() > 1 && self.rng.below(2) == 0 {
                true => self.tensors[at].tensor.evict_at(self.devices[1]),
                false => self.tensors[at].tensor.evict(),
            };
        } else if let Err(error) = self.tensors[at].tensor.swap_out() {
            self.refused(at, &error);
        }
    }

    fn lease_all(&mut self) {
        let mut wanted: Vec<usize> = (0..3).filter_map(|_| self.pick()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let modes: Vec<Mode> =
            wanted.iter().map(|_| if self.rng.below(2) == 0 { Mode::Read } else { Mode::Write }).collect();
        let places: Vec<_> = wanted.iter().map(|_| self.device()).collect();
        let asked = wanted.iter().zip(&modes).zip(&places);
        let asked: Vec<_> = asked.map(|((&at, &mode), &on)| (&self.tensors[at].tensor, mode, on)).collect();
        match self.pool.lease_many_at(&asked).wait() {
            Ok(leases) => {
                assert_eq!(leases.len(), wanted.len());
                if self.weather == Weather::FailingKernels && leases.len() > 1 {
                    wanted.iter().for_each(|&at| self.tensors[at].doubtful = true);
                }
                for (lease, &at) in leases.into_iter().zip(&wanted) {
                    match lease {
                        Lease::Read(lease) => self.verify(at, |into| lease.read_now(into)),
                        Lease::Write(lease) => self.write_under(at, lease),
                    }
                }
            }
            Err(error) => match wanted.first() {
                Some(&at) => {
                    let lost = matches!(error, SwapError::NoValidCopy { .. } | SwapError::BadCopy { .. });
                    let at = wanted.iter().copied().find(|&w| lost && self.tensors[w].doubtful).unwrap_or(at);
                    self.refused(at, &error);
                }
                None => panic!("nothing was asked for, and refused: {error}"),
            },
        }
    }

    fn pin(&mut self) {
        let Some(at) = self.pick() else { return };
        let on = self.device();
        if self.tensors[at].tensor.unpin_at(on) {
            return;
        }
        if let Err(error) = self.tensors[at].tensor.pin_at(on) {
            self.refused_on(on, at, &error);
        }
    }

    fn copy_to(&mut self) {
        let Some(at) = self.pick() else { return };
        let tensor = self.tensors[at].tensor.clone();
        self.verify(at, |into| tensor.copy_to(into));
    }

    /// A read that succeeds brings the right bytes.
    fn verify(&mut self, at: usize, read: impl FnOnce(&mut [u8]) -> Result<(), SwapError>) {
        let mut into = vec![0; self.tensors[at].bytes.len()];
        match read(&mut into) {
            Ok(()) => {
                assert!(into == self.tensors[at].bytes, "{:?}: wrong bytes served", self.tensors[at].tensor)
            }
            Err(error) => self.refused(at, &error),
        }
    }

    /// An error met with tensor `at` on a device: one that no fault strikes is never the one that is lost.
    fn refused_on(&mut self, on: DeviceIndex, at: usize, error: &SwapError) {
        let fair = !self.faulty.contains(&on);
        assert!(!fair || !error.is_device_lost(), "device {on} is well: {error}");
        if self.disk.is_none() && matches!(error, SwapError::Leased { .. }) {
            assert!(self.held.iter().any(|held| held.tensor == at), "by whom? {error}");
        }
        self.refused(at, error);
    }

    /// An error met with tensor `at`: a loss must have a reason.
    fn refused(&mut self, at: usize, error: &SwapError) {
        if let SwapError::NoValidCopy { name, .. } = error {
            let shadow = &self.tensors[at];
            let excused = shadow.doubtful || self.weather == Weather::Storm;
            assert!(excused, "{name} is lost in {:?} weather: {error}", self.weather);
        }
        self.expected(error);
    }

    fn expected(&mut self, error: &SwapError) {
        if self.trace {
            eprintln!("   {error}");
        }
        self.failures += 1;
        let room = matches!(
            error,
            SwapError::DeviceBudget { .. } | SwapError::HostBudget { .. } | SwapError::Leased { .. }
        );
        // The deadline is short: staging, too, may be with I/O that the machine has no time for.
        let late = matches!(error, SwapError::Timeout { .. } | SwapError::Host { .. });
        let room = room || matches!(error, SwapError::DiskBudget { .. }) || (late && self.disk.is_some());
        assert!(room || self.weather != Weather::Calm, "in calm weather: {error}");
        assert!(!matches!(error, SwapError::Arena(_)), "the books disagree: {error}");
    }

    fn check(&mut self) {
        if let Err(broken) = self.pool.check() {
            panic!("{broken}");
        }
        self.check_tracker();
        for (on, device) in self.pool.devices() {
            // What failed work should have written counts as never written: reading it is a mistake only where nothing fails.
            if matches!(self.weather, Weather::Calm | Weather::Refusals) || !self.faulty.contains(&on) {
                device.assert_no_hazards();
            }
            let missing = device.hazards();
            assert!(missing.is_empty(), "missing waits on device {on}: {missing:?}");
            let lost = self.pool.device_stats(on).unwrap().lost;
            assert!(!lost || self.faulty.contains(&on), "device {on} is well, and taken to be lost");
        }
        if let [a, b] = self.devices[..] {
            let valid = |tensor: &Tensor<_>, on| tensor.state_at(on).unwrap() == SlotState::Valid;
            let both = |shadow: &&Shadow| valid(&shadow.tensor, a) && valid(&shadow.tensor, b);
            self.shared += self.tensors.iter().filter(both).count() as u64;
        }
    }

    /// What the tracker says of every tier is what the pool says. Asking the pool is a look at what has ended, and threads write to
    /// disk meanwhile, so it may take another.
    fn check_tracker(&self) {
        let Some(tracker) = &self.tracker else { return };
        let told = |tier: &str| tracker.device(tier).unwrap().usage(When::Current).total();
        let agree = |look: u64| {
            std::thread::sleep(Duration::from_micros(look.min(100)));
            let stats = self.pool.stats();
            let host = told("host") == stats.host_bytes;
            let disk = self.disk.is_none() || told("disk") <= stats.disk_bytes;
            let on_device =
                |on| (self.pool.device_stats(on).unwrap().device_bytes, told(&format!("pool:{on}")));
            host && disk && self.devices.iter().map(|&on| on_device(on)).all(|(held, told)| held == told)
        };
        if !(0..1000).any(agree) {
            panic!("{:?} is told of {:?}", tracker.snapshot(When::Current), self.pool.stats());
        }
        assert_eq!(tracker.warnings(), []);
    }

    /// Clear skies: everything that cannot have been lost comes back, and nothing stays behind.
    fn finish(mut self, steps: u64) -> Totals {
        self.held.clear();
        self.pool.devices().for_each(|(_, device)| device.clear_faults());
        if let Some(disk) = &self.disk {
            disk.clear_faults();
            disk.release();
            let until = Instant::now() + Duration::from_secs(60);
            while self.pool.settle().is_err() {
                assert!(Instant::now() < until, "the pool never settles: {:?}", self.pool.stats());
            }
        }
        // All of them first: a pin whose tensor could not be brought back still holds room.
        for (shadow, &on) in
            self.tensors.iter().flat_map(|shadow| self.devices.iter().map(move |on| (shadow, on)))
        {
            while shadow.tensor.unpin_at(on) {}
        }
        let mut lost = 0;
        for at in 0..self.tensors.len() {
            let tensor = self.tensors[at].tensor.clone();
            let mut into = vec![0; self.tensors[at].bytes.len()];
            // The first try may still meet a failure that was under way.
            let mut read = tensor.copy_to(&mut into).or_else(|_| tensor.copy_to(&mut into));
            // In a storm staging may be gone for good: it is not worth the wait.
            for _ in 0..if self.weather.keeps_everything() { 1000 } else { 50 } {
                // The deadline is shorter than a read that the machine has no time for.
                let late = matches!(
                    read,
                    Err(SwapError::Timeout { .. } | SwapError::Leased { .. } | SwapError::Host { .. })
                );
                if !late || self.disk.is_none() {
                    break;
                }
                read = tensor.copy_to(&mut into);
            }
            match read {
                Ok(()) => assert!(into == self.tensors[at].bytes, "{tensor:?}: wrong bytes in the end"),
                Err(error) => {
                    let excused = !self.weather.keeps_everything() || self.tensors[at].doubtful;
                    assert!(excused, "{tensor:?} did not come back: {error}");
                    lost += 1;
                }
            }
            self.check();
        }
        let stats = self.pool.stats();
        self.tensors.clear();
        let _ = self.pool.settle();
        self.check();
        if self.weather.keeps_everything() {
            let after = self.pool.stats();
            assert_eq!(
                (after.device_bytes, after.held_bytes, after.host_bytes, after.disk_bytes),
                (0, 0, 0, 0),
                "something stayed behind"
            );
            let told =
                |tracker: &Tracker| tracker.snapshot(When::Current).iter().all(|(_, usage)| usage.is_empty());
            assert!(self.tracker.as_ref().is_none_or(told), "something is told to have stayed behind");
        }
        Totals {
            steps,
            leases: stats.leases,
            evictions: stats.evictions,
            write_backs: stats.write_backs,
            spills: stats.spills,
            moved_bytes: stats.moved_bytes,
            failures: self.failures,
            lost,
            shared: self.shared,
        }
    }

    /// A device, and one of its queues.
    fn place(&mut self) -> (DeviceIndex, SimQueue) {
        let on = self.device();
        (on, self.queues[on.index()][self.rng.below(3)].clone())
    }

    fn device(&mut self) -> DeviceIndex {
        self.devices[if self.devices.len() > 1 { self.rng.below(self.devices.len()) } else { 0 }]
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.tensors.is_empty()).then(|| self.rng.below(self.tensors.len()))
    }
}

/// A safetensors file of a few odd tensors, and their contents in the order of the file.
fn write_model(path: &Path) -> Vec<Vec<u8>> {
    let mut rng = Rng(42);
    let lens = [5000, 1, 0, 333, 9001, 64];
    let contents: Vec<Vec<u8>> = lens.iter().map(|&len| rng.bytes(len)).collect();
    let mut at = 0;
    let fields: Vec<String> = lens
        .iter()
        .enumerate()
        .map(|(i, len)| {
            let field =
                format!(r#""f{i}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{at},{}]}}"#, at + len);
            at += len;
            field
        })
        .collect();
    let header = format!("{{{}}}", fields.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    contents.iter().for_each(|bytes| file.extend(bytes));
    std::fs::write(path, file).unwrap();
    contents
}

/// Memory, if there is a file system of it: what is tested here is order, and a real disk has other users.
fn disk_folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}
