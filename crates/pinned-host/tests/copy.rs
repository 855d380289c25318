//! Host copies against plain vectors: every alignment, every overlap, every length around what decides.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use pinned_host::HostCopy;
use proptest::prelude::*;

const WAYS: [HostCopy; 4] = [
    HostCopy::caching(),
    HostCopy::streaming(),
    HostCopy::caching().threads(3),
    HostCopy::streaming().threads(3),
];

fn numbered(len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect()
}

/// Copies apart and within, and compares every byte with what a vector does.
fn check(how: HostCopy, size: usize, src: usize, len: usize, dst: usize) -> Result<(), TestCaseError> {
    let before = numbered(size);
    let mut model = before.clone();
    model.copy_within(src..src + len, dst);
    let mut moved = before.clone();
    how.copy_within(&mut moved, src..src + len, dst).unwrap();
    prop_assert!(moved == model, "{how:?}: {len} bytes from {src} to {dst}");
    let mut other = vec![0xa5; size];
    prop_assert_eq!(how.copy(&before[src..src + len], &mut other[dst..dst + len]), len);
    prop_assert!(other[dst..dst + len] == before[src..src + len]);
    prop_assert!(other[..dst].iter().chain(&other[dst + len..]).all(|byte| *byte == 0xa5));
    Ok(())
}

/// All residues of both ends to a line of the cache.
#[test]
#[cfg_attr(miri, ignore = "64 times 64 copies of two pages")]
fn every_alignment() {
    let len = HostCopy::STREAM_FROM + 100;
    for src in 0..64 {
        for dst in 0..64 {
            let how = WAYS[(src + dst) % 2];
            check(how, 3 * len, src, len, len + 64 + dst).unwrap();
            check(HostCopy::streaming(), 3 * len, len + 64 + src, len, dst).unwrap();
        }
    }
}

/// Moves down and up by every small distance, and around those where the way changes.
#[test]
#[cfg_attr(miri, ignore = "reads every byte after every move")]
fn every_overlap() {
    let long = 20_000;
    let size = 2 * long + 5000;
    for way in WAYS {
        for near in (0..200).chain([4032, 4095, 4096, 4097, 4160, long - 1, long]) {
            check(way, size, near + 7, long, 7).unwrap();
            check(way, size, 7, long, near + 7).unwrap();
        }
    }
}

/// Long enough for three threads, of no round length.
#[test]
#[cfg_attr(miri, ignore = "tens of MiB")]
fn long_copies_in_parts() {
    for len in [2 * HostCopy::PART - 1, 2 * HostCopy::PART, 3 * HostCopy::PART + 4321] {
        for way in &WAYS[2..] {
            check(*way, 2 * len + 70, 3, len, len + 67).unwrap();
            check(*way, 2 * len + 70, 67, len, 3).unwrap();
        }
    }
}

#[test]
fn lengths_that_differ_copy_what_both_have() {
    let (from, mut to) = (numbered(100), vec![0; 60]);
    assert_eq!(HostCopy::streaming().copy(&from, &mut to), 60);
    assert_eq!(to, from[..60]);
    assert_eq!(HostCopy::streaming().copy(&from[..10], &mut to), 10);
    assert_eq!(HostCopy::streaming().copy(&[], &mut to), 0);
}

#[test]
fn ranges_outside_are_refused() {
    let mut bytes = numbered(100);
    for (src, dst) in [(90..101, 0), (0..11, 90), (0..1, usize::MAX), (usize::MAX - 1..usize::MAX, 0)] {
        let refused = HostCopy::streaming().copy_within(&mut bytes, src.clone(), dst);
        assert!(refused.is_err(), "{src:?} to {dst}");
    }
    // A range whose end is before its start, which no literal gives.
    let (start, end) = (5, 3);
    assert!(HostCopy::streaming().copy_within(&mut bytes, start..end, 0).is_err());
    assert_eq!(bytes, numbered(100));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "long copies")]
    fn any_copy(way in 0..4_usize, src in 0..9000_usize, dst in 0..9000_usize, len in 0..40_000_usize) {
        check(WAYS[way], 50_000, src, len, dst)?;
    }
}
