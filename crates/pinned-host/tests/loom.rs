//! Every interleaving of a few threads on a pool and a ring, by loom's model checker: `cargo xtask loom`.

#![cfg(loom)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use pinned_host::{
    CancelToken, HostError, HostPool, HostRegion, Lane, PageLocker, PoolConfig, StagingRing, Wait,
};
use std::ptr::NonNull;
use std::sync::Arc;

/// Memory nobody touches.
struct Nowhere(usize, Option<Arc<AtomicUsize>>);

// SAFETY: no test reads or writes its bytes.
unsafe impl HostRegion for Nowhere {
    fn base(&self) -> NonNull<u8> {
        NonNull::dangling()
    }
    fn len(&self) -> usize {
        self.0
    }
}

impl Drop for Nowhere {
    fn drop(&mut self) {
        if let Some(count) = &self.1 {
            count.fetch_sub(self.0, Ordering::SeqCst);
        }
    }
}

/// Fails the model when more is locked at once than a budget of two pages.
#[derive(Clone)]
struct Bounded(Arc<AtomicUsize>);

impl PageLocker for Bounded {
    type Region = Nowhere;
    type Error = HostError;

    fn lock(&self, bytes: usize) -> Result<Nowhere, HostError> {
        let now = self.0.fetch_add(bytes, Ordering::SeqCst) + bytes;
        assert!(now <= 8192, "{now} bytes at once");
        Ok(Nowhere(bytes, Some(Arc::clone(&self.0))))
    }
}

fn pool(bytes: usize) -> HostPool<Nowhere> {
    HostPool::new(vec![Nowhere(bytes, None)], 4096).unwrap()
}

/// The same in one region that is made, so that blocks are kept back.
fn grown(bytes: usize) -> HostPool<Nowhere> {
    let config = PoolConfig::new(bytes as u64).region(bytes as u64).grain(4096);
    let pool = config.build(Bounded(Arc::new(AtomicUsize::new(0)))).unwrap();
    drop(pool.allocate(bytes).unwrap());
    pool
}

fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    // Enough for every known kind of bug in such code; all of them would take days.
    model.preemption_bound = Some(4);
    model.check(run);
}

fn model_of_three(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(run);
}

#[test]
fn a_slot_that_two_want_goes_from_one_to_the_other() {
    model(|| {
        let pool = pool(4096);
        let inside = Arc::new(AtomicUsize::new(0));
        let work = |pool: HostPool<Nowhere>, inside: Arc<AtomicUsize>| {
            let slice = pool.allocate_until(4096, &Wait::forever()).unwrap();
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold one slot");
            inside.fetch_sub(1, Ordering::SeqCst);
            drop(slice);
        };
        let (other, also) = (pool.clone(), Arc::clone(&inside));
        let thread = thread::spawn(move || work(other, also));
        work(pool.clone(), inside);
        thread.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.in_use, stats.slices, stats.waiters, stats.largest_hole), (0, 0, 0, 4096));
        assert_eq!(stats.peak_in_use, 4096);
    });
}

#[test]
fn three_share_a_slot_and_all_finish() {
    model_of_three(|| {
        let pool = pool(4096);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || drop(pool.allocate_until(4096, &Wait::forever()).unwrap()))
            })
            .collect();
        drop(pool.allocate_until(4096, &Wait::forever()).unwrap());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((pool.stats().waiters, pool.stats().in_use), (0, 0));
    });
}

#[test]
fn who_waits_for_all_misses_no_piece_that_was_kept_back() {
    model(|| {
        let pool = grown(8192);
        let piece = pool.allocate(4096).unwrap();
        let other = pool.clone();
        let thread = thread::spawn(move || {
            // Both pieces may go to a shelf, before the other looks, while it does, or not at all.
            drop(piece);
            drop(other.allocate(4096));
        });
        assert_eq!(pool.allocate_until(8192, &Wait::forever()).unwrap().len(), 8192);
        thread.join().unwrap();
        assert_eq!(pool.stats().in_use, 0);
    });
}

#[test]
fn a_wait_that_is_called_off_ends() {
    model(|| {
        let pool = pool(4096);
        let held = pool.allocate(4096).unwrap();
        let token = CancelToken::new();
        let cancel = token.clone();
        let thread = thread::spawn(move || cancel.cancel());
        let wait = Wait::forever().or_cancelled_by(&token);
        let refused = pool.allocate_until(4096, &wait);
        assert!(matches!(refused, Err(HostError::Cancelled { .. })));
        thread.join().unwrap();
        drop(held);
        assert_eq!((pool.stats().waiters, pool.stats().in_use), (0, 0));
    });
}

#[test]
fn who_gives_up_lets_the_next_one_through() {
    model_of_three(|| {
        let pool = pool(8192);
        let held = pool.allocate(4096).unwrap();
        let token = CancelToken::new();
        let (cancelled, large, small) = (token.clone(), pool.clone(), pool.clone());
        let large = thread::spawn(move || {
            let wait = Wait::forever().or_cancelled_by(&cancelled);
            assert!(large.allocate_until(8192, &wait).is_err());
        });
        // In front of the other, or behind it until that gives up: there is room for this one beside `held`.
        let small = thread::spawn(move || drop(small.allocate_until(4096, &Wait::forever()).unwrap()));
        token.cancel();
        large.join().unwrap();
        small.join().unwrap();
        drop(held);
        assert_eq!((pool.stats().waiters, pool.stats().in_use), (0, 0));
    });
}

#[test]
fn room_for_two_serves_two() {
    model_of_three(|| {
        let pool = pool(8192);
        let held = pool.allocate(8192).unwrap();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || pool.allocate_until(4096, &Wait::forever()).unwrap())
            })
            .collect();
        drop(held);
        // Both keep theirs: nothing else comes free.
        let slices: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!((slices.len(), pool.stats().in_use), (2, 8192));
    });
}

#[test]
fn a_region_that_one_makes_serves_who_waits_beside() {
    model(|| {
        let pool = PoolConfig::new(8192).build(Bounded(Arc::new(AtomicUsize::new(0)))).unwrap();
        let other = pool.clone();
        // Makes a region of all there may be, without a place in the queue; or is refused because somebody has one.
        let thread = thread::spawn(move || other.allocate(16));
        let mine = pool.allocate_until(16, &Wait::forever()).unwrap();
        let other = thread.join().unwrap();
        assert_eq!((mine.len(), pool.stats().regions), (16, 1));
        drop(other);
    });
}

#[test]
fn blocks_between_a_shelf_and_the_holes_are_not_missed() {
    model(|| {
        let pool = grown(8192);
        drop(pool.allocate(4096).unwrap());
        let other = pool.clone();
        // Takes the block off its shelf, and makes a hole of it a moment later.
        let thread = thread::spawn(move || other.stats().waiters);
        assert_eq!(pool.allocate_until(8192, &Wait::forever()).unwrap().len(), 8192);
        assert!(thread.join().unwrap() <= 1);
    });
}

#[test]
fn regions_that_two_make_keep_the_budget() {
    model(|| {
        let locked = Arc::new(AtomicUsize::new(0));
        let pool = PoolConfig::new(8192).build(Bounded(Arc::clone(&locked))).unwrap();
        let other = pool.clone();
        let thread = thread::spawn(move || {
            drop(other.allocate_until(8192, &Wait::forever()).unwrap());
        });
        drop(pool.allocate_until(4096, &Wait::forever()).unwrap());
        pool.trim(0);
        thread.join().unwrap();
        pool.trim(0);
        assert_eq!((pool.stats().capacity, locked.load(Ordering::SeqCst)), (0, 0));
    });
}

#[test]
fn a_budget_that_shrinks_under_a_waiter_ends_its_wait() {
    model(|| {
        let pool = PoolConfig::new(8192).build(Bounded(Arc::new(AtomicUsize::new(0)))).unwrap();
        let held = pool.allocate(8192).unwrap();
        let other = pool.clone();
        let thread = thread::spawn(move || {
            other.set_budget(4096).unwrap();
            drop(held);
        });
        match pool.allocate_until(8192, &Wait::forever()) {
            Ok(slice) => assert_eq!(slice.len(), 8192),
            Err(error) => assert!(matches!(error, HostError::TooLarge { capacity: 4096, .. })),
        }
        thread.join().unwrap();
        assert!(pool.stats().capacity <= 4096);
    });
}

#[test]
fn the_directions_of_a_ring_do_not_wait_for_one_another() {
    model(|| {
        let ring = StagingRing::new(pool(4096), pool(4096));
        let held = ring.acquire(Lane::Download, 4096, None).unwrap();
        let other = ring.clone();
        let thread = thread::spawn(move || drop(other.acquire(Lane::Upload, 4096, None).unwrap()));
        drop(ring.acquire(Lane::Upload, 4096, None).unwrap());
        thread.join().unwrap();
        drop(held);
        let stats = ring.stats();
        assert_eq!((stats.read.in_use, stats.write.in_use, stats.read.waiters), (0, 0, 0));
    });
}
