//! The leases that are open now: on what, for what, since when, and where in the program each was taken.

use crate::{DeviceIndex, Mode, TensorSpec};
use std::{
    fmt,
    panic::Location,
    sync::Arc,
    time::{Duration, Instant},
};

/// A lease that is open: it holds its tensor's room on the device until it ends.
///
/// ```text
/// "layer.3" (write lease of 4096 bytes, for 12.3s, taken at src/train.rs:41:28)
/// "layer.9" (read lease of 4096 bytes on device 1, for 0.8s, taken at src/train.rs:44:28)
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OpenLease {
    /// The tensor leased.
    pub tensor: TensorSpec,
    /// What for.
    pub mode: Mode,
    /// Where.
    pub device: DeviceIndex,
    /// How long ago it was taken.
    pub age: Duration,
    /// Where the program took it.
    pub taken_at: &'static Location<'static>,
}

impl fmt::Display for OpenLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            Mode::Read => "read",
            Mode::Write => "write",
        };
        let (name, bytes) = (self.tensor.name(), self.tensor.bytes());
        write!(f, "{name:?} ({mode} lease of {bytes} bytes")?;
        if self.device != DeviceIndex::FIRST {
            write!(f, " on device {}", self.device)?;
        }
        write!(f, ", for {:.1?}, taken at {})", self.age, self.taken_at)
    }
}

/// The open leases of a pool: slots that are used again, those in use linked from the oldest to the youngest.
///
/// ```text
/// slots   [ open ] [ free ] [ open ] [ open ]
///            ▲  ╲______________▲ ╲_____▲
///          oldest                    youngest        free: a list through `younger`
/// ```
#[derive(Debug)]
pub(crate) struct OpenLeases {
    slots: Vec<Slot>,
    /// First free slot; `NONE` iff there is none.
    free: u32,
    /// `NONE` iff no lease is open.
    oldest: u32,
    youngest: u32,
    open: usize,
}

/// Names an open lease; one that was closed names nothing, also when its slot is in use again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseId {
    slot: u32,
    turn: u32,
}

#[derive(Debug)]
struct Slot {
    /// Raised each time the slot is freed.
    turn: u32,
    /// `Some` iff the slot is in use.
    lease: Option<Taken>,
    older: u32,
    /// The next free one, of a slot that is not in use.
    younger: u32,
}

#[derive(Debug)]
struct Taken {
    spec: Arc<TensorSpec>,
    mode: Mode,
    device: DeviceIndex,
    since: Instant,
    place: &'static Location<'static>,
}

impl OpenLeases {
    pub(crate) fn new() -> Self {
        OpenLeases { slots: Vec::new(), free: NONE, oldest: NONE, youngest: NONE, open: 0 }
    }

    /// Enters a lease that was just given. O(1); allocates only if more are open than ever before.
    pub(crate) fn open(
        &mut self,
        spec: &Arc<TensorSpec>,
        (mode, device): (Mode, DeviceIndex),
        since: Instant,
        place: &'static Location<'static>,
    ) -> LeaseId {
        let lease = Some(Taken { spec: Arc::clone(spec), mode, device, since, place });
        let older = self.youngest;
        let at = self.free;
        let (slot, turn) = match self.slots.get_mut(at as usize) {
            Some(slot) => {
                self.free = slot.younger;
                (slot.lease, slot.older, slot.younger) = (lease, older, NONE);
                (at, slot.turn)
            }
            None => {
                self.slots.push(Slot { turn: 0, lease, older, younger: NONE });
                ((self.slots.len() - 1) as u32, 0)
            }
        };
        match self.slots.get_mut(older as usize) {
            Some(before) => before.younger = slot,
            None => self.oldest = slot,
        }
        self.youngest = slot;
        self.open += 1;
        LeaseId { slot, turn }
    }

    /// Strikes a lease that ended off the list; `false` if it was before. O(1).
    pub(crate) fn close(&mut self, id: LeaseId) -> bool {
        let Some(slot) = self.slots.get_mut(id.slot as usize).filter(|slot| slot.turn == id.turn) else {
            return false;
        };
        if slot.lease.take().is_none() {
            return false;
        }
        slot.turn = slot.turn.wrapping_add(1);
        let (older, younger) = (slot.older, slot.younger);
        slot.younger = self.free;
        self.free = id.slot;
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.younger = younger,
            None => self.oldest = younger,
        }
        match self.slots.get_mut(younger as usize) {
            Some(slot) => slot.older = older,
            None => self.youngest = older,
        }
        self.open -= 1;
        true
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open
    }

    /// Whether one on this tensor is open on a device. O(open leases).
    pub(crate) fn is_open(&self, spec: &Arc<TensorSpec>, on: DeviceIndex) -> bool {
        let is_on = |lease: &Taken| Arc::ptr_eq(&lease.spec, spec) && lease.device == on;
        self.slots.iter().any(|slot| slot.lease.as_ref().is_some_and(is_on))
    }

    /// Those that are open, the oldest first.
    pub(crate) fn list(&self, now: Instant) -> Vec<OpenLease> {
        self.iter(now).collect()
    }

    /// The oldest few of those that are `wanted`.
    pub(crate) fn oldest(
        &self,
        wanted: impl Fn(&OpenLease) -> bool,
        most: usize,
        now: Instant,
    ) -> Vec<OpenLease> {
        self.iter(now).filter(wanted).take(most).collect()
    }

    fn iter(&self, now: Instant) -> impl Iterator<Item = OpenLease> + '_ {
        let mut at = self.oldest;
        core::iter::from_fn(move || {
            let slot = self.slots.get(at as usize)?;
            at = slot.younger;
            let Taken { spec, mode, device, since, place } = slot.lease.as_ref()?;
            let tensor = TensorSpec::clone(spec);
            let age = now.saturating_duration_since(*since);
            Some(OpenLease { tensor, mode: *mode, device: *device, age, taken_at: place })
        })
    }
}

const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use proptest::prelude::*;

    fn spec(name: &str) -> Arc<TensorSpec> {
        Arc::new(TensorSpec::new(name, DType::U8, [8]).unwrap())
    }

    #[track_caller]
    fn take(leases: &mut OpenLeases, name: &str, at: Instant) -> LeaseId {
        leases.open(&spec(name), (Mode::Read, DeviceIndex::FIRST), at, Location::caller())
    }

    fn names(leases: &[OpenLease]) -> Vec<&str> {
        leases.iter().map(|lease| lease.tensor.name()).collect()
    }

    #[test]
    fn they_are_listed_by_name_age_and_place() {
        let (mut leases, zero) = (OpenLeases::new(), Instant::now());
        let line = line!() + 2;
        let first = DeviceIndex::FIRST;
        let a = leases.open(&spec("a \"b\""), (Mode::Write, first), zero, Location::caller());
        take(&mut leases, "c", zero + Duration::from_secs(2));
        let list = leases.list(zero + Duration::from_secs(3));
        assert_eq!((names(&list), leases.len()), (vec!["a \"b\"", "c"], 2));
        assert_eq!(
            (list[0].mode, list[0].age, list[0].taken_at.line()),
            (Mode::Write, Duration::from_secs(3), line)
        );
        assert!(list[0].taken_at.file().ends_with("leases.rs"));
        let said = list[0].to_string();
        assert!(said.starts_with("\"a \\\"b\\\"\" (write lease of 8 bytes, for 3.0s, taken at "), "{said}");
        assert!(leases.close(a));
        assert_eq!(names(&leases.list(zero)), ["c"]);
        leases.open(&spec("d"), (Mode::Read, DeviceIndex::new(2)), zero, Location::caller());
        let said = leases.list(zero)[1].to_string();
        assert!(said.starts_with("\"d\" (read lease of 8 bytes on device 2, for "), "{said}");
    }

    #[test]
    fn a_lease_is_closed_once() {
        let (mut leases, now) = (OpenLeases::new(), Instant::now());
        let a = take(&mut leases, "a", now);
        assert!(leases.close(a) && !leases.close(a));
        let b = take(&mut leases, "b", now);
        assert_eq!(a.slot, b.slot, "the slot is used again");
        assert!(!leases.close(a), "and the old name is not the new lease");
        assert_eq!(names(&leases.list(now)), ["b"]);
    }

    #[test]
    fn the_oldest_few_of_all_or_of_one_tensor() {
        let (mut leases, now) = (OpenLeases::new(), Instant::now());
        for name in ["a", "b", "a", "c", "a"] {
            take(&mut leases, name, now);
        }
        assert_eq!(names(&leases.oldest(|_| true, 3, now)), ["a", "b", "a"]);
        assert_eq!(names(&leases.oldest(|lease| lease.tensor.name() == "c", 3, now)), ["c"]);
        assert_eq!(leases.oldest(|lease| lease.tensor.name() == "a", 9, now).len(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_keeps_the_order_of_a_plain_list(ops in prop::collection::vec((any::<bool>(), 0usize..8), 0..200)) {
            let (mut leases, mut model, now) = (OpenLeases::new(), Vec::new(), Instant::now());
            let mut most = 0;
            for (i, (open, which)) in ops.into_iter().enumerate() {
                if open {
                    let name = i.to_string();
                    model.push((take(&mut leases, &name, now), name));
                } else if !model.is_empty() {
                    let (id, _) = model.remove(which % model.len());
                    prop_assert!(leases.close(id));
                }
                most = most.max(model.len());
                let list = leases.list(now);
                prop_assert_eq!(names(&list), model.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>());
                prop_assert_eq!(leases.len(), model.len());
                prop_assert_eq!(leases.slots.len(), most);
            }
        }
    }
}
