//! The promises of DeepSpeed's pinned-tensor manager, those its tests state and those they leave out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]

use pinned_host::{HostError, LockPolicy, OsLocker, OsRegion, PinnedBuffer, PinnedManager, PoolConfig, Wait};
use std::collections::HashSet;

fn manager(budget: u64) -> PinnedManager<OsRegion> {
    let pool = PoolConfig::new(budget).lock(LockPolicy::WithinAllowance).build(OsLocker).unwrap();
    PinnedManager::new(pool)
}

#[test]
fn counts_and_types_make_lengths() {
    let manager = manager(1 << 20);
    assert_eq!(manager.allocate(1000, 2).unwrap().len(), 2000);
    let doubles = manager.allocate_of::<f64>(3).unwrap();
    assert_eq!((doubles.len(), doubles.as_ptr().addr() % 8), (24, 0));
    let wide = manager.allocate_of::<[u128; 4]>(3).unwrap();
    assert_eq!(wide.as_ptr().addr() % align_of::<u128>(), 0);
    assert_eq!(manager.allocate_like(&doubles).unwrap().len(), 24);
    assert_eq!(manager.allocate_like(&vec![0_u8; 77]).unwrap().len(), 77);
    let copy = manager.pin(b"keys and values").unwrap();
    assert_eq!(copy.as_slice(), b"keys and values");
    assert!(matches!(manager.allocate(0, 4), Err(HostError::ZeroSize)));
    assert!(matches!(manager.pin(b""), Err(HostError::ZeroSize)));
    assert!(matches!(manager.allocate(usize::MAX, 4), Err(HostError::TooLarge { .. })));
    assert!(matches!(manager.allocate(1 << 20, 2), Err(HostError::TooLarge { .. })));
    assert_eq!(manager.managed(), (3, 24 + 192 + 15), "what was dropped is managed no longer");
}

#[test]
fn pointers_ranges_and_views_are_known() {
    let (manager, other) = (manager(1 << 20), manager(1 << 20));
    let one = manager.allocate(1000, 1).unwrap();
    let two = manager.allocate(1000, 1).unwrap();
    let first = one.as_ptr();
    for offset in [0, 1, 500, 999] {
        assert!(manager.is_managed(first.wrapping_add(offset)));
    }
    assert!(manager.is_managed_range(first, 1000) && manager.is_managed_range(first.wrapping_add(999), 1));
    assert!(!manager.is_managed(first.wrapping_add(1000)), "rounding is nobody's");
    assert!(!manager.is_managed(first.wrapping_sub(1)) && !manager.is_managed(&raw const manager));
    assert!(!manager.is_managed_range(first, 1001) && !manager.is_managed_range(first, usize::MAX));
    // Both ends managed, but not by one buffer.
    let (low, high) = if one.as_ptr() < two.as_ptr() { (&one, &two) } else { (&two, &one) };
    let span = high.as_ptr().addr() + 1000 - low.as_ptr().addr();
    assert!(!manager.is_managed_range(low.as_ptr(), span));

    let part = one.narrow(100..300).unwrap();
    let part = part.narrow(50..200).unwrap();
    assert_eq!((part.len(), part.as_ptr()), (150, first.wrapping_add(150)));
    assert!(manager.manages(&part) && !other.manages(&part), "each knows its own");
    assert!(manager.manages(&one.narrow(10..10).unwrap()));
    // It points where the next buffer may begin, and is none of it.
    let behind = low.narrow(1000..1000).unwrap();
    assert!(manager.manages(&behind) && !manager.free(&behind) && manager.manages(high));
    for range in [0..151, 151..151, 10..usize::MAX] {
        assert!(part.narrow(range).is_err());
    }
    #[allow(clippy::reversed_empty_ranges, reason = "that is the mistake")]
    let backwards = part.narrow(20..10);
    assert!(backwards.is_err());
}

#[test]
fn dropping_the_last_view_frees() {
    let manager = manager(1 << 20);
    let mut whole = manager.allocate(1000, 1).unwrap();
    whole.get_mut().unwrap().fill(7);
    let part = whole.narrow(900..1000).unwrap();
    assert!(whole.get_mut().is_none() && whole.is_shared(), "a view is left that reads");
    let first = whole.as_ptr();
    drop(whole);
    assert!(manager.is_managed(first) && part.as_slice() == [7; 100]);
    assert_eq!(manager.pool().stats().in_use, 1008);
    let mut part = part;
    part.get_mut().unwrap()[0] = 8;
    drop(part);
    assert!(!manager.is_managed(first));
    assert_eq!((manager.pool().stats().in_use, manager.managed()), (0, (0, 0)));
}

#[test]
fn freeing_says_whether_it_was_managed_and_dangles_nothing() {
    let manager = manager(1 << 20);
    let whole = manager.pin(&[9; 64]).unwrap();
    let part = whole.narrow(1..2).unwrap();
    assert!(!manager.free(&part), "it does not start where the buffer does");
    assert!(!manager.free_ptr(core::ptr::null::<u8>()));
    assert!(manager.free(&whole));
    assert!(!manager.free(&whole), "twice is no error, and nothing happens");
    assert!(!manager.manages(&part));
    assert_eq!((part.as_slice(), manager.pool().stats().slices), (&[9_u8][..], 1));
    drop((whole, part));
    assert_eq!(manager.pool().stats().slices, 0);
    // By address, as a C interface has it.
    let buffer = manager.allocate(64, 1).unwrap();
    assert!(manager.free_ptr(buffer.as_ptr()));
}

#[test]
fn slices_go_to_transfers_and_come_back() {
    let manager = manager(1 << 20);
    let buffer = manager.pin(&[1; 5000]).unwrap();
    let view = buffer.clone();
    let buffer = buffer.into_slice().unwrap_err();
    drop(view);
    let first = buffer.as_ptr();
    let slice = buffer.into_slice().unwrap();
    assert!(!manager.is_managed(first) && slice.as_slice() == [1; 5000]);
    let again = manager.adopt(slice);
    assert!(manager.manages(&again));
}

#[test]
fn all_are_freed_at_the_end() {
    let manager = manager(4 << 20);
    let buffers: Vec<_> = (1..100).map(|bytes| manager.allocate(bytes, 100).unwrap()).collect();
    assert_eq!(manager.clone().free_all(), 99);
    assert!(buffers.iter().all(|buffer| !manager.manages(buffer)));
    drop(buffers);
    assert_eq!(manager.free_all(), 0);
    assert_eq!(manager.pool().stats().capacity, 0);
    let last = manager.pin(b"outlives").unwrap();
    drop(manager);
    assert_eq!(last.as_slice(), b"outlives");
}

#[test]
fn many_threads_allocate_share_and_free() {
    let manager = manager(8 << 20);
    let (send, receive) = std::sync::mpsc::channel::<PinnedBuffer<OsRegion>>();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (manager, send) = (manager.clone(), send.clone());
            scope.spawn(move || {
                for round in 0..500_usize {
                    let bytes = 1 + (round * 37 + usize::from(thread)) % 3000;
                    let mut buffer = manager.allocate_until(bytes, 1, &Wait::forever()).unwrap();
                    buffer.get_mut().unwrap().fill(thread);
                    assert!(manager.manages(&buffer));
                    if round % 2 == 0 {
                        send.send(buffer.narrow(0..bytes / 2).unwrap()).unwrap();
                    } else if round % 3 == 0 {
                        assert!(manager.free(&buffer));
                    }
                }
            });
        }
        drop(send);
        let mut seen = HashSet::new();
        let mut kept = Vec::new();
        for view in receive {
            assert!(view.as_slice().windows(2).all(|pair| pair[0] == pair[1]));
            seen.insert(view.as_ptr());
            kept.push(view);
            if kept.len() > 100 {
                kept.swap_remove(50);
            }
        }
        assert!(!seen.is_empty());
    });
    assert_eq!((manager.managed(), manager.pool().stats().slices), ((0, 0), 0));
}
