//! What a pool tells a memory tracker: whose every copy is, in every tier.
//!
//! A device's arena is heard by the tracker itself, as its observer; whose a block is, is said when the block becomes a tensor's.
//! A copy in host memory or on disk carries the storage that stands for it ([`Share`]), which goes when the copy's room does.
//! All of it happens under the lock of the books, so the tracker's figures are those of the books after every step.
//!
//! Without the feature `track` there is nobody to tell, and the types are empty.

#[cfg(not(feature = "track"))]
mod off;
#[cfg(feature = "track")]
mod on;
#[cfg(feature = "track")]
mod report;

#[cfg(not(feature = "track"))]
pub(crate) use off::{Ledger, Owner, Share, Tracking};
#[cfg(feature = "track")]
pub(crate) use on::{Ledger, Owner, Share, Tracking};
#[cfg(feature = "track")]
pub use report::{Keepers, OutOfMemory};
