//! Memory of a buffer that the host reaches as well: where a device has no memory of its own, copying through staging
//! would copy everything twice for nothing.

use super::WgpuError;
use super::native::lock;
use super::shared::Shared;
use std::any::Any;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// The bytes of a buffer, mapped as long as this lives.
///
/// The host copies only while no submission of anybody's is in flight: whatever came before has ended then, and what
/// comes after is submitted after. That the queue is empty is what wgpu says, of the user's work too. Memory is
/// coherent; that what the device wrote is visible once it has ended rests on the driver, as it does wherever wgpu maps
/// a buffer (gfx-rs/wgpu#9306).
pub(super) struct Direct {
    base: NonNull<u8>,
    /// Ranges that threads are copying to or from, each with whether it is written.
    claimed: Mutex<Vec<(Range<u64>, bool)>>,
    /// Set when wgpu has destroyed the buffer.
    gone: Arc<AtomicBool>,
    /// Unmaps and frees.
    _memory: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the address is that of memory which `_memory` keeps mapped, and which no thread is special to; bytes are
// only touched under claims.
unsafe impl Send for Direct {}
// SAFETY: as above.
unsafe impl Sync for Direct {}

impl Direct {
    /// # Safety
    /// From `base`, as many initialised bytes as the buffer has are mapped, readable and writable, until `memory` is
    /// dropped, and the host's access to them is coherent.
    pub(super) unsafe fn new(
        base: NonNull<u8>,
        gone: Arc<AtomicBool>,
        memory: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Direct { base, claimed: Mutex::default(), gone, _memory: memory }
    }

    /// Copies `src` to byte `at`, if that can be done now; the range was checked.
    pub(super) fn write(&self, shared: &Shared, at: u64, src: &[u8], when: When) -> Result<bool, WgpuError> {
        let Some(claim) = self.claim(at..at + src.len() as u64, true) else { return Ok(false) };
        if !when.is_now(shared)? {
            return Ok(false);
        }
        // SAFETY: the range lies within the mapping (`new`), and while the claim lives no other thread touches it.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), claim.first(), src.len()) };
        Ok(true)
    }

    /// Copies from byte `at` to all of `dst`, if that can be done now; the range was checked.
    pub(super) fn read(
        &self,
        shared: &Shared,
        at: u64,
        dst: &mut [u8],
        when: When,
    ) -> Result<bool, WgpuError> {
        let Some(claim) = self.claim(at..at + dst.len() as u64, false) else { return Ok(false) };
        if !when.is_now(shared)? {
            return Ok(false);
        }
        // SAFETY: the range lies within the mapping (`new`), and while the claim lives no other thread writes it.
        unsafe { std::ptr::copy_nonoverlapping(claim.first().cast_const(), dst.as_mut_ptr(), dst.len()) };
        Ok(true)
    }

    /// A range to touch, if nobody is touching it in a way that does not go together.
    ///
    /// Two calls that nothing orders may meet here. The second goes through staging, where the device's queue orders
    /// it: what it brings is one of the two, but no two threads touch the same byte.
    fn claim(&self, range: Range<u64>, writes: bool) -> Option<Claim<'_>> {
        if self.gone.load(SeqCst) {
            return None;
        }
        let mut claimed = lock(&self.claimed);
        let clashes = |(other, theirs): &(Range<u64>, bool)| {
            (writes || *theirs) && range.start < other.end && other.start < range.end
        };
        if claimed.iter().any(clashes) {
            return None;
        }
        claimed.push((range.clone(), writes));
        Some(Claim { direct: self, range, writes })
    }
}

/// When the host may touch a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// While the queue is empty: in order with everything submitted.
    QueueEmpty,
    /// Now: the caller has waited.
    Now,
}

impl When {
    fn is_now(self, shared: &Shared) -> Result<bool, WgpuError> {
        match self {
            When::QueueEmpty => shared.is_idle(),
            When::Now => shared.check_alive().map(|()| true),
        }
    }
}

struct Claim<'a> {
    direct: &'a Direct,
    range: Range<u64>,
    writes: bool,
}

impl Claim<'_> {
    fn first(&self) -> *mut u8 {
        self.direct.base.as_ptr().wrapping_add(self.range.start as usize)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = lock(&self.direct.claimed);
        let mine = |(range, writes): &(Range<u64>, bool)| *range == self.range && *writes == self.writes;
        if let Some(index) = claimed.iter().position(mine) {
            claimed.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_that_do_not_go_together_are_refused() {
        let mut bytes = vec![0_u8; 64];
        let gone = Arc::new(AtomicBool::new(false));
        let base = NonNull::from(bytes.as_mut_slice()).cast();
        // SAFETY: the bytes live to the end of the test, and nothing here touches them.
        let direct = unsafe { Direct::new(base, Arc::clone(&gone), Arc::new(())) };
        let reading = direct.claim(0..16, false).unwrap();
        let also = direct.claim(8..24, false).unwrap();
        assert!(direct.claim(12..32, true).is_none(), "written while it is read");
        let writing = direct.claim(24..32, true).unwrap();
        assert!(direct.claim(28..40, false).is_none() && direct.claim(28..40, true).is_none());
        drop(reading);
        assert!(direct.claim(0..16, true).is_none(), "the other one still reads");
        drop((also, writing));
        let all = direct.claim(0..64, true).unwrap();
        assert_eq!(all.first(), bytes.as_mut_ptr());
        drop(all);
        gone.store(true, SeqCst);
        assert!(direct.claim(0..4, false).is_none(), "the buffer is gone");
    }
}
