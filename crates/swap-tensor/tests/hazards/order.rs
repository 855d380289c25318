//! Order on the device: who must have finished before whom may begin. The simulated device finds a missing wait when the operation
//! is submitted, whatever order it would have run in.

use crate::support::{
    SEEDS, UNIT, contents, copied, invert, inverted, leased, read_by_kernel, rewrite, same, sim,
    sim_over_disk, tensor, tensor_on_disk,
};
use backend_cpu::sim::{Call, Fault, SimDevice};
use swap_tensor::{SwapError, SwapPool, Tensor};

/// vLLM #45704: a store to host memory read blocks that the compute stream had not written yet.
/// Rule: the copy's queue waits for the producer's event, always.
/// Guards: `order_one` in `room.rs` (`write_back`) and in `spill.rs` (`write_device`), which waits for what `Hazards` recorded
/// (`pinned-host`, with tests of its own there and in `backend-cpu/tests/missing_waits.rs`).
#[test]
fn store_reads_before_producer_finished() {
    for seed in 0..SEEDS {
        for pool in [sim(seed, 2, 4), sim_over_disk(seed, 2, 0)] {
            let a = tensor(&pool, "a", 1, 1);
            let lease = a.write_on(&pool.device().new_queue()).unwrap();
            invert(&lease);
            drop(lease);
            a.swap_out().unwrap();
            same(copied(&a), &inverted(1, 1));
            pool.device().assert_no_hazards();
        }
    }
}

/// vLLM #47282, and the fence before SGLang's loads: a load overwrote blocks that compute still read.
/// Rule: the room carries the event of its last use, and whoever fills it waits for that.
/// Guards: `order_one` in `fill.rs` (`swap_in`) and in `below.rs` (`begin_fill`).
#[test]
fn load_overwrites_block_still_read() {
    for seed in 0..SEEDS {
        let from_host = sim(seed, 1, 4);
        let tensors = [tensor(&from_host, "a", 1, 1), tensor(&from_host, "b", 2, 1)];
        load_over_reader(&from_host, &tensors);
        let from_disk = sim_over_disk(seed, 1, 0);
        let tensors = [tensor_on_disk(&from_disk, "a", 1, 1), tensor_on_disk(&from_disk, "b", 2, 1)];
        load_over_reader(&from_disk, &tensors);
    }
}

fn load_over_reader(pool: &SwapPool<SimDevice>, [a, b]: &[Tensor<SimDevice>; 2]) {
    read_by_kernel(a, &pool.device().new_queue());
    // The one block there is goes to `b`; the kernel has not run.
    same(leased(b), &contents(2, 1));
    same(leased(a), &contents(1, 1));
    pool.device().assert_no_hazards();
}

/// A pool where `a`, inverted by a kernel, is being written back: two dirty tensors have to leave for a third, and the second is
/// refused.
fn with_write_back_in_flight(seed: u64) -> (SwapPool<SimDevice>, Tensor<SimDevice>, Tensor<SimDevice>) {
    let pool = sim(seed, 2, 8);
    let (a, b) = (tensor(&pool, "a", 1, 1), tensor(&pool, "b", 2, 1));
    let c = tensor(&pool, "c", 3, 2);
    let lease = a.write_on(&pool.device().new_queue()).unwrap();
    invert(&lease);
    // Whoever looks whether something has ended lets the device run an operation or two: these are more.
    for _ in 0..200 {
        lease.queue().launch(&[], |_| {}).unwrap();
    }
    drop(lease);
    rewrite(&b, 12);
    pool.device().inject(Call::Download, 2, Fault::Refuse);
    assert!(matches!(c.read().map(drop), Err(SwapError::Device { .. })));
    (pool, a, b)
}

/// vLLM #48596, #46951 and torchtune's stash: memory was freed, and used again, while its copy to the host was in flight.
/// Rule: a block drains until the event behind its last use; the job holds its source.
/// Guards: `dispose_if_done` in `books.rs`, which keeps a dropped tensor's number and room until its transfers have ended, and
/// `hazards.after` in `room.rs` (`write_back`), by which a later write waits for the copy.
#[test]
fn freed_while_download_in_flight() {
    for seed in 0..SEEDS {
        let (pool, a, b) = with_write_back_in_flight(seed);
        drop(a);
        let d = tensor(&pool, "d", 4, 1);
        same(leased(&d), &contents(4, 1));
        same(leased(&b), &contents(12, 1));
        pool.settle().unwrap();
        pool.check().unwrap();
        drop((b, d));
        assert_eq!((pool.stats().device_bytes, pool.stats().host_bytes), (0, 0));
        pool.device().assert_no_hazards();

        let (pool, a, _b) = with_write_back_in_flight(seed);
        let lease = a.write_on(&pool.device().new_queue()).unwrap();
        invert(&lease);
        drop(lease);
        same(leased(&a), &contents(1, 1));
        pool.device().assert_no_hazards();
    }
}

/// diffusers #12721: `record_stream` was called with another stream than the one that used the memory.
/// Rule: a lease is taken on a queue, and given back on it.
/// Guards: `seat` in `claim.rs`, which orders the lease's queue behind what made the copy, and `Hold::end` in `hold.rs`, which
/// records on the lease's queue.
#[test]
fn lease_on_another_stream() {
    for seed in 0..SEEDS {
        let pool = sim(seed, 2, 4);
        let (one, other) = (pool.device().new_queue(), pool.device().new_queue());
        let a = tensor(&pool, "a", 1, 1);
        let lease = a.write_on(&one).unwrap();
        invert(&lease);
        drop(lease);
        read_by_kernel(&a, &other);
        let lease = a.write_on(&one).unwrap();
        invert(&lease);
        drop(lease);
        same(leased(&a), &contents(1, 1));
        pool.device().assert_no_hazards();
    }
}

/// The host must not read pinned memory before the copy into it has ended.
/// Rule: a host copy is valid only after its event, and the bytes of a copy through staging are touched only after theirs.
/// Guards: `Ticket::wait` in `pinned-host`, the one way from a transfer to its slice, with promises of its own in the conformance
/// suite there; `write_back` in `room.rs`, which leaves the host copy Filling until `reap.rs` has seen the event.
#[test]
fn host_read_before_event() {
    for seed in 0..SEEDS {
        let pool = sim(seed, 2, 4);
        let a = tensor(&pool, "a", 1, 1);
        let lease = a.write().unwrap();
        invert(&lease);
        let mut into = vec![0; UNIT as usize];
        lease.download(&mut into).unwrap();
        assert!(into == inverted(1, 1), "read before it was there");
        drop(lease);
        same(copied(&a), &inverted(1, 1));
        pool.device().assert_no_hazards();

        let (pool, a, b) = with_write_back_in_flight(seed);
        pool.check().unwrap();
        same(copied(&a), &inverted(1, 1));
        a.swap_out().unwrap();
        same(copied(&a), &inverted(1, 1));
        same(copied(&b), &contents(12, 1));
        pool.check().unwrap();
    }
}
