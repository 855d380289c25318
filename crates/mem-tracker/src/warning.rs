//! What an observer has to say and cannot return.

use core::fmt;
use std::thread::ThreadId;

use allocator_core::Handle;

use crate::ModState;

/// Something that went wrong where no error can be returned: in an observer, or when a guard was dropped.
///
/// No figure is wrong because of it; what each leaves out is said there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// An arena freed or resized a block that it had not told of, or told of before the tracker was reset. It was not counted.
    UnknownBlock {
        /// Name of the device.
        device: String,
        /// The block.
        handle: Handle,
    },
    /// Two arenas told one observer of their blocks. All are counted, and stay so until the observer goes, whichever arena goes
    /// before.
    SharedObserver {
        /// Name of the device.
        device: String,
        /// The first block of the second arena.
        handle: Handle,
    },
    /// An arena told of a block that is there already. It is counted once.
    ToldTwice {
        /// Name of the device.
        device: String,
        /// The block.
        handle: Handle,
    },
    /// An arena gave a block's number to another one without having told that the block is gone. It is counted no more.
    ReleaseMissed {
        /// Name of the device.
        device: String,
        /// The block that is gone.
        handle: Handle,
    },
    /// A block or an arena with more bytes than `u64` can count together with the others. It is not counted.
    Overflow {
        /// Name of the device.
        device: String,
        /// Bytes of it.
        bytes: u64,
    },
    /// A thread ended without closing a scope, whose guard was forgotten. It was closed then, without a state of its end.
    ScopeLeftOpen {
        /// The module.
        module: String,
        /// The state with which the scope was opened.
        state: ModState,
        /// The thread that opened it.
        thread: ThreadId,
    },
    /// A thread ended without ending a phase, whose guard was forgotten. It has ended with the thread.
    PhaseLeftOpen {
        /// What it was.
        phase: &'static str,
        /// The thread that began it.
        thread: ThreadId,
    },
    /// A scope was open while the module statistics were reset. Its end is not recorded.
    ScopeOutlivedReset {
        /// The module.
        module: String,
        /// The state with which the scope was opened.
        state: ModState,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownBlock { device, handle } => {
                write!(f, "block {handle} on device {device} was never heard of, and is not counted")
            }
            Self::SharedObserver { device, handle } => {
                write!(f, "block {handle} on device {device} is of a second arena: an observer for each")
            }
            Self::ToldTwice { device, handle } => {
                write!(f, "block {handle} on device {device} was told of twice, and is counted once")
            }
            Self::ReleaseMissed { device, handle } => {
                write!(f, "block {handle} on device {device} went without a word, and is counted no more")
            }
            Self::Overflow { device, bytes } => {
                write!(f, "{bytes} bytes in one piece on device {device} are more than can be counted")
            }
            Self::ScopeLeftOpen { module, state, thread } => {
                write!(f, "{thread:?} ended with a scope of module {module} open since {state}")
            }
            Self::PhaseLeftOpen { phase, thread } => {
                write!(f, "{thread:?} ended with {phase} not ended")
            }
            Self::ScopeOutlivedReset { module, state } => {
                write!(f, "a scope of module {module}, open since {state}, outlived a reset")
            }
        }
    }
}

/// The latest warning of each kind, and how many there were.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    seen: Vec<(Warning, u64)>,
}

impl Warnings {
    #[cold]
    pub(crate) fn note(&mut self, warning: Warning) {
        let kind = core::mem::discriminant(&warning);
        match self.seen.iter_mut().find(|(seen, _)| core::mem::discriminant(seen) == kind) {
            Some(seen) => *seen = (warning, seen.1 + 1),
            None => self.seen.push((warning, 1)),
        }
    }

    pub(crate) fn list(&self) -> Vec<(Warning, u64)> {
        self.seen.clone()
    }
}
