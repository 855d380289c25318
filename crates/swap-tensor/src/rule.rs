//! Who goes first, as the books ask it: a policy per priority, or the order of a recorded step over it.

use crate::policy::{
    ByPriority, Draft, EvictionPolicy, Fetch, Priority, Scheduled, State, TensorKey, Tier, Use,
};
use core::ops::ControlFlow;

/// The policy of a device, and of the host tier if it is the first.
#[derive(Debug)]
pub(crate) enum Rule {
    Policy(ByPriority),
    Schedule(Box<Scheduled>),
}

/// Whose room may be taken, and for what.
#[derive(Debug, Clone, Copy)]
pub(crate) enum For<'a> {
    /// A lease: anybody's.
    Lease,
    /// A fetch that the schedule wants: of those that are used after it.
    Fetch(&'a Fetch),
}

impl Rule {
    pub(crate) fn new(policy: Box<dyn EvictionPolicy>, schedule: bool, device_bytes: u64) -> Self {
        match schedule {
            true => Rule::Schedule(Box::new(Scheduled::new(policy, device_bytes))),
            false => Rule::Policy(ByPriority::new(policy)),
        }
    }

    fn policy(&mut self) -> &mut dyn EvictionPolicy {
        match self {
            Rule::Policy(policy) => policy,
            Rule::Schedule(schedule) => schedule.as_mut(),
        }
    }

    pub(crate) fn created(&mut self, at: u32, name: &str, bytes: u64) {
        if let Rule::Schedule(schedule) = self {
            schedule.created(TensorKey::new(at), name, bytes);
        }
    }

    /// The last handle is gone.
    pub(crate) fn dropped(&mut self, at: u32) {
        if let Rule::Schedule(schedule) = self {
            schedule.dropped(TensorKey::new(at));
        }
    }

    /// The number is free.
    pub(crate) fn forgotten(&mut self, at: u32) {
        self.policy().forgotten(TensorKey::new(at));
    }

    pub(crate) fn entered(&mut self, tier: Tier, at: u32, bytes: u64) {
        self.policy().entered(tier, TensorKey::new(at), bytes);
    }

    pub(crate) fn left(&mut self, tier: Tier, at: u32) {
        self.policy().left(tier, TensorKey::new(at));
    }

    pub(crate) fn held(&mut self, at: u32) {
        self.policy().held(TensorKey::new(at));
    }

    pub(crate) fn released(&mut self, at: u32) {
        self.policy().released(TensorKey::new(at));
    }

    pub(crate) fn leased(&mut self, at: u32, how: Use) {
        match self {
            Rule::Policy(policy) => policy.used(TensorKey::new(at)),
            Rule::Schedule(schedule) => schedule.leased(TensorKey::new(at), how),
        }
    }

    /// The tensor is leased on another device: in the order of the tiers they share that counts as a use.
    pub(crate) fn used_elsewhere(&mut self, at: u32) {
        match self {
            Rule::Policy(policy) => policy.used(TensorKey::new(at)),
            Rule::Schedule(schedule) => schedule.used_elsewhere(TensorKey::new(at)),
        }
    }

    pub(crate) fn set_priority(&mut self, at: u32, priority: Priority) {
        match self {
            Rule::Policy(policy) => policy.set_priority(TensorKey::new(at), priority),
            Rule::Schedule(schedule) => schedule.set_priority(TensorKey::new(at), priority),
        }
    }

    pub(crate) fn priority(&self, at: u32) -> Priority {
        match self {
            Rule::Policy(policy) => policy.priority(TensorKey::new(at)),
            Rule::Schedule(schedule) => schedule.priority(TensorKey::new(at)),
        }
    }

    /// The first tensor with a copy in `tier`, in the order in which they should go, for which `choose` gives something.
    pub(crate) fn first<R>(
        &mut self,
        tier: Tier,
        whose: For<'_>,
        mut choose: impl FnMut(u32) -> Option<R>,
    ) -> Option<R> {
        let mut chosen = None;
        let mut accept = |key: TensorKey| {
            chosen = choose(key.number());
            if chosen.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match (self, whose) {
            (Rule::Schedule(schedule), For::Fetch(fetch)) => schedule.victims_for(fetch, &mut accept),
            (rule, For::Lease) => rule.policy().victims(tier, &mut accept),
            (Rule::Policy(_), For::Fetch(_)) => {}
        }
        chosen
    }

    /// Leases until the next one of the tensor, as far as a schedule that is followed knows of one.
    pub(crate) fn next_use(&self, at: u32) -> Option<u64> {
        match self {
            Rule::Policy(_) => None,
            Rule::Schedule(schedule) => schedule.next_use(TensorKey::new(at)),
        }
    }

    /// Whether a recorded step is being followed.
    pub(crate) fn follows(&self) -> bool {
        matches!(self, Rule::Schedule(schedule) if schedule.state() == State::Following)
    }

    pub(crate) fn state(&self) -> Option<State> {
        match self {
            Rule::Policy(_) => None,
            Rule::Schedule(schedule) => Some(schedule.state()),
        }
    }

    pub(crate) fn schedule(&mut self) -> Option<&mut Scheduled> {
        match self {
            Rule::Policy(_) => None,
            Rule::Schedule(schedule) => Some(schedule),
        }
    }

    pub(crate) fn mark_step(&mut self) -> Option<Draft> {
        self.schedule()?.mark_step()
    }
}
