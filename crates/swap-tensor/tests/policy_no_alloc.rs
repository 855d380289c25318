//! Once a step has been recorded, following it allocates nothing: a counting allocator watches 20,000 leases
//! of 10,000 tensors.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use core::ops::ControlFlow;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering},
};
use swap_tensor::policy::{self, EvictionPolicy, Scheduled, State, TensorKey, Tier, Use};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system allocator unchanged; counting touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TENSORS: u32 = 10_000;
/// How many fit.
const ROOM: u32 = 3_000;

/// Forwards and backwards through all tensors, fetching ahead; how many leases found their tensor.
fn step(policy: &mut Scheduled, inside: &mut [bool], count: &mut u32) -> u32 {
    let mut hits = 0;
    for number in (0..TENSORS).chain((0..TENSORS).rev()) {
        let key = TensorKey::new(number);
        hits += u32::from(inside[number as usize]);
        policy.held(key);
        if !inside[number as usize] {
            if *count == ROOM {
                let mut victim = None;
                policy.victims(Tier::Device, &mut |key| {
                    victim = Some(key);
                    ControlFlow::Break(())
                });
                leave(policy, inside, count, victim.unwrap());
            }
            enter(policy, inside, count, key);
        }
        policy.leased(key, Use::Read);
        policy.released(key);
        while let Some(fetch) = policy.next_fetch(1) {
            let mut victim = None;
            policy.victims_for(&fetch, &mut |key| {
                victim = Some(key);
                ControlFlow::Break(())
            });
            match victim {
                Some(victim) if *count == ROOM => leave(policy, inside, count, victim),
                _ if *count < ROOM => {}
                _ => {
                    policy.put_back(fetch);
                    break;
                }
            }
            enter(policy, inside, count, fetch.key);
        }
    }
    hits
}

fn enter(policy: &mut Scheduled, inside: &mut [bool], count: &mut u32, key: TensorKey) {
    *count += 1;
    inside[key.index()] = true;
    policy.entered(Tier::Device, key, 1);
}

fn leave(policy: &mut Scheduled, inside: &mut [bool], count: &mut u32, key: TensorKey) {
    *count -= 1;
    inside[key.index()] = false;
    policy.left(Tier::Device, key);
}

#[test]
fn a_recorded_step_is_followed_without_an_allocation() {
    for name in policy::NAMES {
        let mut policy = Scheduled::new(policy::by_name(name).unwrap(), u64::from(ROOM));
        for number in 0..TENSORS {
            policy.created(TensorKey::new(number), &format!("tensor.{number}"), 1);
        }
        let (mut inside, mut count, mut quiet) = (vec![false; TENSORS as usize], 0, 0);
        for round in 0..12 {
            let before = ALLOCATIONS.load(Ordering::SeqCst);
            if let Some(draft) = policy.mark_step() {
                policy.adopt(draft.plan());
            }
            let hits = step(&mut policy, &mut inside, &mut count);
            let after = ALLOCATIONS.load(Ordering::SeqCst);
            assert!(round < 2 || (policy.state() == State::Following && hits == 2 * TENSORS), "{hits} hits");
            quiet = if after == before { quiet + 1 } else { 0 };
        }
        assert!(quiet >= 6, "{name}: the last {quiet} steps of 12 allocated nothing");
    }
}
