//! Random programs on a disk store with seeded faults, on every path of I/O there is here.
//!
//! A read never serves a wrong byte, whatever failed; every wait ends; and in the end all room is back.
//!
//! `SOAK_FAULTS` sets how many faults are to have struck (default 1,000), `SOAK_SEED` the first seed. A failure names its seed:
//! `SOAK_SEED=<seed> SOAK_FAULTS=1` runs that program alone.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use std::{
    collections::VecDeque,
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};
use swap_tensor::disk::{
    Call, DiskBuf, DiskConfig, DiskError, DiskStore, Extent, ExtentState, Fault, FaultPlan, IoChoice,
    IoTicket,
};

#[test]
fn soak_disk() {
    let wanted = setting("SOAK_FAULTS", 1000);
    let mut seed = setting("SOAK_SEED", 0);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut totals = Totals::default();
    while totals.faults < wanted {
        let ran = std::panic::catch_unwind(|| program(seed, folder.path()));
        match ran {
            Ok(t) => totals.add(&t),
            Err(panic) => {
                eprintln!("seed {seed} failed: SOAK_SEED={seed} SOAK_FAULTS=1 runs it alone");
                std::panic::resume_unwind(panic);
            }
        }
        seed += 1;
        assert!(totals.programs < 100 || totals.faults > 0, "no fault strikes");
    }
    println!("soak: {totals:?}");
    assert!(totals.served > 0 && totals.failures > 0);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "a file stayed behind");
}

/// What the programs did, to see that they did something.
#[derive(Debug, Default)]
struct Totals {
    programs: u64,
    faults: u64,
    served: u64,
    failures: u64,
    corrupt: u64,
    timeouts: u64,
    abandoned: u64,
    full: u64,
}

impl Totals {
    fn add(&mut self, t: &Totals) {
        self.programs += 1;
        self.faults += t.faults;
        self.served += t.served;
        self.failures += t.failures;
        self.corrupt += t.corrupt;
        self.timeouts += t.timeouts;
        self.abandoned += t.abandoned;
        self.full += t.full;
    }
}

fn program(seed: u64, folder: &Path) -> Totals {
    let mut rng = Rng(seed);
    let mut plan = FaultPlan::seeded(seed);
    for call in [Call::Read, Call::Write] {
        for fault in [
            Fault::IO,
            Fault::NO_SPACE,
            Fault::INTERRUPTED,
            Fault::AGAIN,
            Fault::Short,
            Fault::BitFlip,
            Fault::Delay,
            Fault::Hang,
        ] {
            plan = plan.randomly(call, 20 + rng.below(60) as u32, fault);
        }
    }
    let config = DiskConfig::new(folder, CAPACITY)
        .chunk(16 << 10)
        .depth(1 + rng.below(6))
        .threads(1 + rng.below(4))
        .queue(1 + rng.below(12))
        .io(if rng.below(2) == 0 { IoChoice::Auto } else { IoChoice::Threads })
        .direct(rng.below(3) > 0)
        .grace(AGES);
    let config = if rng.below(2) == 0 { config.and(folder) } else { config };
    let mut run = Run {
        store: config.faults(plan).open().unwrap(),
        rng,
        kept: Vec::new(),
        flying: VecDeque::new(),
        totals: Totals::default(),
    };
    for _ in 0..60 {
        run.step();
    }
    run.finish()
}

/// A program under way.
struct Run {
    store: DiskStore,
    rng: Rng,
    kept: Vec<Kept>,
    flying: VecDeque<Flying>,
    totals: Totals,
}

/// An extent, and what each part of it has if it was written.
struct Kept {
    extent: Extent,
    parts: Vec<Range<u64>>,
    seed: u64,
}

impl Kept {
    fn bytes(&self, part: usize) -> Vec<u8> {
        let part = &self.parts[part];
        contents(self.seed, self.len())[part.start as usize..part.end as usize].to_vec()
    }

    fn len(&self) -> usize {
        self.parts.last().map_or(0, |part| part.end as usize)
    }
}

struct Flying {
    ticket: IoTicket<DiskBuf>,
    /// What a read is to bring.
    expected: Option<Vec<u8>>,
}

impl Run {
    fn step(&mut self) {
        match self.rng.below(12) {
            0..=3 => self.write(),
            4..=6 => self.read(),
            7..=8 => self.wait(Duration::from_millis(1)),
            9 => self.abandon(),
            10 => self.store.release(),
            _ if self.kept.is_empty() => {}
            _ => {
                let at = self.rng.below(self.kept.len());
                self.kept.swap_remove(at);
            }
        }
    }

    fn write(&mut self) {
        let mut parts = Vec::new();
        let mut at = 0;
        for _ in 0..1 + self.rng.below(4) {
            let start = at + self.rng.below(100) as u64;
            at = start + [0, 1, 511, 4096, 16_384, 50_000][self.rng.below(6)];
            parts.push(start..at);
        }
        let extent = match self.store.reserve(at) {
            Ok(extent) => extent,
            Err(DiskError::Full { .. }) => {
                self.totals.full += 1;
                self.kept.clear();
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let seed = self.rng.next();
        let mut buffer = DiskBuf::zeroed(at as usize + [0, 4096][self.rng.below(2)]).unwrap();
        buffer.as_mut_slice()[..at as usize].copy_from_slice(&contents(seed, at as usize));
        let ticket = self.store.write_parts(&extent, buffer, &parts);
        self.flying.push_back(Flying { ticket, expected: None });
        self.kept.push(Kept { extent, parts, seed });
    }

    fn read(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        let at = self.rng.below(self.kept.len());
        let part = self.rng.below(self.kept[at].parts.len());
        let kept = &self.kept[at];
        let expected = kept.bytes(part);
        let room = kept.extent.read_len(part).filter(|_| self.rng.below(2) == 0);
        let room = room.map_or(expected.len(), |room| room as usize);
        let ticket = self.store.read(&kept.extent, part, DiskBuf::zeroed(room).unwrap());
        self.flying.push_back(Flying { ticket, expected: Some(expected) });
    }

    fn wait(&mut self, timeout: Duration) {
        let Some(Flying { ticket, expected }) = self.flying.pop_front() else { return };
        let range = ticket.range();
        match ticket.wait_for(timeout) {
            Ok(buffer) => {
                if let Some(expected) = expected {
                    assert!(buffer.as_slice()[range] == expected, "wrong bytes served");
                    self.totals.served += 1;
                }
            }
            Err(failed) => {
                self.totals.failures += 1;
                match &failed.error {
                    DiskError::Timeout { .. } => {
                        assert!(failed.buffer.is_none() && timeout < AGES, "{failed}");
                        self.totals.timeouts += 1;
                        return;
                    }
                    DiskError::Corrupt { .. } => self.totals.corrupt += 1,
                    DiskError::Io { .. }
                    | DiskError::NoSpace { .. }
                    | DiskError::Busy { .. }
                    | DiskError::State { operation: "read", .. } => {}
                    other => panic!("{other}"),
                }
                assert!(failed.buffer.is_some(), "{failed}");
            }
        }
    }

    fn abandon(&mut self) {
        self.totals.abandoned += u64::from(self.flying.pop_front().is_some());
    }

    /// Clear skies: everything ends, what was written is right or known to be wrong, and all room comes back.
    fn finish(mut self) -> Totals {
        self.store.clear_faults();
        self.store.release();
        while !self.flying.is_empty() {
            self.wait(AGES);
        }
        let deadline = Instant::now() + AGES;
        while self.store.stats().in_flight > 0 {
            assert!(Instant::now() < deadline, "something never ends: {:?}", self.store.stats());
            std::thread::yield_now();
        }
        for kept in core::mem::take(&mut self.kept) {
            let written = kept.extent.state() == ExtentState::Written;
            for part in 0..kept.parts.len() {
                let expected = kept.bytes(part);
                let ticket = self.store.read(&kept.extent, part, DiskBuf::zeroed(expected.len()).unwrap());
                match ticket.wait_for(AGES) {
                    Ok(buffer) => assert!(written && buffer.as_slice() == expected, "wrong bytes in the end"),
                    Err(failed) => {
                        let known = matches!(failed.error, DiskError::Corrupt { .. }) && written
                            || matches!(failed.error, DiskError::State { .. }) && !written;
                        assert!(known, "{failed}");
                    }
                }
            }
        }
        let stats = self.store.stats();
        assert_eq!((stats.reserved, stats.extents, stats.in_flight), (0, 0, 0), "something stayed behind");
        self.totals.faults = self.store.faults_struck().iter().map(|(_, _, times)| times).sum();
        self.totals
    }
}

fn contents(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng(seed);
    (0..len.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes()).take(len).collect()
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
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

const CAPACITY: u64 = 1 << 20;
/// Long enough for anything that ends at all.
const AGES: Duration = Duration::from_secs(60);
