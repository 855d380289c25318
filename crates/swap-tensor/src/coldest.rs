//! Which copies go to the lower tier first.

use crate::{
    SlotState,
    books::Books,
    device::{DeviceIndex, Spot},
    entry::Entry,
    lower::PACK,
    policy::Tier,
    rule::{For, Rule},
};
use core::cmp::Ordering;
use pinned_host::Transfer;

impl<T: Transfer> Books<T> {
    /// Whether a schedule says that what is on the first device is needed later than all that the host tier could write to disk in
    /// its stead: it would only come to be the next to go there. The host tier has the order of that device.
    pub(crate) fn outlasts_the_host(&mut self, Spot { at, on }: Spot) -> bool {
        let Books { rules, entries, .. } = self;
        let rule = &mut rules[on];
        let waits = |rule: &Rule, at| rule.next_use(at).unwrap_or(u64::MAX);
        if on != DeviceIndex::FIRST || !rule.follows() {
            return false;
        }
        let coldest =
            rule.first(Tier::Host, For::Lease, |other| entries[other as usize].may_spill().then_some(other));
        // What matters less goes first, whenever it is needed.
        coldest.is_none_or(|other| match rule.priority(at).cmp(&rule.priority(other)) {
            Ordering::Equal => waits(rule, at) > waits(rule, other),
            lower => lower == Ordering::Less,
        })
    }

    /// The coldest host copy that is the only one of its tensor and that nobody works with.
    ///
    /// Several if it is smaller than `small`: the next such ones, up to a pack.
    pub(crate) fn next_to_spill(&mut self, small: u64) -> Vec<u32> {
        let Books { rules, entries, .. } = self;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        rules[DeviceIndex::FIRST].first(Tier::Host, For::Lease, |at| {
            let entry = &entries[at as usize];
            if !entry.may_spill() {
                return None;
            }
            match batch.is_empty() {
                true => {
                    batch.push(at);
                    bytes += entry.padded;
                    // Small ones go together: a device takes one large write in the time of a few small ones.
                    (entry.padded >= small).then_some(())
                }
                false if entry.padded < small => {
                    batch.push(at);
                    bytes += entry.padded;
                    (bytes >= PACK || batch.len() >= MOST).then_some(())
                }
                false => None,
            }
        });
        batch
    }
}

impl<T: Transfer> Entry<T> {
    /// Whether its host copy is the only one below the devices, and nobody works with it.
    fn may_spill(&self) -> bool {
        let alone = self.host.state == SlotState::Valid && self.host.slice.is_some();
        alone && self.is_idle() && self.jobs == 0 && self.disk.copy().is_none() && self.live
    }
}

/// The most tensors in a pack.
const MOST: usize = 1024;

#[cfg(all(test, feature = "cpu"))]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]
mod tests {
    #[cfg(feature = "disk")]
    use crate::spill::Then;
    use crate::{
        DType, DeviceIndex, SwapPool, Tensor, TensorSpec,
        device::Spot,
        policy::{Priority, State},
    };
    use backend_cpu::CpuDevice;
    use std::time::{Duration, Instant};

    #[test]
    #[cfg(feature = "disk")]
    fn what_is_needed_last_goes_to_disk_itself_and_else_the_host_makes_room() {
        let store = crate::disk::DiskConfig::new(std::env::temp_dir(), 64 << 16).open().unwrap();
        let pool = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(4 << 16).host_memory(8 << 16);
        let pool = pool.schedule(true).disk(store).build().unwrap();
        let [a, b, c, d] = four(&pool);
        // `a` and `b` are on the device alone, `c` and `d` in host memory, and `c` is next.
        [&a, &b].into_iter().for_each(|tensor| use_it(&pool, tensor));
        let spilled = |tensor: &Tensor<CpuDevice>| {
            let spot = Spot { at: tensor.at(), on: DeviceIndex::FIRST };
            assert!(pool.inner.spill_for(&mut pool.inner.lock(), spot, Then::Leave));
            pool.settle().unwrap();
            let books = pool.inner.lock();
            [&a, &b, &c, &d].map(|tensor| books.entry(tensor.at()).disk.copy().is_some())
        };
        assert_eq!(spilled(&b), [false, true, false, false]);
        // Now `d` is next, then `a`, and of `b` host memory has the contents.
        use_it(&pool, &c);
        b.load(&[5; 1 << 16]).unwrap();
        pool.settle().unwrap();
        // Small ones go together with what comes next.
        assert_eq!(spilled(&a)[..2], [false, true], "host memory has what is needed later");
    }

    /// Tensors of which a schedule knows the order, all in host memory, before the first of them is used.
    fn four(pool: &SwapPool<CpuDevice>) -> [Tensor<CpuDevice>; 4] {
        let make = |name| pool.create(TensorSpec::new(name, DType::U8, [1 << 16]).unwrap(), &[1; 1 << 16]);
        let tensors = ["a", "b", "c", "d"].map(|name| make(name).unwrap());
        pool.mark_step();
        tensors.iter().for_each(|tensor| use_it(pool, tensor));
        pool.mark_step();
        let until = Instant::now() + Duration::from_secs(20);
        while pool.schedule_state() != Some(State::Following) {
            assert!(Instant::now() < until, "{:?}", pool.schedule_state());
            std::thread::yield_now();
        }
        tensors.iter().for_each(|tensor| tensor.load(&[2; 1 << 16]).unwrap());
        tensors
    }

    /// Its contents are on the device alone then.
    fn use_it(pool: &SwapPool<CpuDevice>, tensor: &Tensor<CpuDevice>) {
        drop(tensor.write().unwrap());
        pool.settle().unwrap();
    }

    /// What has its only copy on the device, and is used after all that host memory could do without, needs no place there.
    #[test]
    fn what_a_schedule_needs_last_outlasts_the_host() {
        let pool = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(4 << 16).host_memory(8 << 16);
        let pool = pool.schedule(true).build().unwrap();
        let outlasts = |tensor: &Tensor<CpuDevice>| {
            pool.inner.lock().outlasts_the_host(Spot { at: tensor.at(), on: DeviceIndex::FIRST })
        };
        let [a, b, c, d] = four(&pool);
        // Host memory has all but `b`, written just now, of which only the device has the contents.
        use_it(&pool, &a);
        a.load(&[3; 1 << 16]).unwrap();
        use_it(&pool, &b);
        assert_eq!([&a, &b, &c, &d].map(outlasts), [false, true, false, false]);
        b.set_priority(Priority::HIGH);
        assert!(!outlasts(&b), "host memory has what matters less");
        [&b, &d].into_iter().for_each(|tensor| tensor.set_priority(Priority::LOW));
        assert_eq!([&b, &c, &d].map(outlasts), [true, false, false]);
        [&b, &d].into_iter().for_each(|tensor| tensor.set_priority(Priority::NORMAL));
        // From here on `a` comes later than `b`.
        [&c, &d].into_iter().for_each(|tensor| use_it(&pool, tensor));
        pool.mark_step();
        b.load(&[4; 1 << 16]).unwrap();
        c.load(&[4; 1 << 16]).unwrap();
        use_it(&pool, &a);
        assert_eq!([&a, &b, &c, &d].map(outlasts), [true, false, false, true]);
        let fresh = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(1 << 16).host_memory(1 << 16);
        let fresh = fresh.schedule(true).build().unwrap();
        let only = fresh.create(TensorSpec::new("a", DType::U8, [64]).unwrap(), &[1; 64]).unwrap();
        let spot = Spot { at: only.at(), on: DeviceIndex::FIRST };
        assert!(!fresh.inner.lock().outlasts_the_host(spot), "nothing is known of the order");
    }
}
