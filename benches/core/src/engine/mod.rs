//! The allocators under test behind one trait, one file per family.

mod btree;
mod buddy;
mod core;
mod offset;
mod range;
mod rlsf;
mod talc;
#[cfg(feature = "vma")]
mod vma;

pub(crate) use self::btree::BTree;
pub(crate) use self::buddy::Buddy;
pub(crate) use self::core::{Core, Located, Lowest};
pub(crate) use self::offset::Offset;
pub(crate) use self::range::RangeAlloc;
pub(crate) use self::rlsf::Rlsf;
pub(crate) use self::talc::Talc;
#[cfg(feature = "vma")]
pub(crate) use self::vma::{Vma, VmaLowest, VmaMemory};

use std::ops::Range;

/// What an engine is made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// Bytes to give out.
    pub(crate) capacity: u64,
    /// Every length asked for is a multiple of this many bytes, a power of two.
    pub(crate) unit: u64,
    /// The most blocks live at once.
    pub(crate) live: usize,
}

/// An allocator that gives out ranges of an arena.
///
/// Lengths are bytes. Rows are generic over it, so that nothing is dispatched in a loop that is timed.
pub(crate) trait Engine: Sized {
    /// As the tables call it.
    const NAME: &'static str;
    /// What it needs to give a block back; at most 16 bytes.
    type Ticket;

    fn new(setup: &Setup) -> Self;

    /// An empty engine again, on the same memory where it writes into the memory it gives out.
    fn renew(self, setup: &Setup) -> Self {
        drop(self);
        Self::new(setup)
    }

    fn alloc(&mut self, bytes: u64) -> Option<Self::Ticket>;

    fn free(&mut self, ticket: Self::Ticket);

    /// Where the block is: at least the bytes asked for. For checks, never timed.
    fn range(&self, ticket: &Self::Ticket, bytes: u64) -> Range<u64>;
}

/// Where a row keeps a block: 16 bytes for every engine.
#[repr(align(16))]
pub(crate) struct Seat<T>(pub(crate) Option<T>);

impl<T> Seat<T> {
    /// `count` seats with nobody in them.
    pub(crate) fn row(count: usize) -> Vec<Self> {
        const { assert!(size_of::<Self>() == 16, "a ticket is larger than the seat of the others") };
        (0..count).map(|_| Self(None)).collect()
    }
}

/// One engine's part in a row: the function that runs it, made for that engine.
pub(crate) struct Contender<I, O> {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    pub(crate) run: fn(&I) -> O,
}

/// What an engine's figure is to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Ours.
    Own,
    /// A peer that packs: the bar is set by the best of these.
    Packs,
    /// For comparison only.
    Reference,
}

/// `contenders!(run: Own Core, Packs Offset, …)`: each engine with `run::<Engine>`.
macro_rules! contenders {
    ($run:ident: $($(#[$attr:meta])? $role:ident $engine:ident),+ $(,)?) => {
        vec![$(
            $(#[$attr])?
            $crate::engine::Contender {
                name: <$crate::engine::$engine as $crate::engine::Engine>::NAME,
                role: $crate::engine::Role::$role,
                run: $run::<$crate::engine::$engine>,
            }
        ),+]
    };
}
pub(crate) use contenders;
