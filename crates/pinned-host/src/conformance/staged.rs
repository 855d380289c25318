//! Promises of [`StagedCopy`]: pageable memory to the device and back, in pieces through staging.

use super::{Bench, Harness, Rng, pattern, skip};
use crate::{
    DeviceError, ErrorKind, HostError, Lane, LockPolicy, Queue, QueuedBuffer, RegionOf, StagedCause,
    StagedCopy, StagingConfig, StagingRing, Transfer,
};
use allocator_core::DeviceBuffer;
use core::cell::Cell;
use std::time::Instant;

/// Every length arrives, from and to memory of any alignment, and nothing beside it changes.
pub fn every_length_arrives<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 4096);
    let (g, piece) = (bench.grain, bench.grains(1024));
    let ring = ring(&bench.device, 3 * piece);
    let size = 16 * piece;
    let mut buffer = bench.buffer(size);
    let mut shadow = vec![0; size as usize];
    let lengths = [0, g, piece - g, piece, piece + g, 2 * piece - g, 3 * piece, 7 * piece + g, 12 * piece];
    let host = pattern(9, size + 64);
    for (case, len) in lengths.into_iter().enumerate() {
        for (shift, depth) in [(0, 4), (1, 1), (7, 2), (33, 8)] {
            let at = g * (case as u64 + shift);
            let from = &host[shift as usize..][..len as usize];
            let staged = StagedCopy::new(&bench.device, &ring).piece(piece as usize).depth(depth);
            staged.upload(from, &mut buffer, at).unwrap();
            shadow[at as usize..][..len as usize].copy_from_slice(from);
            assert!(bench.contents(&buffer, 0, size) == shadow, "{len} bytes to {at}");
            let mut back = vec![0xee; len as usize + 64];
            staged.download(&buffer, at, &mut back[shift as usize..][..len as usize]).unwrap();
            let (before, rest) = back.split_at(shift as usize);
            assert!(rest[..len as usize] == *from, "{len} bytes from {at}");
            assert!(before.iter().chain(&rest[len as usize..]).all(|byte| *byte == 0xee), "{len} from {at}");
            assert_idle(&ring);
        }
    }
}

/// A range beyond the buffer, overflow included, or off the grain is refused before a byte is sent.
pub fn bad_ranges_are_refused<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 4096);
    let (g, size) = (bench.grain, bench.grains(4096));
    let ring = ring(&bench.device, g.max(64));
    let mut buffer = bench.buffer(size);
    let staged = StagedCopy::new(&bench.device, &ring);
    let mut cases = vec![(size, 2 * g), (size - g, 2 * g), (u64::MAX / g * g, 2 * g), (0, size + g)];
    if g > 1 {
        cases.extend([(1, g), (0, g + 1), (0, g - 1)]);
    }
    for (at, len) in cases {
        let mut bytes = vec![7; len as usize];
        let up = staged.upload(&bytes, &mut buffer, at).unwrap_err();
        let down = staged.download(&buffer, at, &mut bytes).unwrap_err();
        for error in [up, down] {
            assert!(matches!(error.cause, StagedCause::Range(_)), "{len} bytes at {at}: {error}");
            assert_eq!((error.asked, error.copied, error.is_settled()), (len, 0, true));
        }
        assert_eq!(bytes, vec![7; len as usize]);
    }
    assert_eq!(bench.contents(&buffer, 0, size), vec![0; size as usize]);
}

/// A staged copy runs after the events it is given, and what is submitted when it has returned runs after it.
pub fn it_keeps_its_place<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = bench.grains(4096);
    let ring = ring(&bench.device, len / 2);
    let mut buffer = bench.buffer(2 * len);
    for round in 0..4 {
        let sent = bench.upload(bench.slice(round, len), &mut buffer, 0);
        buffer.queue().wait(sent.event()).unwrap();
        buffer.copy_within(0..len, len).unwrap();
        let moved = [buffer.queue().record().unwrap()];
        let staged = StagedCopy::new(&bench.device, &ring).piece(len as usize / 4).after(&moved);
        // Overwrites what the move reads, and reads what it writes.
        staged.upload(&pattern(100 + round, len), &mut buffer, 0).unwrap();
        let mut back = vec![0; len as usize];
        staged.download(&buffer, len, &mut back).unwrap();
        assert!(back == pattern(round, len), "round {round}: the download did not wait for the move");
        buffer.copy_within(0..len, len).unwrap();
        buffer.queue().drain().unwrap();
        assert!(bench.contents(&buffer, len, len) == pattern(100 + round, len), "round {round}");
        sent.wait().unwrap();
    }
}

/// Eight threads that share one slot for each direction all finish, each with its own bytes, whatever their lengths.
pub fn one_slot_serves_many_threads<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 4096);
    let slot = bench.grains(1024);
    let ring = ring(&bench.device, slot);
    let (threads, most) = (8, 3 * slot);
    let buffer = bench.buffer(threads * most);
    let device = &bench.device;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (ring, bench, mut buffer) = (&ring, &bench, buffer.clone());
            scope.spawn(move || {
                let (mut rng, at) = (Rng::new(thread), thread * most);
                for round in 0..12 {
                    let expected = pattern(100 * thread + round, bench.grains(1 + rng.below(most)).min(most));
                    let staged = StagedCopy::new(device, ring).piece(ring.max_slice(Lane::Upload));
                    let staged = staged.depth(1 + rng.below(8) as usize);
                    staged.upload(&expected, &mut buffer, at).unwrap();
                    let mut back = vec![0; expected.len()];
                    staged.download(&buffer, at, &mut back).unwrap();
                    assert!(back == expected, "thread {thread}, round {round}");
                }
            });
        }
    });
    assert_idle(&ring);
    let stats = ring.stats();
    assert!(stats.read.peak_in_use <= stats.read.capacity && stats.write.peak_in_use <= stats.write.capacity);
}

/// Who waits in vain for staging is told so, with how much had been copied; the other direction goes on.
pub fn a_deadline_is_typed<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 4096);
    let slot = bench.grains(1024);
    let ring = ring(&bench.device, slot);
    let mut buffer = bench.buffer(4 * slot);
    let held = ring.acquire(Lane::Upload, ring.max_slice(Lane::Upload), None).unwrap();
    let staged = StagedCopy::new(&bench.device, &ring).deadline(Instant::now());
    let bytes = pattern(1, 4 * slot);
    let late = staged.upload(&bytes, &mut buffer, 0).unwrap_err();
    assert!(matches!(late.cause, StagedCause::Staging(HostError::Timeout { .. })), "{late}");
    assert_eq!((late.asked, late.copied, late.is_settled(), late.lane), (4 * slot, 0, true, Lane::Upload));
    let mut back = vec![1; 4 * slot as usize];
    staged.download(&buffer, 0, &mut back).unwrap();
    assert_eq!(back, vec![0; 4 * slot as usize]);
    drop(held);
    staged.upload(&bytes, &mut buffer, 0).unwrap();
    assert_eq!(bench.contents(&buffer, 0, 4 * slot), bytes);
}

/// A copy that is cancelled says how many bytes have arrived, and they have; nothing of it is in flight.
pub fn a_cancelled_copy_says_how_far_it_came<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 4096);
    let piece = bench.grains(512);
    let ring = ring(&bench.device, 4 * piece);
    let len = 10 * piece;
    for pieces in 0..10 {
        let mut buffer = bench.buffer(len);
        let asked = Cell::new(0);
        let enough = || asked.replace(asked.get() + 1) == pieces;
        let staged =
            StagedCopy::new(&bench.device, &ring).piece(piece as usize).depth(3).cancel_when(&enough);
        let bytes = pattern(pieces, len);
        let stopped = staged.upload(&bytes, &mut buffer, 0).unwrap_err();
        assert!(matches!(stopped.cause, StagedCause::Cancelled) && stopped.is_settled(), "{stopped}");
        assert!(stopped.copied <= pieces * piece, "more arrived than was sent: {stopped}");
        let arrived = stopped.copied as usize;
        assert_eq!(bench.contents(&buffer, 0, len)[..arrived], bytes[..arrived]);
        assert_idle(&ring);

        bench.device.write_now(&mut buffer, 0, &bytes).unwrap();
        asked.set(0);
        let mut back = vec![0; len as usize];
        let stopped = staged.download(&buffer, 0, &mut back).unwrap_err();
        let arrived = stopped.copied as usize;
        assert!(matches!(stopped.cause, StagedCause::Cancelled) && stopped.is_settled(), "{stopped}");
        assert!(back[..arrived] == bytes[..arrived] && back[arrived..].iter().all(|byte| *byte == 0));
        assert_idle(&ring);
    }
}

/// Where the caller's own code panics in the middle, nothing of the copy is left in flight.
pub fn a_panic_leaves_nothing_in_flight<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 4096);
    let piece = bench.grains(512);
    let ring = ring(&bench.device, 4 * piece);
    let mut buffer = bench.buffer(8 * piece);
    let asked = Cell::new(0);
    let faint = || {
        asked.set(asked.get() + 1);
        // Without the message that a panic prints.
        if asked.get() == 4 { std::panic::resume_unwind(Box::new("as asked")) } else { false }
    };
    let staged = StagedCopy::new(&bench.device, &ring).piece(piece as usize).cancel_when(&faint);
    let bytes = pattern(1, 8 * piece);
    let ended =
        std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| staged.upload(&bytes, &mut buffer, 0)));
    assert!(ended.is_err());
    assert_idle(&ring);
    StagedCopy::new(&bench.device, &ring).upload(&bytes, &mut buffer, 0).unwrap();
    assert_eq!(bench.contents(&buffer, 0, 8 * piece), bytes);
}

/// A piece whose event cannot be recorded ends the copy; what had been sent is waited for.
pub fn a_failed_record_ends_the_copy<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 4096);
    let piece = bench.grains(512);
    let ring = ring(&bench.device, 4 * piece);
    let mut buffer = bench.buffer(8 * piece);
    let bytes = pattern(1, 8 * piece);
    for lane in [Lane::Upload, Lane::Download] {
        let (asked, able) = (Cell::new(0), Cell::new(true));
        let sabotage = || {
            asked.set(asked.get() + 1);
            if asked.get() == 3 {
                able.set(harness.fail_next_record(&bench.device, lane));
            }
            !able.get()
        };
        let staged = StagedCopy::new(&bench.device, &ring).piece(piece as usize).cancel_when(&sabotage);
        let failed = match lane {
            Lane::Upload => staged.upload(&bytes, &mut buffer, 0),
            Lane::Download => staged.download(&buffer, 0, &mut vec![0; bytes.len()]),
        };
        let failed = failed.unwrap_err();
        if !able.get() {
            return skip("a_failed_record_ends_the_copy", "this harness cannot make a record fail");
        }
        assert!(matches!(failed.cause, StagedCause::Refused(_)), "{failed}");
        assert!(failed.is_settled() && failed.copied <= 2 * piece, "{failed}");
        assert_idle(&ring);
    }
    StagedCopy::new(&bench.device, &ring).upload(&bytes, &mut buffer, 0).unwrap();
    assert_eq!(bench.contents(&buffer, 0, 8 * piece), bytes);
}

/// A device that is lost in the middle says so.
pub fn a_lost_device_is_typed<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 4096);
    let piece = bench.grains(512);
    let ring = ring(&bench.device, 4 * piece);
    let mut buffer = bench.buffer(8 * piece);
    let (asked, able) = (Cell::new(0), Cell::new(true));
    let lose = || {
        asked.set(asked.get() + 1);
        if asked.get() == 3 {
            able.set(harness.lose_device(&bench.device));
        }
        !able.get()
    };
    let staged = StagedCopy::new(&bench.device, &ring).piece(piece as usize).cancel_when(&lose);
    let lost = staged.upload(&pattern(1, 8 * piece), &mut buffer, 0).unwrap_err();
    if !able.get() {
        return skip("a_lost_device_is_typed", "this harness cannot lose its device");
    }
    let kind = match &lost.cause {
        StagedCause::Refused(error) => error.kind(),
        StagedCause::Failed(error) => error.kind(),
        other => panic!("{other}"),
    };
    assert_eq!(kind, ErrorKind::DeviceLost, "{lost}");
    assert!(lost.copied <= 2 * piece, "{lost}");
}

/// A ring of `bytes` for each direction, in one region each.
fn ring<T: Transfer>(device: &T, bytes: u64) -> StagingRing<RegionOf<T>> {
    let whole =
        |lock| StagingConfig { read: bytes as usize, write: bytes as usize, lock }.build(device.locker());
    whole(LockPolicy::Required).or_else(|_| whole(LockPolicy::Never)).unwrap()
}

fn assert_idle<R: crate::HostRegion>(ring: &StagingRing<R>) {
    let stats = ring.stats();
    assert_eq!((stats.read.slices, stats.write.slices), (0, 0), "staging memory is still out");
}
