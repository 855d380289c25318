//! Schedules against brute force.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use proptest::prelude::*;
use swap_tensor::policy::{Recording, Schedule, Use};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Create,
    Lease(Use),
    Drop,
}

/// A step over seven tensors: four that live on and three that are made and dropped in it.
fn steps() -> impl Strategy<Value = (Vec<(Op, usize)>, Vec<u64>, u64)> {
    let how = prop_oneof![3 => Just(Use::Read), 2 => Just(Use::Write), 1 => Just(Use::Overwrite)];
    let ops = prop::collection::vec((how, any::<bool>(), 0usize..7), 1..40);
    (ops, prop::collection::vec(1u64..10, 7), 9u64..30).prop_map(|(wishes, sizes, capacity)| {
        let (mut ops, mut alive) = (Vec::new(), [true, true, true, true, false, false, false]);
        for (how, drop, tensor) in wishes {
            if !alive[tensor] {
                alive[tensor] = true;
                ops.push((Op::Create, tensor));
            } else if tensor >= 4 && drop {
                alive[tensor] = false;
                ops.push((Op::Drop, tensor));
                continue;
            }
            ops.push((Op::Lease(how), tensor));
        }
        ops.extend((4..7).filter(|&tensor| alive[tensor]).map(|tensor| (Op::Drop, tensor)));
        (ops, sizes, capacity)
    })
}

fn schedule(ops: &[(Op, usize)], sizes: &[u64], capacity: u64) -> Schedule {
    let mut recording = Recording::new();
    for &(op, tensor) in ops {
        let name = tensor.to_string();
        match op {
            Op::Create => recording.created(&name, sizes[tensor]),
            Op::Lease(how) => recording.leased(&name, sizes[tensor], how),
            Op::Drop => recording.dropped(&name),
        }
    }
    Schedule::new(recording, capacity)
}

/// What brute force finds for the second of two steps, and how full the device is after each event of both.
#[derive(Debug, Default)]
struct Brute {
    up: u64,
    down: u64,
    misses: u64,
    occupancy: Vec<u64>,
}

/// Evicts whoever's next event is farthest away, looking ahead event by event.
fn brute_force(ops: &[(Op, usize)], sizes: &[u64], capacity: u64, keep_to_drop: bool) -> Brute {
    let n = ops.len();
    let distance = |tensor: usize, at: usize| {
        (1..=n).find_map(|d| match ops[(at + d) % n] {
            (Op::Lease(_), t) if t == tensor => Some(d),
            (Op::Drop, t) if t == tensor => Some(if keep_to_drop { d } else { usize::MAX }),
            (Op::Create, t) if t == tensor => Some(usize::MAX),
            _ => None,
        })
    };
    let (mut inside, mut dirty, mut brute) = (Vec::<usize>::new(), [false; 7], Brute::default());
    for i in 0..2 * n {
        if i == n {
            (brute.up, brute.down, brute.misses) = (0, 0, 0);
        }
        let (op, tensor) = ops[i % n];
        let here = inside.iter().position(|&t| t == tensor);
        match op {
            Op::Create | Op::Drop => {
                dirty[tensor] = false;
                inside.retain(|&t| t != tensor);
            }
            Op::Lease(how) => {
                inside.retain(|&t| t != tensor);
                while here.is_none()
                    && inside.iter().map(|&t| sizes[t]).sum::<u64>() + sizes[tensor] > capacity
                {
                    // `inside` is in the order of last use; among those never needed the oldest goes.
                    let ahead = |t: usize| distance(t, i).unwrap_or(usize::MAX);
                    let farthest = inside.iter().map(|&t| ahead(t)).max().unwrap();
                    let victim = inside.remove(inside.iter().position(|&t| ahead(t) == farthest).unwrap());
                    brute.down += if core::mem::take(&mut dirty[victim]) { sizes[victim] } else { 0 };
                }
                if here.is_none() && how != Use::Overwrite {
                    brute.up += sizes[tensor];
                    brute.misses += 1;
                }
                inside.push(tensor);
                dirty[tensor] |= how != Use::Read;
            }
        }
        brute.occupancy.push(inside.iter().map(|&t| sizes[t]).sum());
    }
    brute
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_schedule_foretells_what_brute_force_moves((ops, sizes, capacity) in steps()) {
        let schedule = schedule(&ops, &sizes, capacity);
        let [kept, gone] = [true, false].map(|keep| brute_force(&ops, &sizes, capacity, keep));
        let best = if gone.up + gone.down < kept.up + kept.down { gone } else { kept };
        prop_assert_eq!(
            (schedule.uploaded(), schedule.downloaded(), schedule.misses()),
            (best.up, best.down, best.misses)
        );
        prop_assert!(schedule.fetches().len() as u64 <= best.misses);
    }

    /// Every fetch made as early as it may be, all together: the device never overflows and nobody is evicted
    /// who is used before the lease the fetch is for.
    #[test]
    fn fetches_fit_and_harm_nobody((ops, sizes, capacity) in steps()) {
        let schedule = schedule(&ops, &sizes, capacity);
        let [kept, gone] = [true, false].map(|keep| brute_force(&ops, &sizes, capacity, keep));
        let best = if gone.up + gone.down < kept.up + kept.down { gone } else { kept };
        let (n, mut full) = (ops.len(), best.occupancy);
        for fetch in schedule.fetches() {
            let (tensor, lease) = (fetch.name.parse::<usize>().unwrap(), n + fetch.use_at as usize);
            let start = (n as i64 + fetch.earliest - 1) as usize; // it is there after this event
            prop_assert!(start < lease);
            prop_assert!(matches!(ops[lease % n], (Op::Lease(Use::Read | Use::Write), t) if t == tensor));
            full[start.max(n)..lease].iter_mut().for_each(|f| *f += sizes[tensor]);
            for victim in fetch.victims.iter().map(|name| name.parse::<usize>().unwrap()) {
                let last = (0..lease).rev().find(|&i| matches!(ops[i % n], (Op::Lease(_), t) if t == victim)).unwrap();
                full[(last + 1).max(start).max(n)..lease].iter_mut().for_each(|f| *f -= sizes[victim]);
            }
        }
        // Before the step, fetches of the step before count too, which are another simulated step's.
        prop_assert!(full[n..].iter().all(|&f| f <= capacity), "{:?} of {}", full, capacity);
    }
}
