//! Copies: what the two ends are, what may go between them, and what to remember until they run.

use crate::clock::Access;
use crate::config::Pageable;
use crate::lane::Touch;
use crate::memory::{Part, Rights, Span};
use crate::raw;
use crate::result::CuError;
use crate::run::overlap;
use crate::sim::Sim;

/// A copy that was checked.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) dst: u64,
    /// What the destination is made of; empty for pageable memory.
    pub(crate) into: Vec<Part>,
    pub(crate) source: Source,
    pub(crate) len: u64,
    /// To the device, to the host, within the device: an index of [`Sim::copied`].
    pub(crate) direction: usize,
    /// Of the source when the copy was enqueued, where the program must not write it meanwhile.
    pub(crate) digest: Option<u64>,
    /// What the destination was filled with, where the program must not write it meanwhile.
    pub(crate) noise: Option<u8>,
}

/// Where a copy reads.
#[derive(Debug)]
pub(crate) enum Source {
    /// Device or page-locked memory.
    Memory { at: u64, parts: Vec<Part> },
    /// What pageable memory held at the call, and where it is if it is to be compared.
    Staged { bytes: Vec<u8>, from: Option<u64> },
}

/// What a call says that an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Device,
    Host,
    /// The driver finds out.
    Any,
}

/// How a call treats the host's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// The call returns before the copy has run.
    Later,
    /// The call reads the source itself, and returns before the copy has run.
    SourceNow,
    /// The call waits, or is one that programs may use with pageable memory.
    Now,
}

/// What a range passed to a call turned out to be.
enum Found {
    Memory { parts: Vec<Part>, host: bool },
    Pageable,
}

impl Sim {
    /// Checks the two ends of a copy and makes ready what it needs. `len` is not 0.
    ///
    /// # Safety
    /// Pageable memory at either end is readable or writable for `len` bytes, as the call's contract says.
    pub(crate) unsafe fn plan_copy(
        &mut self,
        call: &str,
        (dst, dst_end): (u64, End),
        (src, src_end): (u64, End),
        len: u64,
        when: When,
    ) -> Result<Copy, CuError> {
        let to = self.find(call, dst, len, dst_end, Access::Write)?;
        let from = self.find(call, src, len, src_end, Access::Read)?;
        let direction = match (&from, &to) {
            (_, Found::Pageable | Found::Memory { host: true, .. }) => 1,
            (Found::Pageable | Found::Memory { host: true, .. }, _) => 0,
            _ => 2,
        };
        let pageable = matches!(to, Found::Pageable) || matches!(from, Found::Pageable);
        if pageable && when == When::Later && self.config.pageable == Pageable::Report {
            let at = if matches!(to, Found::Pageable) { dst } else { src };
            self.report(format!("{call}: {len} bytes of pageable memory at {at:#x} in an asynchronous copy"));
        }
        let (into, noise) = match to {
            Found::Pageable => (Vec::new(), None),
            Found::Memory { parts, host } => {
                // What the host waits for it cannot touch meanwhile.
                let hide = host && when != When::Now && !self.is_pending_on(&parts, false);
                (parts, hide.then_some(NOISE))
            }
        };
        let mut digest = None;
        let source = match from {
            Found::Pageable => {
                // SAFETY: by the contract of this function.
                let bytes = unsafe { raw::bytes(src, len) }.to_vec();
                let compared = when == When::Later && self.config.pageable == Pageable::Check;
                Source::Staged { bytes, from: compared.then_some(src) }
            }
            Found::Memory { parts, host } => {
                // SAFETY: just looked up.
                let bytes = unsafe { raw::bytes(src, len) };
                let settled = !self.is_pending_on(&parts, true);
                if host && when == When::SourceNow && settled {
                    Source::Staged { bytes: bytes.to_vec(), from: None }
                } else {
                    digest = (host && settled && when != When::Now).then(|| raw::digest(bytes));
                    Source::Memory { at: src, parts }
                }
            }
        };
        if let Source::Memory { at, parts } = &source
            && (at.abs_diff(dst) < len || parts.iter().any(|a| into.iter().any(|b| overlap(a, b))))
        {
            self.report(format!("{call}: the {len} bytes at {src:#x} overlap their destination at {dst:#x}"));
        }
        Ok(Copy { dst, into, source, len, direction, digest, noise })
    }

    /// Fills with noise what the program must not read before the copy has run. Last, since a refused call changes
    /// nothing.
    pub(crate) fn hide_destination(&self, copy: &Copy) {
        if let Some(noise) = copy.noise {
            // SAFETY: looked up by `plan_copy` in the same call.
            unsafe { raw::fill(copy.dst, copy.len, noise) };
        }
    }

    /// Looks up device memory, or page-locked memory by its address on the device, that is used as `access` says.
    pub(crate) fn find_device(
        &mut self,
        call: &str,
        at: u64,
        len: u64,
        access: Access,
    ) -> Result<Vec<Part>, CuError> {
        match self.find(call, at, len, End::Device, access)? {
            Found::Memory { parts, .. } => Ok(parts),
            Found::Pageable => Err(CuError::INVALID_VALUE),
        }
    }

    fn find(&mut self, call: &str, at: u64, len: u64, end: End, access: Access) -> Result<Found, CuError> {
        let wrong = match self.memory.resolve(at, len) {
            Span::Unknown if end == End::Device => {
                format!("{at:#x} is no device pointer: {}", self.memory.describe(at))
            }
            Span::Unknown if at == 0 => "a null pointer".into(),
            Span::Unknown => return Ok(Found::Pageable),
            Span::Broken(why) => why,
            Span::Known { host: false, .. } if end == End::Host => {
                format!("{at:#x} is a device pointer where a host pointer belongs")
            }
            Span::Known { rights: Rights::None, .. } => format!("{at:#x} is mapped without access"),
            Span::Known { rights: Rights::Read, .. } if access == Access::Write => {
                format!("{at:#x} is mapped read-only")
            }
            Span::Known { parts, host, .. } => return Ok(Found::Memory { parts, host }),
        };
        self.report(format!("{call}: {len} bytes at {at:#x}: {wrong}"));
        Err(CuError::INVALID_VALUE)
    }
}

impl Copy {
    /// The bytes it uses that the device knows.
    pub(crate) fn touches(&self) -> Vec<Touch> {
        let reads: &[Part] = match &self.source {
            Source::Memory { parts, .. } => parts,
            Source::Staged { .. } => &[],
        };
        let touch = |access| move |part: &Part| Touch { part: part.clone(), access };
        let reads = reads.iter().map(touch(Access::Read));
        reads.chain(self.into.iter().map(touch(Access::Write))).collect()
    }

    /// Whether it needs the program's pageable memory when it runs.
    pub(crate) fn is_to_pageable(&self) -> bool {
        self.into.is_empty()
    }
}

/// What page-locked memory holds while a copy into it is in flight.
const NOISE: u8 = 0xa5;
