//! How a program is followed through a schedule: in order, out of order, lost and found again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use core::ops::ControlFlow;
use proptest::prelude::*;
use swap_tensor::policy::{EvictionPolicy, Lru, Priority, Scheduled, State, TensorKey, Tier, Use};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// Any program at all, marked at random: only what is there is offered, once, and a fetch is for a tensor
    /// that lives and is not there.
    #[test]
    fn a_key_that_left_or_was_dropped_never_appears(
        ops in prop::collection::vec((0u8..12, 0u32..9), 0..400), at_once in any::<bool>(),
    ) {
        let mut policy = Scheduled::new(Box::new(Lru::default()), 5);
        let (mut alive, mut inside, mut held) = ([false; 9], [false; 9], [false; 9]);
        let mut draft = None;
        for (op, number) in ops {
            let (key, i) = (TensorKey::new(number), number as usize);
            match op {
                0 => {
                    draft = policy.mark_step().or(draft);
                    if let Some(draft) = draft.take_if(|_| at_once) {
                        policy.adopt(draft.plan());
                    }
                }
                1 => if let Some(draft) = draft.take() { policy.adopt(draft.plan()) },
                2 if alive[i] && inside[i] => (inside[i], _) = (false, policy.left(Tier::Device, key)),
                3 if alive[i] => {
                    policy.dropped(key);
                    if inside[i] {
                        policy.left(Tier::Device, key);
                    }
                    policy.forgotten(key);
                    (alive[i], inside[i], held[i]) = (false, false, false);
                }
                4 if alive[i] && !held[i] => (held[i], _) = (true, policy.held(key)),
                5 if held[i] => (held[i], _) = (false, policy.released(key)),
                6 if alive[i] => policy.set_priority(key, Priority::new(number as u8 % 2)),
                _ => {
                    if !alive[i] {
                        policy.created(key, &number.to_string(), 1);
                        alive[i] = true;
                    }
                    if !inside[i] {
                        policy.entered(Tier::Device, key, 1);
                        inside[i] = true;
                    }
                    policy.leased(key, if op == 7 { Use::Write } else { Use::Read });
                }
            }
            let mut offered = [0; 9];
            policy.victims(Tier::Device, &mut |key| {
                offered[key.index()] += 1;
                ControlFlow::Continue(())
            });
            for i in 0..9 {
                prop_assert_eq!(offered[i], i32::from(inside[i] && !held[i]), "{} in {:?}", i, policy.state());
            }
            if let Some(fetch) = policy.next_fetch(1) {
                prop_assert!(alive[fetch.key.index()] && !inside[fetch.key.index()]);
                let (mut victims, needed) = (Vec::new(), policy.next_use(fetch.key).unwrap());
                policy.victims_for(&fetch, &mut |victim| {
                    victims.push(victim);
                    ControlFlow::Continue(())
                });
                for victim in victims {
                    prop_assert!(inside[victim.index()] && !held[victim.index()]);
                    // Zero is what comes next, and what should have come before.
                    prop_assert!(policy.next_use(victim).is_none_or(|used| used > needed || needed == 0));
                }
                if op % 2 == 0 {
                    policy.put_back(fetch);
                }
            }
        }
    }
}

/// A program with a tensor per letter, all of one byte, of which the device holds `room`.
struct Program {
    policy: Scheduled,
    inside: [bool; 256],
    room: usize,
    misses: usize,
}

impl Program {
    fn new(room: usize) -> Program {
        let mut policy = Scheduled::new(Box::new(Lru::default()), room as u64);
        (b'!'..=b'~').for_each(|c| policy.created(key(c), &char::from(c).to_string(), 1));
        Program { policy, inside: [false; 256], room, misses: 0 }
    }

    fn mark(&mut self) -> bool {
        let draft = self.policy.mark_step();
        let made = draft.is_some();
        if let Some(draft) = draft {
            self.policy.adopt(draft.plan());
        }
        made
    }

    /// Leases each letter; how many were not there.
    fn run(&mut self, letters: &str) -> usize {
        self.misses = 0;
        for letter in letters.bytes() {
            self.policy.held(key(letter));
            if !self.inside[letter as usize] {
                self.misses += 1;
                self.make_room();
                self.enter(letter);
            }
            self.policy.leased(key(letter), Use::Read);
            self.policy.released(key(letter));
            while let Some(fetch) = self.policy.next_fetch(1) {
                let mut victim = None;
                self.policy.victims_for(&fetch, &mut |key| {
                    victim = Some(key.index());
                    ControlFlow::Break(())
                });
                match victim {
                    Some(victim) if self.count() == self.room => self.leave(victim),
                    _ if self.count() < self.room => {}
                    _ => {
                        self.policy.put_back(fetch);
                        break;
                    }
                }
                self.enter(fetch.key.index() as u8);
            }
        }
        self.misses
    }

    fn make_room(&mut self) {
        while self.count() >= self.room {
            let mut first = None;
            self.policy.victims(Tier::Device, &mut |key| {
                first = Some(key.index());
                ControlFlow::Break(())
            });
            self.leave(first.expect("somebody may go"));
        }
    }

    fn count(&self) -> usize {
        self.inside.iter().filter(|&&inside| inside).count()
    }

    fn enter(&mut self, letter: u8) {
        self.inside[letter as usize] = true;
        self.policy.entered(Tier::Device, key(letter), 1);
    }

    fn leave(&mut self, letter: usize) {
        self.inside[letter] = false;
        self.policy.left(Tier::Device, TensorKey::new(letter as u32));
    }
}

fn key(letter: u8) -> TensorKey {
    TensorKey::new(u32::from(letter))
}

/// Long enough that what is at one end is out of reach of the other.
const TRAIN: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const EVALUATE: &str = "9876543210ZYXWVUTSRQPONMLKJIHGFEDCBAzyxwvutsrqponmlkjihgfedcba";

#[test]
fn a_loop_is_followed_and_its_misses_go_away() {
    let mut program = Program::new(40);
    assert_eq!(program.policy.state(), State::Unmarked);
    assert!(!program.mark());
    assert_eq!(program.policy.state(), State::Recording);
    assert_eq!(program.run(TRAIN), TRAIN.len());
    assert!(program.mark());
    program.run(TRAIN);
    for _ in 0..3 {
        assert!(!program.mark());
        assert_eq!(program.policy.state(), State::Following);
        assert_eq!(program.run(TRAIN), 0, "everything was fetched ahead");
    }
    // Unfollowed, a loop longer than the device finds nothing.
    let mut plain = Program::new(40);
    plain.run(TRAIN);
    assert_eq!(plain.run(TRAIN), TRAIN.len());
}

#[test]
fn another_order_falls_back_and_the_next_mark_follows_it() {
    let mut program = trained();
    program.run(EVALUATE);
    assert_eq!(program.policy.state(), State::Lost);
    assert!(program.policy.next_fetch(u64::MAX).is_none());
    assert_eq!(program.policy.next_use(key(b'a')), None);
    assert_eq!(least_recent(&mut program), EVALUATE.as_bytes()[EVALUATE.len() - 40]);
    assert!(program.mark(), "the lost step became a schedule");
    program.run(EVALUATE);
    program.mark();
    assert_eq!(program.run(EVALUATE), 0);
}

#[test]
fn a_step_of_another_kind_now_and_then_costs_no_schedule() {
    let mut program = trained();
    program.run(EVALUATE);
    assert!(program.mark());
    for step in [TRAIN, TRAIN, EVALUATE, TRAIN, EVALUATE, EVALUATE] {
        program.run(step);
        assert_eq!(program.policy.state(), State::Following);
        assert!(!program.mark(), "both are known");
    }
}

#[test]
fn a_step_cut_short_keeps_its_schedule_and_two_make_a_new_one() {
    let mut program = trained();
    program.run(&TRAIN[..20]);
    assert!(!program.mark());
    program.run(TRAIN);
    assert!(!program.mark());
    assert_eq!(program.run(TRAIN), 0, "as if it had not been cut");
    program.mark();
    program.run(&TRAIN[..20]);
    assert!(!program.mark());
    program.run(&TRAIN[..20]);
    assert!(program.mark(), "that is how it is now");
}

#[test]
fn small_disorder_is_no_other_order() {
    let mut program = trained();
    // Overtaken, repeated, left out, unknown, and two strays.
    program.run("badc");
    program.run("efefghhh");
    program.run("ijlmk");
    program.run("!?#");
    program.run("98n");
    assert_eq!(program.policy.state(), State::Following);
    program.run(&TRAIN[14..]);
    assert_eq!(program.policy.state(), State::Following);
    program.mark();
    program.run(TRAIN);
    program.mark();
    assert_eq!(program.run(TRAIN), 0);
}

#[test]
fn what_is_overtaken_is_needed_at_once() {
    let mut program = trained();
    program.run("b"); // `a` will come late
    assert_eq!(program.policy.next_use(key(b'a')), Some(0));
    assert!(!program.inside[b'a' as usize] || *order(&mut program).last().unwrap() == b'a');
    program.run("a");
    assert_eq!(program.policy.next_use(key(b'a')), Some(TRAIN.len() as u64 - 2));
    // What never comes is awaited for a while only.
    program.run("d");
    assert_eq!(program.policy.next_use(key(b'c')), Some(0));
    program.run(&TRAIN[4..40]);
    assert_eq!(program.policy.next_use(key(b'c')), Some(TRAIN.len() as u64 - 40 + 2));
}

#[test]
fn a_step_that_makes_what_the_next_ones_find_is_recorded_again() {
    let mut policy = Scheduled::new(Box::new(Lru::default()), 3);
    let step = |policy: &mut Scheduled, how| (0..60).for_each(|i| policy.leased(TensorKey::new(i), how));
    policy.mark_step();
    (0..60).for_each(|i| policy.created(TensorKey::new(i), &i.to_string(), 1));
    step(&mut policy, Use::Overwrite);
    let schedule = policy.mark_step().unwrap().plan();
    assert_eq!((schedule.events(), schedule.uploaded()), (60, 0), "what is made once is no event");
    policy.adopt(schedule);
    step(&mut policy, Use::Read);
    let schedule = policy.mark_step().unwrap().plan();
    assert!(schedule.uploaded() >= 57, "two of three can wait for the next step");
    policy.adopt(schedule);
    step(&mut policy, Use::Read);
    assert!(policy.mark_step().is_none());
}

#[test]
fn temporaries_made_anew_are_the_same_tensor() {
    let mut policy = Scheduled::new(Box::new(Lru::default()), 10);
    let weight = TensorKey::new(0);
    policy.created(weight, "weight", 5);
    for (step, number) in [7u32, 3, 9].into_iter().enumerate() {
        let draft = policy.mark_step();
        assert_eq!(draft.is_some(), step == 1);
        if let Some(draft) = draft {
            policy.adopt(draft.plan());
        }
        let temporary = TensorKey::new(number);
        policy.leased(weight, Use::Read);
        policy.created(temporary, "temporary", 5);
        if step > 0 {
            assert_eq!(policy.next_use(temporary), Some(0));
        }
        policy.leased(temporary, Use::Overwrite);
        assert_eq!(policy.next_use(temporary), None, "it is dropped before");
        policy.dropped(temporary);
        policy.forgotten(temporary);
        assert_eq!(policy.next_use(temporary), None);
        assert_eq!(policy.next_use(weight), (step > 0).then_some(0), "in the next step");
    }
}

#[test]
fn a_schedule_that_comes_late_finds_its_place() {
    let mut program = Program::new(40);
    program.mark();
    program.run(TRAIN);
    let draft = program.policy.mark_step().unwrap();
    program.run(&TRAIN[..50]);
    program.policy.adopt(draft.plan());
    assert_eq!(program.policy.next_use(key(TRAIN.as_bytes()[53])), Some(3));
    program.run(&TRAIN[50..]);
    assert!(!program.mark());
    assert_eq!(program.policy.state(), State::Following);
}

#[test]
fn a_lower_priority_goes_first_in_a_schedule_too() {
    let mut program = trained();
    let resident: Vec<u8> = (0..=255u8).filter(|&c| program.inside[c as usize]).collect();
    let last = *order(&mut program).last().unwrap();
    program.policy.set_priority(key(last), Priority::LOW);
    let offered = order(&mut program);
    assert_eq!((offered[0], offered.len()), (last, resident.len()));
}

#[test]
fn what_goes_on_for_too_long_is_no_step() {
    let mut policy = Scheduled::new(Box::new(Lru::default()), 1);
    let key = TensorKey::new(0);
    policy.created(key, "tensor", 1);
    assert!(policy.mark_step().is_none());
    (0..(1 << 20)).for_each(|_| policy.leased(key, Use::Read));
    assert!(policy.mark_step().is_none(), "a recording is not kept for ever");
    policy.leased(key, Use::Read);
    assert!(policy.mark_step().is_some(), "the next step is one");
}

#[test]
fn the_limit_holds_a_fetch_back() {
    let mut policy = Scheduled::new(Box::new(Lru::default()), 200);
    let keys = [0, 1].map(TensorKey::new);
    keys.iter().for_each(|&key| policy.created(key, &format!("{key:?}"), 150));
    policy.mark_step();
    keys.iter().for_each(|&key| policy.leased(key, Use::Read));
    let draft = policy.mark_step().unwrap();
    policy.adopt(draft.plan());
    policy.leased(keys[0], Use::Read);
    policy.entered(Tier::Device, keys[0], 150);
    policy.leased(keys[0], Use::Read);
    assert_eq!(policy.next_fetch(149), None);
}

/// A program that follows [`TRAIN`], at the beginning of a step.
fn trained() -> Program {
    let mut program = Program::new(40);
    program.mark();
    for _ in 0..3 {
        program.run(TRAIN);
        program.mark();
    }
    program
}

fn order(program: &mut Program) -> Vec<u8> {
    let mut order = Vec::new();
    program.policy.victims(Tier::Device, &mut |key| {
        order.push(key.index() as u8);
        ControlFlow::Continue(())
    });
    order
}

fn least_recent(program: &mut Program) -> u8 {
    order(program)[0]
}
