//! Staged copies where things go wrong, on the simulated device, and where many share little, on the real one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::DeviceBuffer;
use backend_cpu::CpuDevice;
use backend_cpu::sim::{Call, Fault, HazardKind, LeakReport, SimConfig, SimDevice, SimRegion};
use pinned_host::{
    CancelToken, Event, HostError, Lane, LockPolicy, Queue, StagedCause, StagedCopy, StagedError,
    StagingConfig, StagingRing, Transfer,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const PIECE: usize = 1024;
const LEN: usize = 5 * PIECE + 100;

fn ring<T: Transfer>(device: &T, bytes: usize) -> StagingRing<pinned_host::RegionOf<T>> {
    StagingConfig { read: bytes, write: bytes, lock: LockPolicy::Never }.build(device.locker()).unwrap()
}

fn bytes(seed: u8) -> Vec<u8> {
    (0..LEN).map(|at| (at * 31 + at / 251) as u8 ^ seed).collect()
}

/// Up, moved, and down from where it was moved to. The result of each step.
type Rounds = [Option<Result<(), StagedError<SimDevice>>>; 2];

fn round(device: &SimDevice, ring: &StagingRing<SimRegion>, back: &mut [u8]) -> Option<Rounds> {
    let mut buffer = device.buffer(2 * LEN as u64).ok()?;
    let staged = StagedCopy::new(device, ring).piece(PIECE);
    let up = staged.upload(&bytes(1), &mut buffer, 0);
    if let Err(error) = &up {
        // What has arrived is there, if the device can still be asked.
        let mut there = vec![0; error.copied as usize];
        if error.is_settled() && device.read_now(&buffer, 0, &mut there).is_ok() {
            assert_eq!(there, bytes(1)[..there.len()], "{error}");
        }
        return Some([Some(up), None]);
    }
    buffer.copy_within(0..LEN as u64, LEN as u64).ok()?;
    let moved = [device.queue().record().ok()?];
    let down = staged.after(&moved).download(&buffer, LEN as u64, back);
    if let Err(error) = &down {
        assert_eq!(back[..error.copied as usize], bytes(1)[..error.copied as usize], "{error}");
    }
    moved[0].synchronize().ok()?;
    Some([Some(up), Some(down)])
}

#[test]
fn every_fault_at_every_call_ends_with_a_typed_error_or_good_bytes() {
    let faults = [
        Fault::OutOfMemory,
        Fault::Refuse,
        Fault::DeviceLost,
        Fault::FailRecord,
        Fault::Fail,
        Fault::Delay,
        Fault::Short,
    ];
    let mut failed = 0;
    for fault in faults {
        for k in 1..=30 {
            for seed in 0..4 {
                let device = SimDevice::new(SimConfig::seeded(seed));
                let ring = ring(&device, if seed % 2 == 0 { 16 * PIECE } else { PIECE });
                device.inject(Call::Any, k, fault);
                let mut back = vec![0; LEN];
                for outcome in round(&device, &ring, &mut back).into_iter().flatten().flatten() {
                    let Err(error) = outcome else { continue };
                    failed += 1;
                    let text = error.to_string();
                    assert!(text.contains(&format!("{LEN} bytes")), "{text}");
                    assert!(error.copied < LEN as u64, "{text}");
                    if error.is_settled() {
                        let stats = ring.stats();
                        assert_eq!(
                            (stats.read.slices, stats.write.slices),
                            (0, 0),
                            "{fault:?} at {k}: {text}"
                        );
                    }
                    let known = matches!(
                        error.cause,
                        StagedCause::Refused(_) | StagedCause::Failed(_) | StagedCause::Order(_)
                    );
                    assert!(known, "{text}");
                }
                assert_eq!(device.hazards(), [], "{fault:?} at {k}");
                let _ = device.drain_all();
                device.parking().sweep();
                drop(ring);
                assert_eq!(device.leaks(), LeakReport::default(), "{fault:?} at {k}, seed {seed}");
            }
        }
    }
    assert!(failed > 200, "{failed}");
}

/// The wait that `after` makes, left out.
#[test]
fn without_its_events_a_staged_copy_is_found() {
    for seed in 0..20 {
        let device = SimDevice::new(SimConfig::seeded(seed));
        let ring = ring(&device, 4 * PIECE);
        let mut buffer = device.buffer(2 * LEN as u64).unwrap();
        let staged = StagedCopy::new(&device, &ring).piece(PIECE);
        staged.upload(&bytes(1), &mut buffer, 0).unwrap();
        buffer.copy_within(0..LEN as u64, LEN as u64).unwrap();
        assert_eq!(device.hazards(), []);
        staged.download(&buffer, LEN as u64, &mut vec![0; LEN]).unwrap();
        let kinds: Vec<_> = device.hazards().iter().map(|hazard| hazard.kind).collect();
        assert!(kinds.contains(&HazardKind::ReadAfterWrite), "seed {seed}: {kinds:?}");
        let moved = [device.queue().record().unwrap()];
        let found = device.hazards().len();
        staged.after(&moved).upload(&bytes(2), &mut buffer, 0).unwrap();
        assert_eq!(device.hazards().len(), found);
        buffer.copy_within(0..LEN as u64, LEN as u64).unwrap();
        staged.upload(&bytes(3), &mut buffer, 0).unwrap();
        assert!(device.hazards()[found..].iter().any(|hazard| hazard.kind == HazardKind::WriteAfterRead));
    }
}

/// Eight threads, one slot for each direction, and a few deadlines among them: all finish. `STAGED_COPIES` says how many
/// copies; the example `staged_rate -- --copies 100000` makes the full count.
#[test]
fn one_slot_eight_threads_and_deadlines() {
    let copies = std::env::var("STAGED_COPIES").ok().and_then(|count| count.parse().ok()).unwrap_or(2000);
    let device = CpuDevice::new().unwrap();
    // A page: there is no shorter ring.
    const SLOT: usize = 4096;
    let ring = ring(&device, SLOT);
    assert_eq!(ring.budget(Lane::Upload), SLOT as u64);
    let buffer = device.buffer(8 * LEN as u64).unwrap();
    let late = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (device, ring, late, mut buffer) = (&device, &ring, &late, buffer.clone());
            scope.spawn(move || {
                let at = (thread * LEN) as u64;
                for number in (thread..copies / 2).step_by(8) {
                    let expected = &bytes(number as u8)[..1 + number * 977 % LEN];
                    let staged = StagedCopy::new(device, ring).piece(SLOT);
                    let hasty = staged.deadline(Instant::now() + Duration::from_micros(50));
                    let hasty =
                        if number % 3 == 0 { hasty.upload(expected, &mut buffer, at) } else { Ok(()) };
                    if let Err(error) = hasty {
                        assert!(
                            matches!(error.cause, StagedCause::Staging(HostError::Timeout { .. })),
                            "{error}"
                        );
                        assert!(error.is_settled() && error.copied < error.asked);
                        late.fetch_add(1, SeqCst);
                    }
                    staged.upload(expected, &mut buffer, at).unwrap();
                    let mut back = vec![0; expected.len()];
                    staged.download(&buffer, at, &mut back).unwrap();
                    assert!(back == expected, "thread {thread}, copy {number}");
                }
            });
        }
    });
    let stats = ring.stats();
    assert_eq!((stats.read.slices, stats.write.slices, stats.read.waiters), (0, 0, 0));
}

/// Called off in the queue for staging, where it holds nothing, and between two pieces.
#[test]
fn a_token_ends_a_copy_wherever_it_is() {
    let device = CpuDevice::new().unwrap();
    let ring = ring(&device, PIECE);
    let mut buffer = device.buffer(LEN as u64).unwrap();
    let token = CancelToken::new();
    let staged = StagedCopy::new(&device, &ring).piece(PIECE).cancelled_by(&token);
    staged.upload(&bytes(1)[..LEN], &mut buffer, 0).unwrap();
    let held = ring.try_acquire(Lane::Upload, ring.max_slice(Lane::Upload)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while ring.waiters(Lane::Upload) == 0 {
                std::thread::yield_now();
            }
            token.cancel();
        });
        let stopped = staged.upload(&bytes(2)[..LEN], &mut buffer, 0).unwrap_err();
        assert!(matches!(stopped.cause, StagedCause::Cancelled), "{stopped}");
        assert_eq!((stopped.copied, stopped.is_settled()), (0, true));
    });
    drop(held);
    let stopped = staged.upload(&bytes(2)[..LEN], &mut buffer, 0).unwrap_err();
    assert!(matches!(stopped.cause, StagedCause::Cancelled) && stopped.copied == 0, "{stopped}");
    let mut back = vec![0; LEN];
    device.read_now(&buffer, 0, &mut back).unwrap();
    assert!(back == bytes(1)[..LEN], "nothing was sent");
}

/// A short copy that comes while a very long one has all staging memory is not kept waiting for its end.
#[test]
fn a_long_copy_lets_others_in() {
    const SLOT: usize = 64 << 10;
    let device = CpuDevice::new().unwrap();
    let ring = ring(&device, SLOT);
    let turn = StagedCopy::<CpuDevice>::TURN;
    let long = vec![1; 16 * turn];
    let (mut buffer, mut other) = (device.buffer(long.len() as u64).unwrap(), device.buffer(64).unwrap());
    let (begun, arrived) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !begun.load(SeqCst) {
                std::thread::yield_now();
            }
            StagedCopy::new(&device, &ring).upload(&[7; 64], &mut other, 0).unwrap();
            arrived.store(true, SeqCst);
        });
        let calls = AtomicUsize::new(0);
        // The second piece is not sent before the other thread waits.
        let until_it_arrived = || {
            if calls.fetch_add(1, SeqCst) == 1 {
                begun.store(true, SeqCst);
                while ring.stats().read.waiters == 0 && !arrived.load(SeqCst) {
                    std::thread::yield_now();
                }
            }
            arrived.load(SeqCst)
        };
        let staged = StagedCopy::new(&device, &ring).piece(SLOT).cancel_when(&until_it_arrived);
        let stopped = staged.upload(&long, &mut buffer, 0).unwrap_err();
        assert!(matches!(stopped.cause, StagedCause::Cancelled), "{stopped}");
        assert!(stopped.copied as usize + SLOT >= turn, "its turn was not over: {stopped}");
    });
    let mut there = [0; 64];
    device.read_now(&other, 0, &mut there).unwrap();
    assert_eq!((there, device.lane(Lane::Upload).drain().is_ok()), ([7; 64], true));
}
