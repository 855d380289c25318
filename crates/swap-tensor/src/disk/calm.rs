//! What stands where the simulated faults would (`fault.rs`, feature `conformance`): nothing goes wrong but what does.

use super::request::Direction;
use std::io;

/// A kind of system call that a fault could strike.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    Temporary,
    OpenDirect,
    Allocate,
    RingSetup,
    RegisterBuffers,
    ProbeDirect,
    ProbeRing,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Faults;

impl Faults {
    pub(super) fn refuse(&self, _: Call) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn strike(&self, _: Direction) -> Mark {
        Mark
    }

    pub(super) fn hold(&self, _: Mark) {}

    pub(super) fn holds(&self, _: Mark, _alone: bool) -> bool {
        false
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Mark;

impl Mark {
    pub(super) fn error(self) -> Option<io::Error> {
        None
    }

    pub(super) fn limit(self, len: usize, _unit: usize) -> usize {
        len
    }

    pub(super) fn flips(self) -> bool {
        false
    }
}
