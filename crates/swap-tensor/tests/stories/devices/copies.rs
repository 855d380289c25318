//! Which copies there are, and which version each has.

use super::support::{A, B, UNIT, cpu, sim, states, tensor, value, well, write};
use std::{
    thread,
    time::{Duration, Instant},
};
use swap_tensor::{Residency, SlotState, SwapError, policy::State};

#[test]
fn readers_share_and_a_writer_outdates_every_other_copy() {
    let pool = sim(1, (2, 2), 8);
    let t = tensor(&pool, "t", 7);
    let (on_a, on_b) = (t.read().unwrap(), t.read_at(B).unwrap());
    assert_eq!((on_a.device(), on_b.device()), (A, B));
    assert_eq!((value(&t, A), value(&t, B)), (7, 7));
    assert_eq!(states(&t), [SlotState::Valid; 2]);
    for on in [A, B] {
        let refused = t.write_at(on).map(drop);
        assert!(matches!(refused, Err(SwapError::Leased { readers: 2, .. })), "{refused:?}");
    }
    drop((on_a, on_b));
    write(&t, B, 9);
    assert_eq!(states(&t), [SlotState::Absent, SlotState::Valid], "the old copy gives its room back");
    assert_eq!((value(&t, A), value(&t, B)), (9, 9));
    assert_eq!(states(&t), [SlotState::Valid; 2], "what was drained for another device stays");
    t.load(&[3; UNIT as usize]).unwrap();
    assert_eq!((states(&t), t.residency()), ([SlotState::Absent; 2], Residency::Host));
    assert_eq!(value(&t, B), 3);
    well(&pool);
}

/// Host memory has no room for what is on its way from one device to another.
#[test]
fn without_host_room_there_is_no_way_between_devices() {
    let pool = sim(8, (2, 2), 1);
    let (t, other) = (tensor(&pool, "t", 1), tensor(&pool, "other", 2)); // the second lies on the first device, for want of room
    assert_eq!(other.residency(), Residency::Device);
    assert!(matches!(other.read_at(B).map(drop), Err(SwapError::HostBudget { .. })));
    assert_eq!((value(&t, B), value(&other, A)), (1, 2));
    drop(t);
    assert_eq!((value(&other, B), states(&other)), (2, [SlotState::Valid; 2]));
    well(&pool);
}

/// Each device records its own leases, and follows them.
#[test]
fn each_device_replays_its_own_order() {
    let pool = cpu((2, 3), 16).schedule(true).build().unwrap();
    let tensors: Vec<_> = (0..6).map(|i| tensor(&pool, &format!("t{i}"), i)).collect();
    let step = || {
        pool.mark_step();
        for (i, t) in tensors.iter().enumerate() {
            assert_eq!(value(t, A), i as u8);
            assert_eq!(value(&tensors[5 - i], B), 5 - i as u8);
        }
    };
    (0..2).for_each(|_| step());
    let until = Instant::now() + Duration::from_secs(20);
    let follows = |on| pool.schedule_state_at(on).unwrap() == Some(State::Following);
    while !(follows(A) && follows(B)) {
        assert!(Instant::now() < until, "it never came to that");
        thread::yield_now();
    }
    (0..4).for_each(|_| step());
    assert!(follows(A) && follows(B), "the leases of one device are no disorder of the other's");
    pool.settle().unwrap();
    let prefetched = |on| pool.device_stats(on).unwrap().prefetches;
    assert!(prefetched(A) > 0 && prefetched(B) > 0);
    pool.check().unwrap();
}

/// Threads that read and write on both devices see whole tensors, and never an older one than they have seen.
#[test]
fn threads_on_both_devices_see_whole_tensors() {
    let pool = cpu((3, 2), 12).build().unwrap();
    let tensors: Vec<_> = (0..6).map(|i| tensor(&pool, &format!("t{i}"), 0)).collect();
    thread::scope(|scope| {
        for worker in 0..4u64 {
            let (pool, tensors) = (&pool, &tensors);
            scope.spawn(move || {
                let mut seen = [0u8; 6];
                for step in 0..300u64 {
                    let draw =
                        (step * 6_364_136_223 + worker * 1_442_695_041).wrapping_mul(0x9E37_79B9) >> 11;
                    let (at, on) = ((draw % 6) as usize, [A, B][(draw / 6 % 2) as usize]);
                    match draw / 12 % 4 {
                        0 => {
                            let mut lease = tensors[at].write_at(on).unwrap();
                            let mut bytes = vec![0; UNIT as usize];
                            lease.read_now(&mut bytes).unwrap();
                            bytes.iter_mut().for_each(|byte| *byte = byte.saturating_add(1));
                            lease.upload(&bytes).unwrap();
                        }
                        1 => pool.prefetch_at(on, &[&tensors[at], &tensors[(at + 1) % 6]]).unwrap(),
                        _ => {
                            let now = value(&tensors[at], on);
                            assert!(now >= seen[at], "{now} after {}", seen[at]);
                            seen[at] = now;
                        }
                    }
                }
            });
        }
    });
    pool.settle().unwrap();
    pool.check().unwrap();
    tensors.iter().for_each(|t| assert_eq!(value(t, A), value(t, B)));
}
