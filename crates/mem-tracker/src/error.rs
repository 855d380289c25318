//! What is refused.

use std::thread::ThreadId;

use allocator_core::Handle;

use crate::{ModState, StorageId};

/// Why the tracker refused something. Whatever is refused changes no figure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrackError {
    /// The storage was removed, or its block freed, or the tracker was reset since.
    #[error("storage {storage} is held no more")]
    StaleStorage {
        /// The storage.
        storage: StorageId,
    },
    /// The storage is another tracker's.
    #[error("storage {storage} is another tracker's")]
    ForeignStorage {
        /// The storage.
        storage: StorageId,
    },
    /// The storage is a block of a watched arena: what happens to it is what the arena tells.
    #[error("storage {storage} is a block of a watched arena, which says how long it is and when it goes")]
    InArena {
        /// The storage.
        storage: StorageId,
    },
    /// The owner is another tracker's.
    #[error("the owner is another tracker's")]
    ForeignOwner,
    /// The arena has told of no such block, or has freed it.
    #[error("no block {handle} is known on device {device}")]
    UnknownBlock {
        /// Name of the device.
        device: String,
        /// The block.
        handle: Handle,
    },
    /// More than `u64` can count.
    #[error("{bytes} bytes more on device {device}, which holds {held}, cannot be counted")]
    Overflow {
        /// Name of the device.
        device: String,
        /// Bytes asked for, of a storage or of an arena.
        bytes: u64,
        /// Bytes the device holds, or its arenas span.
        held: u64,
    },
    /// A rounding is a number of bytes, and a device keeps the one it was made with.
    #[error("device {device} rounds to {rounding} bytes, not to {asked}")]
    Rounding {
        /// Name of the device.
        device: String,
        /// What it rounds to.
        rounding: u64,
        /// What was asked for.
        asked: u64,
    },
    /// More devices, modules, storages or arenas than can be numbered.
    #[error("no more than {limit} {what} can be tracked")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many there can be.
        limit: u64,
    },
    /// A scope was left open.
    #[error("{open} scopes are open; the oldest is {state} of module {module}")]
    ScopesOpen {
        /// How many are open.
        open: usize,
        /// Module of the one that was opened first.
        module: String,
        /// The state with which it was opened.
        state: ModState,
    },
    /// A phase was left open.
    #[error("{open} phases are open; the oldest is {phase} on {thread:?}")]
    PhasesOpen {
        /// How many are open.
        open: usize,
        /// What the one is that began first.
        phase: &'static str,
        /// The thread that began it.
        thread: ThreadId,
    },
    /// Not the name of a unit. The text is PyTorch's.
    #[error("Unsupported unit: {name}. Supported units are: B, KiB, MiB, GiB")]
    UnknownUnit {
        /// The name.
        name: String,
    },
    /// Not the name of a category.
    #[error("`{name}` is no category")]
    UnknownCategory {
        /// The name.
        name: String,
    },
}
