//! Kernels: names and parameters from PTX text, and the host twins that run in their place.

mod copy_many;
mod ptx;
mod twins;

pub(crate) use ptx::entries;
use twins::TWINS;

/// A function of the host that does what the kernel of the same name does.
pub(crate) struct Twin {
    pub(crate) name: &'static str,
    /// Bytes of each parameter.
    pub(crate) params: &'static [usize],
    /// Threads of a block in x, where the kernel says so (`.reqntid`); 0: as many as the launch has.
    pub(crate) block: u32,
    /// Which bytes a launch uses. It sees arguments and shape only, so it runs when the launch is enqueued.
    pub(crate) effects: fn(&Launch) -> Vec<Effect>,
    /// Does it.
    ///
    /// # Safety
    /// Every range that `effects` names for this launch is readable, and writable where it says so.
    pub(crate) run: unsafe fn(&Launch),
}

impl core::fmt::Debug for Twin {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Twin").field(&self.name).finish()
    }
}

/// Arguments and shape of one launch.
#[derive(Debug)]
pub(crate) struct Launch {
    /// The bytes of each parameter.
    pub(crate) args: Vec<Vec<u8>>,
    /// Blocks in x.
    pub(crate) blocks: u32,
    /// Threads in x, over all blocks.
    pub(crate) threads: u64,
}

impl Launch {
    /// A parameter of at most 8 bytes, zero-extended.
    pub(crate) fn arg(&self, index: usize) -> u64 {
        number(&self.args[index])
    }
}

/// The number in at most 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// What a kernel does to bytes. Addresses must be multiples of the size of what it reads or writes there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effect {
    Read {
        at: u64,
        len: u64,
        align: u64,
    },
    Write {
        at: u64,
        len: u64,
        align: u64,
    },
    /// Copies between ranges that must not overlap, nor touch what another copy of the launch writes; bytes nobody wrote
    /// stay so.
    Copy {
        dst: u64,
        src: u64,
        len: u64,
        align: u64,
    },
    /// Copies between ranges that may overlap; bytes nobody wrote stay so.
    Move {
        dst: u64,
        src: u64,
        len: u64,
        align: u64,
    },
}

impl Effect {
    /// Address and length of what it writes.
    pub(crate) fn written(self) -> Option<(u64, u64)> {
        match self {
            Effect::Read { .. } => None,
            Effect::Write { at, len, .. } => Some((at, len)),
            Effect::Copy { dst, len, .. } | Effect::Move { dst, len, .. } => Some((dst, len)),
        }
    }

    /// Whether an address does not suit what is read or written there.
    pub(crate) fn is_misaligned(self) -> bool {
        match self {
            Effect::Read { at, align, .. } | Effect::Write { at, align, .. } => !at.is_multiple_of(align),
            Effect::Copy { dst, src, align, .. } | Effect::Move { dst, src, align, .. } => {
                !dst.is_multiple_of(align) || !src.is_multiple_of(align)
            }
        }
    }

    /// Whether it has no bytes.
    pub(crate) fn is_empty(self) -> bool {
        match self {
            Effect::Read { len, .. } | Effect::Write { len, .. } => len == 0,
            Effect::Copy { len, .. } | Effect::Move { len, .. } => len == 0,
        }
    }
}

/// The twin called `name`.
pub(crate) fn twin(name: &str) -> Option<&'static Twin> {
    TWINS.iter().find(|twin| twin.name == name)
}
