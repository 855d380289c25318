//! The less important goes first, whatever the policy says.

use super::{EvictionPolicy, TensorKey, Tier, seats::Seats};
use core::ops::ControlFlow;

/// How important it is that a tensor stays in its tier. Among tensors of one priority the policy decides; a
/// tensor of a higher one goes only when none of a lower one can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// Goes before everything of [`NORMAL`](Self::NORMAL).
    pub const LOW: Priority = Priority(64);
    /// What a tensor has that was given none.
    pub const NORMAL: Priority = Priority(128);
    /// Stays until everything of [`NORMAL`](Self::NORMAL) is gone.
    pub const HIGH: Priority = Priority(192);

    /// A priority between those; the higher stays longer.
    pub const fn new(level: u8) -> Self {
        Priority(level)
    }

    /// Its level.
    pub const fn level(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Priority::NORMAL
    }
}

/// One value per priority in use, the lowest priority first. There are at most 256, and seldom more than
/// three.
#[derive(Debug)]
pub(super) struct Classes<V> {
    classes: Vec<(Priority, V)>,
}

impl<V> Classes<V> {
    pub(super) fn new() -> Self {
        Classes { classes: Vec::new() }
    }

    /// The value of `priority`, made if it is the first time. O(log classes).
    pub(super) fn of(&mut self, priority: Priority, make: impl FnOnce() -> V) -> &mut V {
        let at = match self.classes.binary_search_by_key(&priority, |class| class.0) {
            Ok(at) => at,
            Err(at) => {
                self.classes.insert(at, (priority, make()));
                at
            }
        };
        &mut self.classes[at].1
    }

    /// The values, that of the lowest priority first.
    pub(super) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut V> {
        self.classes.iter_mut().map(|class| &mut class.1)
    }
}

/// A policy per [`Priority`]: copies of a lower one are offered before any of a higher one.
///
/// Costs what the policy costs, and a search among the priorities in use.
/// ```
/// use core::ops::ControlFlow;
/// use swap_tensor::policy::{self, ByPriority, EvictionPolicy, Priority, TensorKey, Tier};
///
/// let mut policy = ByPriority::new(policy::by_name("lru")?);
/// let (old, scratch) = (TensorKey::new(0), TensorKey::new(1));
/// policy.entered(Tier::Device, old, 4096);
/// policy.entered(Tier::Device, scratch, 4096);
/// policy.set_priority(scratch, Priority::LOW);
///
/// let mut order = Vec::new();
/// policy.victims(Tier::Device, &mut |key| {
///     order.push(key);
///     ControlFlow::Continue(())
/// });
/// assert_eq!(order, [scratch, old]);
/// # Ok::<(), policy::UnknownPolicy>(())
/// ```
#[derive(Debug)]
pub struct ByPriority {
    /// Knows no tensor: the others are made after it.
    pattern: Box<dyn EvictionPolicy>,
    policies: Classes<Box<dyn EvictionPolicy>>,
    seats: Seats,
    /// Per key; those beyond its end have the default.
    priorities: Vec<Priority>,
}

impl ByPriority {
    /// Makes one policy like `pattern` per priority.
    pub fn new(pattern: Box<dyn EvictionPolicy>) -> Self {
        ByPriority { pattern, policies: Classes::new(), seats: Seats::default(), priorities: Vec::new() }
    }

    /// Gives a tensor a priority, until it is [`forgotten`](EvictionPolicy::forgotten). What the policy knew
    /// of its past is lost.
    pub fn set_priority(&mut self, key: TensorKey, priority: Priority) {
        if priority == self.priority(key) {
            return;
        }
        let seat = self.seats.get(key);
        let old = self.policy(key);
        for tier in Tier::ALL.into_iter().filter(|&tier| seat.is_in(tier)) {
            old.left(tier, key);
        }
        old.forgotten(key);
        let len = self.priorities.len().max(key.index() + 1);
        self.priorities.resize(len, Priority::default());
        self.priorities[key.index()] = priority;
        let new = self.policy(key);
        if seat.held {
            new.held(key);
        }
        for tier in Tier::ALL.into_iter().filter(|&tier| seat.is_in(tier)) {
            new.entered(tier, key, seat.bytes);
        }
    }

    /// The priority of a tensor.
    pub fn priority(&self, key: TensorKey) -> Priority {
        self.priorities.get(key.index()).copied().unwrap_or_default()
    }

    fn policy(&mut self, key: TensorKey) -> &mut dyn EvictionPolicy {
        let priority = self.priority(key);
        let pattern = &self.pattern;
        self.policies.of(priority, || pattern.fresh()).as_mut()
    }
}

impl EvictionPolicy for ByPriority {
    fn name(&self) -> &'static str {
        self.pattern.name()
    }

    fn fresh(&self) -> Box<dyn EvictionPolicy> {
        Box::new(ByPriority::new(self.pattern.fresh()))
    }

    fn entered(&mut self, tier: Tier, key: TensorKey, bytes: u64) {
        self.seats.enter(tier, key, bytes);
        self.policy(key).entered(tier, key, bytes);
    }

    fn left(&mut self, tier: Tier, key: TensorKey) {
        self.seats.leave(tier, key);
        self.policy(key).left(tier, key);
    }

    fn used(&mut self, key: TensorKey) {
        self.policy(key).used(key);
    }

    fn forgotten(&mut self, key: TensorKey) {
        self.policy(key).forgotten(key);
        self.seats.forget(key);
        if let Some(priority) = self.priorities.get_mut(key.index()) {
            *priority = Priority::default();
        }
    }

    fn held(&mut self, key: TensorKey) {
        self.seats.hold(key, true);
        self.policy(key).held(key);
    }

    fn released(&mut self, key: TensorKey) {
        self.seats.hold(key, false);
        self.policy(key).released(key);
    }

    fn victims(&mut self, tier: Tier, accept: &mut dyn FnMut(TensorKey) -> ControlFlow<()>) {
        let mut done = false;
        for policy in self.policies.iter_mut() {
            policy.victims(tier, &mut |key| {
                let flow = accept(key);
                done |= flow.is_break();
                flow
            });
            if done {
                return;
            }
        }
    }
}
