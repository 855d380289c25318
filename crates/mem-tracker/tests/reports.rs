//! Statistics and texts under PyTorch's names.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::conformance::VecBuffer;
use allocator_core::{Arena, Compaction, Handle, Request};
use mem_tracker::{Category, Stat, Tracker, Watch, When};

fn arena(tracker: &Tracker, size: usize, grain: u64) -> (Watch, Arena<VecBuffer>) {
    let watch = tracker.device("cuda:0").unwrap().watch(size as u64).unwrap();
    let mut arena = Arena::new(VecBuffer::with_grain(size, grain)).unwrap();
    arena.set_observer(Box::new(watch.observer()));
    (watch, arena)
}

#[test]
fn memory_stats_count_as_pytorchs_do() {
    let tracker = Tracker::new();
    let (watch, mut arena) = arena(&tracker, 8 << 20, 512);
    let device = watch.device();
    let large = arena.allocate(Request::new(2 << 20)).unwrap();
    let small = arena.allocate(Request::new(1000)).unwrap();
    arena.release(large).unwrap();
    // On the device, beside the arena, and without bytes: no allocation.
    let beside = device.add(100).unwrap();
    device.add(0).unwrap();

    let stats = device.memory_stats_map();
    assert_eq!(stats.len(), 7 * 12 + 1);
    let mega = 2 << 20;
    for (key, value) in [
        ("allocation.all.current", 2),
        ("allocation.all.peak", 2),
        ("allocation.all.allocated", 3),
        ("allocation.all.freed", 1),
        ("allocation.large_pool.current", 0),
        ("allocation.small_pool.current", 2),
        ("allocated_bytes.all.current", 1024 + 100),
        ("allocated_bytes.all.peak", mega + 1024),
        ("allocated_bytes.all.allocated", mega + 1024 + 100),
        ("allocated_bytes.all.freed", mega),
        ("allocated_bytes.large_pool.peak", mega),
        ("allocated_bytes.small_pool.peak", 1024 + 100),
        ("requested_bytes.all.current", 1000 + 100),
        ("requested_bytes.all.peak", mega + 1000),
        ("active.all.current", 2),
        ("active_bytes.all.current", 1024 + 100),
        ("segment.all.current", 1),
        ("segment.large_pool.current", 1),
        ("segment.small_pool.current", 0),
        ("reserved_bytes.all.current", 8 << 20),
        ("reserved_bytes.large_pool.peak", 8 << 20),
        ("reserved_bytes.small_pool.allocated", 0),
        ("num_ooms", 0),
    ] {
        assert_eq!(stats[key], value, "{key}");
    }

    device.reset_peak_memory_stats();
    device.reset_accumulated_memory_stats();
    let bytes = device.memory_stats().allocated_bytes.all;
    assert_eq!((bytes.current, bytes.peak, bytes.allocated, bytes.freed), (1124, 1124, 0, 0));
    arena.release(small).unwrap();
    tracker.resize(beside, 300).unwrap();
    let bytes = device.memory_stats().allocated_bytes.all;
    assert_eq!((bytes.current, bytes.peak, bytes.allocated, bytes.freed), (300, 1124, 300, 1124));
    // The tracker's own peak is another matter.
    assert_eq!(device.usage(When::Peak).total(), mega + 1024);

    watch.set_size(9 << 20).unwrap();
    assert_eq!(device.memory_stats().reserved_bytes.current, 9 << 20);
    drop(arena);
    let (segment, reserved) = (device.memory_stats().segment, device.memory_stats().reserved_bytes);
    assert_eq!((segment.current, reserved.current, reserved.peak), (0, 0, 9 << 20));
}

/// What is there now is what came less what went, whatever happens, until the sums are reset.
#[test]
fn sums_agree() {
    let tracker = Tracker::new();
    let (watch, mut arena) = arena(&tracker, 16 << 20, 256);
    let mut live: Vec<Handle> = Vec::new();
    for round in 0..300_u64 {
        if round % 3 == 2 {
            arena.release(live.swap_remove(round as usize % live.len())).unwrap();
        } else if let Ok(block) = arena.allocate(Request::new(1 + round * 7919 % (2 << 20))) {
            live.push(block);
        } else {
            arena.release(live.swap_remove(0)).unwrap();
        }
        let stats = watch.device().memory_stats();
        for pools in [&stats.allocation, &stats.allocated_bytes, &stats.requested_bytes] {
            for Stat { current, peak, allocated, freed, .. } in
                [pools.all, pools.large_pool, pools.small_pool]
            {
                assert_eq!(current, allocated - freed);
                assert!(peak >= current);
            }
            assert_eq!(pools.all.current, pools.large_pool.current + pools.small_pool.current);
        }
        let core = arena.stats();
        assert_eq!(stats.allocated_bytes.all.current, core.live);
        assert_eq!(stats.requested_bytes.all.current, core.requested);
        assert_eq!(stats.allocation.all.current, core.blocks);
        assert_eq!(stats.allocated_bytes.all.peak, core.high_water);
        assert_eq!((stats.num_moves, stats.moved_bytes), (core.moves, core.moved_bytes));
    }
    assert!(arena.stats().moves > 0);
}

#[test]
fn an_abbreviated_summary_and_counts() {
    let tracker = Tracker::new();
    let (watch, mut arena) = arena(&tracker, 4096, 1);
    let device = watch.device();
    for _ in 0..750 {
        let block = arena.allocate(Request::new(1)).unwrap();
        arena.release(block).unwrap();
    }
    arena.allocate(Request::new(700)).unwrap();
    let _ = watch.out_of_memory(arena.allocator(), Request::new(1 << 20));
    let text = "\
|===========================================================================|
|                  PyTorch CUDA memory summary, device ID 0                 |
|---------------------------------------------------------------------------|
|            CUDA OOMs: 1            |        cudaMalloc retries: 0         |
|===========================================================================|
|        Metric         | Cur Usage  | Peak Usage | Tot Alloc  | Tot Freed  |
|---------------------------------------------------------------------------|
| Allocated memory      |    700 B   |    700 B   |   1450 B   |    750 B   |
|---------------------------------------------------------------------------|
| Active memory         |    700 B   |    700 B   |   1450 B   |    750 B   |
|---------------------------------------------------------------------------|
| Requested memory      |    700 B   |    700 B   |   1450 B   |    750 B   |
|---------------------------------------------------------------------------|
| GPU reserved memory   |   4096 B   |   4096 B   |   4096 B   |      0 B   |
|---------------------------------------------------------------------------|
| Non-releasable memory |      0 B   |      0 B   |      0 B   |      0 B   |
|---------------------------------------------------------------------------|
| Allocations           |       1    |       1    |     751    |     750    |
|---------------------------------------------------------------------------|
| Active allocs         |       1    |       1    |     751    |     750    |
|---------------------------------------------------------------------------|
| GPU reserved segments |       1    |       1    |       1    |       0    |
|---------------------------------------------------------------------------|
| Non-releasable allocs |       0    |       0    |       0    |       0    |
|---------------------------------------------------------------------------|
| Oversize allocations  |       0    |       0    |       0    |       0    |
|---------------------------------------------------------------------------|
| Oversize GPU segments |       0    |       0    |       0    |       0    |
|===========================================================================|
";
    assert_eq!(device.memory_summary(true), text);
    // The arena is of the large pool.
    let whole = device.memory_summary(false);
    let reserved: Vec<&str> =
        whole.lines().skip_while(|line| !line.contains("reserved memory")).take(3).collect();
    assert_eq!(reserved[1], "|       from large pool |   4096 B   |   4096 B   |   4096 B   |      0 B   |");
    assert_eq!(reserved[2], "|       from small pool |      0 B   |      0 B   |      0 B   |      0 B   |");
    // A device's number is in its name, or the order in which it was made.
    for (name, id) in [("cuda:3", 3), ("host", 2), ("cuda:x", 3), ("a:b:17", 17)] {
        let text = tracker.device(name).unwrap().memory_summary(true);
        assert!(text.contains(&format!("device ID {id} ")), "{name}: {text}");
    }
}

#[test]
fn out_of_memory_tells_fragmented_from_leased_from_full() {
    let tracker = Tracker::new();
    let (watch, mut arena) = arena(&tracker, 4096, 1);
    arena.set_compaction(Compaction::Never);
    let blocks: Vec<Handle> = (0..4).map(|_| arena.allocate(Request::new(1024)).unwrap()).collect();
    tracker.retag(watch.storage(blocks[1]).unwrap(), Category::Parameter).unwrap();
    tracker.label(watch.storage(blocks[1]).unwrap(), "wte.weight").unwrap();
    arena.release(blocks[0]).unwrap();
    arena.release(blocks[2]).unwrap();
    let last = |arena: &Arena<VecBuffer>, size| {
        let report = watch.out_of_memory(arena.allocator(), Request::new(size));
        let text = report.to_string();
        (report.swapping_helps(), text.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let (helps, text) = last(&arena, 2048);
    assert!(!helps);
    assert_eq!(text[5], "fragmented: moving 1024 bytes in 1 moves makes room");
    assert_eq!(text[3], "largest: 1024 bytes Parameter wte.weight, 1024 bytes Activation");

    arena.lease(blocks[1]).unwrap();
    arena.lease(blocks[3]).unwrap();
    let (_, text) = last(&arena, 2048);
    let leased = "free: 2 holes, the largest has 1024 bytes; moving blocks reaches 1024 bytes, \
                  and 2.00 KiB if the 2 leased blocks (2.00 KiB) were not";
    assert_eq!(text[4], leased);

    assert_eq!(text[5], "leased: moving makes room once leases end, of 2 blocks (2.00 KiB) at most");

    arena.unlease(blocks[3]).unwrap();
    let (helps, text) = last(&arena, 3000);
    assert!(helps);
    let missing = "missing: 952 bytes; swapping out what is idle frees 1024 bytes (1024 bytes Activation), \
                   which is enough";
    assert_eq!(text[5], missing);
    let pinned = |block: &allocator_core::Block| block.handle != blocks[3];
    let report = watch.out_of_memory_where(arena.allocator(), Request::new(3000), pinned);
    assert!(report.swappable.is_empty() && !report.swapping_helps());
    let (helps, text) = last(&arena, 3073 + 1024);
    assert!(!helps && text[5].ends_with("which is not enough"), "{text:?}");
    assert_eq!(watch.device().memory_stats().num_ooms, 5);
}

#[test]
fn out_of_memory_says_what_to_do_about_alignment() {
    let tracker = Tracker::new();
    let (watch, mut arena) = arena(&tracker, 4096, 1);
    // 1000 bytes are free below a block that only fits where it is, and 1000 above.
    let before = arena.allocate(Request::new(1048)).unwrap();
    let room = arena.allocate(Request::new(1000)).unwrap();
    arena.allocate(Request::new(1048).align(2048)).unwrap();
    arena.release(room).unwrap();
    let request = Request::new(1500).align(2048);
    let text = watch.out_of_memory(arena.allocator(), request).to_string();
    let remedy = "misaligned: free bytes suffice and moving joins no more than 1000 bytes of them; \
                  ask for an alignment below 2048, or free a block";
    assert_eq!(text.lines().last(), Some(remedy), "{text}");
    arena.release(before).unwrap();
    assert!(arena.allocate(request).is_ok());
}
