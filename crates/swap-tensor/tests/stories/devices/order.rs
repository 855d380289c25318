//! Who waits for whom, and what is in flight meanwhile.

use super::support::{A, B, SEEDS, UNIT, add_one, cpu, sim, states, tensor, value, well};
use backend_cpu::sim::{Call, Fault};
use futures::executor::block_on;
use pinned_host::Queue;
use std::{future::IntoFuture, thread, time::Duration};
use swap_tensor::{DType, SlotState, SwapError, TensorSpec};

/// Store reads before the producer has finished: the drain for B waits for A's kernel.
#[test]
fn a_fill_waits_for_the_writer_on_the_other_device() {
    for seed in 0..SEEDS {
        let pool = sim(seed, (2, 2), 8);
        let t = tensor(&pool, "t", 1);
        let queue = pool.device().new_queue();
        let lease = t.lease_mut().on(&queue).wait().unwrap();
        add_one(&lease);
        assert!(matches!(t.read_at(B).map(drop), Err(SwapError::Leased { writer: true, .. })));
        pool.prefetch_at(B, &[&t]).unwrap();
        pool.wait_prefetch();
        assert_eq!(t.state_at(B).unwrap(), SlotState::Absent, "what is being written is not fetched");
        lease.finish(queue.record().unwrap()).unwrap(); // nothing of it has run
        assert_eq!(value(&t, B), 2);
        well(&pool);
    }
}

/// A writer on one device waits for a reader on the other, and gets its lease when that ends.
#[test]
fn a_writer_waits_for_readers_on_other_devices() {
    let pool = cpu((2, 2), 8).build().unwrap();
    let t = tensor(&pool, "t", 1);
    let reader = t.read_at(B).unwrap();
    let asked = t.lease_mut().within(Duration::ZERO).wait().map(drop);
    assert!(
        matches!(asked, Err(SwapError::Leased { readers: 1, ref holders, .. }) if holders[0].device == B)
    );
    let writer = t.clone();
    let writer = thread::spawn(move || {
        block_on(writer.lease_mut().into_future()).unwrap().upload(&[2; UNIT as usize])
    });
    let mut bytes = vec![0; UNIT as usize];
    for _ in 0..20 {
        reader.read_now(&mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 1), "written under a reader");
    }
    drop(reader);
    writer.join().unwrap().unwrap();
    assert_eq!((value(&t, A), value(&t, B)), (2, 2));
    pool.check().unwrap();
}

/// Freed or used again while its download is in flight: the room that was drained is given to another tensor at once.
#[test]
fn room_is_used_again_after_the_drain_for_another_device() {
    for seed in 0..SEEDS {
        let pool = sim(seed, (1, 2), 8);
        let (t, other) = (tensor(&pool, "t", 1), tensor(&pool, "other", 5));
        let lease = t.write().unwrap();
        add_one(&lease);
        drop(lease);
        let on_b = t.read_at(B).unwrap();
        drop(other.write().unwrap()); // takes the only room there is on the first device
        assert_eq!(states(&t), [SlotState::Absent, SlotState::Valid]);
        drop(on_b);
        assert_eq!((value(&t, B), value(&other, A)), (2, 5));
        well(&pool);
    }
}

/// A fill that a writer on another device outdates is neither published nor leased, also when nothing of it has run by then.
#[test]
fn a_fill_in_flight_is_not_published_after_a_write_elsewhere() {
    for (seed, late) in (0..SEEDS).flat_map(|seed| [(seed, false), (seed, true)]) {
        let pool = sim(seed, (2, 2), 8);
        let t = tensor(&pool, "t", 1);
        assert_eq!(value(&t, A), 1);
        if late {
            // Whoever looks has other work run first.
            let device = pool.devices().nth(1).unwrap().1;
            let queue = device.new_queue();
            (0..500).for_each(|_| queue.launch(&[], |_| {}).unwrap());
            device.inject(Call::Upload, 1, Fault::Delay);
        }
        drop(t.read_at(B).unwrap()); // the upload is enqueued, and runs when somebody waits
        let lease = t.write().unwrap();
        add_one(&lease);
        drop(lease);
        assert!(!late || t.state_at(B).unwrap() == SlotState::Filling, "it is not there yet");
        assert_eq!((value(&t, B), value(&t, A)), (2, 2));
        well(&pool);
    }
}

/// What is being moved may turn out torn: the copy on the other device is not one too many yet.
#[test]
fn a_copy_is_kept_while_a_move_of_the_other_is_in_flight() {
    for seed in 0..SEEDS {
        let pool = sim(seed, (3, 2), 2);
        let (x, t) = (tensor(&pool, "x", 1), tensor(&pool, "t", 2));
        assert_eq!((value(&x, A), value(&t, A)), (1, 2));
        let lease = t.write().unwrap();
        add_one(&lease);
        drop(lease);
        assert_eq!(value(&t, B), 3);
        // Its host copy makes way: the two on devices are all there are.
        let wide = TensorSpec::new("wide", DType::U8, [2 * UNIT]).unwrap();
        drop(x);
        let wide = pool.create(wide, &[7; 2 * UNIT as usize]).unwrap();
        let device = pool.device();
        device.inject(Call::CopyWithin, 1, Fault::Fail);
        drop(wide.read().unwrap()); // between two holes: it moves, and will fail
        assert!(!t.evict_at(B), "the only copy that is known to be good");
        assert_eq!(value(&t, B), 3);
        assert!(device.hazards().is_empty());
        pool.check().unwrap();
    }
}
