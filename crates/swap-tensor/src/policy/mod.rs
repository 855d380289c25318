//! Which copies go first when a tier is full: eviction policies, and the replay of a recorded step.
//!
//! Everything here is bookkeeping: no I/O, no lock, no clock, no device. A policy runs under the pool's lock,
//! so each call says what it costs.
//!
//! | name | first to go | a use costs | source |
//! |---|---|---|---|
//! | [`lru`](Lru) | unused for longest | O(1) | |
//! | [`frequency`](Frequency) | least used, old uses fading | O(log n) | LFU with dynamic ageing, Arlitt et al. 2000 |
//!
//! [`by_name`] finds them. Two things surround any policy, a program's own too, and ask nothing of it:
//! [`ByPriority`], where the less important goes first whatever the policy says, and [`Scheduled`], which
//! replays the order of a recorded step and asks the policy only when there is none.
//!
//! # A policy of one's own
//! Three calls are enough. First in, first out:
//! ```
//! use core::ops::ControlFlow;
//! use std::collections::VecDeque;
//! use swap_tensor::policy::{EvictionPolicy, TensorKey, Tier};
//!
//! #[derive(Debug, Default)]
//! struct Fifo {
//!     tiers: [VecDeque<TensorKey>; Tier::COUNT],
//! }
//!
//! impl EvictionPolicy for Fifo {
//!     fn name(&self) -> &'static str {
//!         "fifo"
//!     }
//!     fn fresh(&self) -> Box<dyn EvictionPolicy> {
//!         Box::new(Fifo::default())
//!     }
//!     fn entered(&mut self, tier: Tier, key: TensorKey, _bytes: u64) {
//!         self.tiers[tier.index()].push_back(key);
//!     }
//!     fn left(&mut self, tier: Tier, key: TensorKey) {
//!         self.tiers[tier.index()].retain(|&k| k != key);
//!     }
//!     fn victims(&mut self, tier: Tier, accept: &mut dyn FnMut(TensorKey) -> ControlFlow<()>) {
//!         let _ = self.tiers[tier.index()].iter().try_for_each(|&key| accept(key));
//!     }
//! }
//!
//! let mut policy = Fifo::default();
//! for number in 0..3 {
//!     policy.entered(Tier::Device, TensorKey::new(number), 1 << 20);
//! }
//! policy.left(Tier::Device, TensorKey::new(0));
//! let mut first = None;
//! policy.victims(Tier::Device, &mut |key| {
//!     first = Some(key);
//!     ControlFlow::Break(())
//! });
//! assert_eq!(first, Some(TensorKey::new(1)));
//! ```

mod frequency;
mod lru;
mod priority;
mod ranked;
pub(crate) mod recency;
mod registry;
pub mod schedule;
mod seats;

pub use frequency::Frequency;
pub use lru::Lru;
pub use priority::{ByPriority, Priority};
pub use registry::{NAMES, UnknownPolicy, by_name};
pub use schedule::{Draft, Fetch, PlannedFetch, Recording, Schedule, Scheduled, State, Use};

use core::{fmt, ops::ControlFlow};

/// The number by which a pool knows a tensor: small and dense. It may come again when the tensor is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorKey(u32);

impl TensorKey {
    /// The key with this number. Policies keep tables as long as the largest number they have seen.
    pub const fn new(number: u32) -> Self {
        TensorKey(number)
    }

    /// Its number, as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) const fn number(self) -> u32 {
        self.0
    }
}

/// A place for copies, with a budget of its own, from which a policy chooses victims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// The arena of the device.
    Device,
    /// Host memory.
    Host,
}

impl Tier {
    /// Every tier, the fastest first.
    pub const ALL: [Tier; Tier::COUNT] = [Tier::Device, Tier::Host];
    /// How many there are.
    pub const COUNT: usize = 2;

    /// Its place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Device => "device",
            Tier::Host => "host",
        })
    }
}

/// An order in which copies leave a tier that is full. The [module](self) shows one in full.
///
/// # What the pool promises
/// [`entered`](Self::entered) comes once per stay in a tier and [`left`](Self::left) ends it. A tensor has
/// left every tier when it is [`forgotten`](Self::forgotten). [`held`](Self::held) and
/// [`released`](Self::released) alternate.
///
/// # What the pool asks
/// A key is offered at most once per call of [`victims`](Self::victims), and only while its copy is in the
/// tier. No call blocks or panics. A policy that breaks this costs bytes, never data: the pool looks at each
/// key it is offered.
pub trait EvictionPolicy: Send + fmt::Debug + 'static {
    /// Its name, in lower case.
    fn name(&self) -> &'static str;

    /// A policy of the same kind and settings that knows of no tensor: there is one per [`Priority`].
    fn fresh(&self) -> Box<dyn EvictionPolicy>;

    /// A copy of `bytes` is in `tier` from now on.
    fn entered(&mut self, tier: Tier, key: TensorKey, bytes: u64);

    /// The copy is no longer in `tier`.
    fn left(&mut self, tier: Tier, key: TensorKey);

    /// The tensor is leased. Called once per lease; allocates nothing.
    fn used(&mut self, key: TensorKey) {
        let _ = key;
    }

    /// The tensor is gone, and its number may come again for another.
    fn forgotten(&mut self, key: TensorKey) {
        let _ = key;
    }

    /// The pool will refuse `key` in every tier until it is [`released`](Self::released): it is leased or
    /// pinned. A policy that leaves it out of [`victims`](Self::victims) meanwhile saves the pool the walk
    /// over it.
    fn held(&mut self, key: TensorKey) {
        let _ = key;
    }

    /// The last lease or pin of `key` ended.
    fn released(&mut self, key: TensorKey) {
        let _ = key;
    }

    /// Offers the keys of `tier`, the one that should go first being the first, until `accept` breaks.
    ///
    /// Being accepted changes nothing: a copy that goes is reported by [`left`](Self::left), afterwards.
    fn victims(&mut self, tier: Tier, accept: &mut dyn FnMut(TensorKey) -> ControlFlow<()>);
}

/// No key, name or position.
const NONE: u32 = u32::MAX;
