//! Eviction policies against plain models of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use core::ops::ControlFlow;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use swap_tensor::policy::{
    self, ByPriority, EvictionPolicy, Frequency, Lru, Priority, Scheduled, TensorKey, Tier,
};

/// One thing a pool tells a policy. Those that make no sense at the time are left out by [`Told`].
#[derive(Debug, Clone, Copy)]
enum Call {
    Enter(Tier),
    Leave(Tier),
    Use,
    Forget,
    Hold,
    Release,
}

fn calls() -> impl Strategy<Value = Vec<(Call, u32)>> {
    let tier = prop_oneof![Just(Tier::Device), Just(Tier::Host)];
    let call = prop_oneof![
        4 => tier.clone().prop_map(Call::Enter),
        2 => tier.prop_map(Call::Leave),
        4 => Just(Call::Use),
        1 => Just(Call::Forget),
        1 => Just(Call::Hold),
        2 => Just(Call::Release),
    ];
    prop::collection::vec((call, 0u32..10), 0..150)
}

/// What a policy has been told, and what an order over it may be based on.
#[derive(Default)]
struct Told {
    inside: [BTreeSet<u32>; Tier::COUNT],
    held: BTreeSet<u32>,
    /// By tier and key: when it was last made the newest.
    newest: BTreeMap<(usize, u32), u64>,
    now: u64,
    uses: BTreeMap<u32, u64>,
    /// By tier and key: age and uses at the last use, and when that was.
    ranks: BTreeMap<(usize, u32), (u64, u64)>,
    age: [u64; Tier::COUNT],
}

impl Told {
    /// Tells `policy`, if a pool would; whether it did.
    fn tell(&mut self, policy: &mut dyn EvictionPolicy, call: Call, key: u32) -> bool {
        self.now += 1;
        let of = TensorKey::new(key);
        match call {
            Call::Enter(tier) if self.inside[tier.index()].insert(key) => {
                policy.entered(tier, of, 1);
                self.touch(tier, key);
                self.rank(tier, key);
            }
            Call::Leave(tier) if self.inside[tier.index()].contains(&key) => self.leave(policy, tier, key),
            Call::Use => {
                policy.used(of);
                *self.uses.entry(key).or_default() += 1;
                for tier in Tier::ALL {
                    if !self.held.contains(&key) {
                        self.touch(tier, key);
                    }
                    self.rank(tier, key);
                }
            }
            Call::Forget => {
                Tier::ALL
                    .into_iter()
                    .filter(|t| self.inside[t.index()].contains(&key))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|tier| self.leave(policy, tier, key));
                policy.forgotten(of);
                self.held.remove(&key);
                self.uses.remove(&key);
            }
            Call::Hold if self.held.insert(key) => policy.held(of),
            Call::Release if self.held.remove(&key) => {
                policy.released(of);
                Tier::ALL.into_iter().for_each(|tier| self.touch(tier, key));
            }
            _ => return false,
        }
        true
    }

    fn leave(&mut self, policy: &mut dyn EvictionPolicy, tier: Tier, key: u32) {
        if self.by_frequency(tier).first() == Some(&key) {
            self.age[tier.index()] = self.age[tier.index()].max(self.ranks[&(tier.index(), key)].0);
        }
        policy.left(tier, TensorKey::new(key));
        self.inside[tier.index()].remove(&key);
    }

    fn touch(&mut self, tier: Tier, key: u32) {
        if self.inside[tier.index()].contains(&key) {
            self.newest.insert((tier.index(), key), self.now);
        }
    }

    fn rank(&mut self, tier: Tier, key: u32) {
        if self.inside[tier.index()].contains(&key) {
            let uses = self.uses.get(&key).copied().unwrap_or(0);
            self.ranks.insert((tier.index(), key), (self.age[tier.index()] + uses, self.now));
        }
    }

    /// Keys that may be offered.
    fn free(&self, tier: Tier) -> Vec<u32> {
        self.inside[tier.index()].difference(&self.held).copied().collect()
    }

    fn by_recency(&self, tier: Tier) -> Vec<u32> {
        let mut keys = self.free(tier);
        keys.sort_by_key(|&key| self.newest[&(tier.index(), key)]);
        keys
    }

    fn by_frequency(&self, tier: Tier) -> Vec<u32> {
        let mut keys = self.free(tier);
        keys.sort_by_key(|&key| self.ranks[&(tier.index(), key)]);
        keys
    }
}

fn victims(policy: &mut dyn EvictionPolicy, tier: Tier, most: usize) -> Vec<u32> {
    let mut keys = Vec::new();
    if most > 0 {
        policy.victims(tier, &mut |key| {
            keys.push(key.index() as u32);
            if keys.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }
    keys
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn lru_offers_what_a_sorted_list_would(calls in calls()) {
        let (mut policy, mut told) = (Lru::default(), Told::default());
        for (call, key) in calls {
            told.tell(&mut policy, call, key);
            for tier in Tier::ALL {
                prop_assert_eq!(victims(&mut policy, tier, usize::MAX), told.by_recency(tier));
            }
        }
    }

    #[test]
    fn frequency_offers_what_sorting_by_age_and_uses_would(calls in calls(), most in 1usize..4) {
        let (mut policy, mut told) = (Frequency::default(), Told::default());
        for (call, key) in calls {
            told.tell(&mut policy, call, key);
            for tier in Tier::ALL {
                let expected = told.by_frequency(tier);
                // Being offered changes nothing, however far the pool walked.
                prop_assert_eq!(victims(&mut policy, tier, most), &expected[..most.min(expected.len())]);
                prop_assert_eq!(victims(&mut policy, tier, usize::MAX), expected);
            }
        }
    }

    #[test]
    fn a_lower_priority_goes_first_under_every_policy(
        calls in calls(), levels in prop::collection::vec((0u32..10, 0u8..3), 0..30),
    ) {
        for name in policy::NAMES {
            let (mut policy, mut told) = (ByPriority::new(policy::by_name(name).unwrap()), Told::default());
            let mut levels = levels.iter().copied();
            for &(call, key) in &calls {
                told.tell(&mut policy, call, key);
                if let Some((key, level)) = levels.next() {
                    policy.set_priority(TensorKey::new(key), Priority::new(level));
                    prop_assert_eq!(policy.priority(TensorKey::new(key)), Priority::new(level));
                }
                for tier in Tier::ALL {
                    let offered = victims(&mut policy, tier, usize::MAX);
                    let priorities: Vec<_> = offered.iter().map(|&key| policy.priority(TensorKey::new(key))).collect();
                    prop_assert!(priorities.is_sorted(), "{:?}", priorities);
                    let (offered_once, free) = (offered.iter().copied().collect::<BTreeSet<_>>(), told.free(tier));
                    prop_assert_eq!(offered.len(), free.len());
                    prop_assert_eq!(offered_once, free.into_iter().collect());
                }
            }
        }
    }

    #[test]
    fn without_marks_a_scheduled_policy_is_the_one_inside(calls in calls()) {
        let (mut policy, mut told) = (Scheduled::new(Box::new(Lru::default()), 100), Told::default());
        for (call, key) in calls {
            told.tell(&mut policy, call, key);
            for tier in Tier::ALL {
                prop_assert_eq!(victims(&mut policy, tier, usize::MAX), told.by_recency(tier));
            }
        }
    }
}

#[test]
fn what_was_popular_long_ago_is_overtaken() {
    let mut policy = Frequency::default();
    let (old, new) = (TensorKey::new(0), |i: u32| TensorKey::new(1 + i));
    policy.entered(Tier::Device, old, 1);
    (0..20).for_each(|_| policy.used(old));
    let mut evicted_old = None;
    for i in 0..60u32 {
        policy.entered(Tier::Device, new(i % 2), 1);
        policy.used(new(i % 2));
        if i > 0 {
            let first = victims(&mut policy, Tier::Device, 1)[0];
            policy.left(Tier::Device, TensorKey::new(first));
            if first == 0 {
                evicted_old = Some(i);
                break;
            }
        }
    }
    assert!(evicted_old.is_some_and(|i| i > 5), "{evicted_old:?}: it stays for a while and not for ever");
}

#[test]
fn a_new_tensor_inherits_nothing_of_its_number() {
    let mut policy = ByPriority::new(Box::new(Frequency::default()));
    let key = TensorKey::new(3);
    policy.set_priority(key, Priority::HIGH);
    (0..9).for_each(|_| policy.used(key));
    policy.forgotten(key);
    assert_eq!(policy.priority(key), Priority::NORMAL);
    policy.entered(Tier::Host, TensorKey::new(1), 1);
    policy.used(TensorKey::new(1));
    policy.entered(Tier::Host, key, 1);
    assert_eq!(victims(&mut policy, Tier::Host, 9), [3, 1]);
}

#[test]
fn an_unknown_name_is_told_what_there_is() {
    let error = policy::by_name("clock").unwrap_err();
    assert_eq!(error.to_string(), "no eviction policy \"clock\"; there are: lru, frequency");
}
