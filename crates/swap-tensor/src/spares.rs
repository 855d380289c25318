//! Host copies that nothing depends on: what host memory gives up first.

use crate::{SlotState, books::Books, device::Spot, entry::Busy, policy::recency::Recency};
use pinned_host::Transfer;

/// Tensors whose host copy may be spare, in the order in which that came to be.
///
/// All that are, and some that are not any more: each is looked at again when its turn comes, and taken off then. So a search costs
/// O(1), amortised over what put them here, beside those in flight; not a walk over all host copies.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    /// Of an older version.
    stale: Recency,
    /// Of which another tier may have the same.
    twins: Recency,
}

impl Spares {
    pub(crate) fn stale(&mut self, at: u32) {
        self.twins.remove(at);
        self.stale.touch(at);
    }

    pub(crate) fn twin(&mut self, at: u32) {
        self.stale.remove(at);
        self.twins.touch(at);
    }

    pub(crate) fn remove(&mut self, at: u32) {
        self.stale.remove(at);
        self.twins.remove(at);
    }

    /// Whether a search would come by it.
    pub(crate) fn has(&self, at: u32) -> bool {
        self.stale.contains(at) || self.twins.contains(at)
    }
}

/// Whether a host copy can be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spare {
    Yes,
    /// Perhaps, when what is in flight has ended.
    NotYet,
    No,
}

impl<T: Transfer> Books<T> {
    /// The host copy became Valid, or a copy in another tier beside it: one of them may be spare now.
    pub(crate) fn twinned(&mut self, at: u32) {
        if self.entry(at).host.state == SlotState::Valid {
            self.spares.twin(at);
        }
    }

    /// A valid host copy is of an older version from now on.
    pub(crate) fn outdate_host(&mut self, at: u32) {
        let host = &mut self.entry_mut(at).host.state;
        if *host == SlotState::Valid {
            host.step(SlotState::Stale);
        }
        if *host == SlotState::Stale {
            self.spares.stale(at);
        }
    }

    /// Whether nothing depends on a host copy and nobody works with it: a stale one, or one that a file, the lower tier or a device
    /// also holds.
    pub(crate) fn is_spare_in_host(&self, at: u32) -> bool {
        self.spare(at) == Spare::Yes
    }

    fn spare(&self, at: u32) -> Spare {
        let entry = self.entry(at);
        let on_device = || entry.devices.iter().filter(|(_, slot)| slot.state == SlotState::Valid);
        let unchanging = || on_device().any(|(on, _)| !self.is_changing(Spot { at, on }));
        let settled = match entry.host.state {
            SlotState::Stale => true,
            SlotState::Valid if entry.file_is_valid() || entry.disk.copy().is_some() => true,
            SlotState::Valid if on_device().next().is_some() => unchanging(),
            _ => return Spare::No,
        };
        match settled && entry.host.slice.is_some() && entry.busy == Busy::No {
            true => Spare::Yes,
            false => Spare::NotYet,
        }
    }

    /// Frees host memory that nothing depends on; `false`: there is none.
    ///
    /// A stale copy is worth nothing. One of a tensor on the device saves a write-back when the tensor leaves: the last that came
    /// there leaves last.
    pub(crate) fn drop_spare_host_copy(&mut self) -> bool {
        let found = self
            .find_spare(|spares| &mut spares.stale)
            .or_else(|| self.find_spare(|spares| &mut spares.twins));
        found.inspect(|&at| self.drop_host_copy(at)).is_some()
    }

    fn find_spare(&mut self, list: fn(&mut Spares) -> &mut Recency) -> Option<u32> {
        let mut next = list(&mut self.spares).newest();
        while let Some(at) = next {
            next = list(&mut self.spares).older(at);
            match self.spare(at) {
                Spare::Yes => return Some(at),
                Spare::NotYet => {}
                Spare::No => drop(list(&mut self.spares).remove(at)),
            }
        }
        None
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{DType, SlotState, SwapPool, TensorSpec};
    use backend_cpu::CpuDevice;

    #[test]
    fn a_copy_is_found_again_whenever_it_comes_to_be_spare() {
        let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(1 << 16);
        let pool = builder.host_memory(1 << 16).build().unwrap();
        let [a, b] = ["a", "b"]
            .map(|name| pool.create(TensorSpec::new(name, DType::U8, [64]).unwrap(), &[1; 64]).unwrap());
        let drops = || pool.inner.lock().drop_spare_host_copy();
        let in_host = |tensor: &crate::Tensor<_>| pool.inner.lock().entry(tensor.at()).host.state;
        assert!(!drops() && !drops(), "they are the only copies");
        for tensor in [&a, &b] {
            tensor.read().unwrap().wait().unwrap();
            pool.check().unwrap();
        }
        assert!(drops());
        assert_eq!([in_host(&a), in_host(&b)], [SlotState::Valid, SlotState::Absent], "the last that came");
        assert!(a.evict() && !drops(), "the only copy again");
        drop(a.write().unwrap());
        pool.settle().unwrap();
        assert_eq!(in_host(&a), SlotState::Stale);
        pool.check().unwrap();
        assert!(drops() && !drops());
        // Written back, and still on the device.
        a.swap_out().unwrap();
        pool.check().unwrap();
        a.read().unwrap().wait().unwrap();
        pool.check().unwrap();
        assert!(drops() && in_host(&a) == SlotState::Absent);
    }
}
