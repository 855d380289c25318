//! The handle of a tensor.

use crate::{
    DeviceIndex, Residency, SlotState, SwapError, TensorSpec,
    books::may_leave,
    device::Spot,
    down::Descent,
    entry::Busy,
    fill::Want,
    hold::Hold,
    lease::{Lease, Mode, ReadLease, WriteLease},
    lock::Guard,
    observe::Reason,
    policy::Priority,
    pool::Inner,
    request::{self, LeaseRequest, Wanted},
    spill::{Spill, Then},
};
use pinned_host::Transfer;
use std::{
    panic::Location,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

/// A tensor of a pool. Cloning is cheap and names the same tensor; its copies go when the last clone does.
pub struct Tensor<T: Transfer> {
    pub(crate) token: Arc<Token<T>>,
}

/// What every clone of a handle, and every lease, shares.
pub(crate) struct Token<T: Transfer> {
    pub(crate) inner: Arc<Inner<T>>,
    pub(crate) at: u32,
    pub(crate) spec: Arc<TensorSpec>,
    /// The devices for which it waits for a fetching thread, a bit each.
    pub(crate) wished: AtomicU64,
}

impl<T: Transfer> Tensor<T> {
    /// Name, dtype and shape.
    pub fn spec(&self) -> &TensorSpec {
        &self.token.spec
    }

    /// Where its current version can be read, fastest tier first.
    pub fn residency(&self) -> Residency {
        let mut books = self.inner().lock();
        books.reap();
        books.entry(self.at()).residency()
    }

    /// The state of its copy on a device.
    ///
    /// # Errors
    /// [`SwapError::NoDevice`].
    pub fn state_at(&self, device: DeviceIndex) -> Result<SlotState, SwapError> {
        self.inner().check_device(device)?;
        let mut books = self.inner().lock();
        books.reap();
        Ok(books.slot(self.spot(device)).state)
    }

    /// A lease for reading, on the first device and its own queue. See [`read_on`](Self::read_on).
    ///
    /// # Errors
    /// As `read_on`.
    #[track_caller]
    pub fn read(&self) -> Result<ReadLease<T>, SwapError> {
        self.read_at(DeviceIndex::FIRST)
    }

    /// A lease for writing, on the first device and its own queue. See [`write_on`](Self::write_on).
    ///
    /// # Errors
    /// As `write_on`.
    #[track_caller]
    pub fn write(&self) -> Result<WriteLease<T>, SwapError> {
        self.write_at(DeviceIndex::FIRST)
    }

    /// Brings the tensor to the first device, evicting others if need be, and leases it for reading on `queue`.
    ///
    /// # Errors
    /// [`SwapError::NoValidCopy`]; [`SwapError::Leased`] or [`SwapError::DeviceBudget`] when others do not make way
    /// within the pool's deadline; [`SwapError::HostBudget`] when a dirty tensor would have to leave and cannot; the
    /// device's or a file's error. Nothing is lost and nothing held then.
    #[track_caller]
    pub fn read_on(&self, queue: &T::Queue) -> Result<ReadLease<T>, SwapError> {
        Lease::read(self, DeviceIndex::FIRST, Some(queue))
    }

    /// Like [`read_on`](Self::read_on), for reading and writing, alone. The tensor is dirty from then on.
    ///
    /// # Errors
    /// As `read_on`.
    #[track_caller]
    pub fn write_on(&self, queue: &T::Queue) -> Result<WriteLease<T>, SwapError> {
        Lease::write(self, (DeviceIndex::FIRST, Want::Contents), Some(queue))
    }

    /// Brings the tensor to `device`, and leases it for reading on that device's own queue; [`LeaseRequest::at`] and
    /// [`LeaseRequest::on`] name another.
    ///
    /// Several devices may have copies that are read at a time. What only another device has comes by way of host memory, and stays
    /// where it was.
    ///
    /// # Errors
    /// As [`read_on`](Self::read_on), and [`SwapError::HostBudget`] when host memory and the tier below have no room for a copy on
    /// its way from another device; [`SwapError::NoDevice`].
    #[track_caller]
    pub fn read_at(&self, device: DeviceIndex) -> Result<ReadLease<T>, SwapError> {
        Lease::read(self, device, None)
    }

    /// Like [`read_at`](Self::read_at), for reading and writing, alone on all devices: the copies on the others are stale from then
    /// on, and go.
    ///
    /// # Errors
    /// As `read_at`.
    #[track_caller]
    pub fn write_at(&self, device: DeviceIndex) -> Result<WriteLease<T>, SwapError> {
        Lease::write(self, (device, Want::Contents), None)
    }

    /// Like [`write_on`](Self::write_on) on the first device's own queue, but the old contents are not brought in, and the caller
    /// writes all of them: through the lease, or by work whose event [`finish`](WriteLease::finish) is given. A lease that is
    /// dropped without either leaves the copy torn.
    ///
    /// # Errors
    /// As `write_on`, except that no valid copy is needed.
    #[track_caller]
    pub fn overwrite(&self) -> Result<WriteLease<T>, SwapError> {
        Lease::write(self, (DeviceIndex::FIRST, Want::Room), None)
    }

    /// A request for a read lease: awaited by a task, or waited for with [`LeaseRequest::wait`]; on the first device, unless it is
    /// asked for [elsewhere](LeaseRequest::at).
    #[track_caller]
    pub fn lease(&self) -> LeaseRequest<T, ReadLease<T>> {
        self.request(Mode::Read, Want::Contents, request::one_read)
    }

    /// A request for a write lease, as [`write`](Self::write) gives it.
    #[track_caller]
    pub fn lease_mut(&self) -> LeaseRequest<T, WriteLease<T>> {
        self.request(Mode::Write, Want::Contents, request::one_write)
    }

    /// A request for a write lease whose holder writes all contents, as [`overwrite`](Self::overwrite) gives it.
    #[track_caller]
    pub fn lease_blank(&self) -> LeaseRequest<T, WriteLease<T>> {
        self.request(Mode::Write, Want::Room, request::one_write)
    }

    #[track_caller]
    fn request<L>(&self, mode: Mode, want: Want, make: fn(Vec<Hold<T>>) -> Option<L>) -> LeaseRequest<T, L> {
        let wanted = Wanted {
            token: Arc::clone(&self.token),
            on: DeviceIndex::FIRST,
            mode,
            want,
            queue: None,
            place: Location::caller(),
        };
        LeaseRequest::new(&self.token.inner, vec![wanted], make)
    }

    /// Brings the tensor to the first device and returns when it is there.
    ///
    /// # Errors
    /// As [`read_on`](Self::read_on).
    #[track_caller]
    pub fn to_device(&self) -> Result<(), SwapError> {
        self.read()?.wait()
    }

    /// Makes sure a valid copy lies below and gives the room on all devices back.
    ///
    /// # Errors
    /// [`SwapError::Leased`] when leases or pins do not end in time; no host room, or the copy fails, or [`SwapError::Timeout`] when
    /// others write to the tensor all the time: the device copy stays then.
    pub fn swap_out(&self) -> Result<(), SwapError> {
        let (inner, at) = (self.inner(), self.at());
        let (since, mut books) = (Instant::now(), inner.lock());
        let mut descent = Descent::new(since, Then::Leave);
        loop {
            books.reap();
            let entry = books.entry(at);
            if entry.padded == 0 || !entry.devices.values().any(|slot| slot.state.holds_room()) {
                return Ok(());
            }
            if !entry.is_idle() || entry.jobs > 0 {
                books = inner.wait_for_tensor(books, at, since)?;
                continue;
            }
            if entry.valid_below() {
                let gone = books.evict_everywhere(at);
                inner.wake(&books);
                return if gone { Ok(()) } else { Err(books.entry(at).leased(since.elapsed())) };
            }
            let Some(on) = entry.device_with_it() else { return Err(entry.no_valid_copy()) };
            let (guard, step) = inner.descend(books, Spot { at, on }, &mut descent);
            books = guard;
            step?;
        }
    }

    /// Gives the room on all devices back if that costs nothing: `false` if the tensor is on none, leased, pinned, dirty or in flight.
    pub fn evict(&self) -> bool {
        let mut books = self.inner().lock();
        books.reap();
        let entry = books.entry(self.at());
        let resident = entry.device_with_it().is_some();
        if !resident || !entry.is_idle() || entry.jobs > 0 || !entry.valid_below() {
            return false;
        }
        let gone = books.evict_everywhere(self.at());
        self.inner().wake(&books);
        gone
    }

    /// Gives the room on one device back if that costs nothing, as [`evict`](Self::evict) does: a good copy on another device is as
    /// good as one below. `false` also for a device that the pool has not.
    pub fn evict_at(&self, device: DeviceIndex) -> bool {
        if self.inner().check_device(device).is_err() {
            return false;
        }
        let spot = self.spot(device);
        let mut books = self.inner().lock();
        books.reap();
        let entry = books.entry(self.at());
        if !may_leave(&books.devices, entry, device)
            || !books.valid_elsewhere(spot)
            || !books.release_device(spot)
        {
            return false;
        }
        books.count_eviction(spot, Reason::Asked);
        self.inner().wake(&books);
        true
    }

    /// How important it is that the tensor stays in its tier: among those of one priority the pool's policy decides.
    pub fn priority(&self) -> Priority {
        self.inner().lock().rules[DeviceIndex::FIRST].priority(self.at())
    }

    /// Sets [`priority`](Self::priority). A tensor of a higher one leaves only when none of a lower one can.
    pub fn set_priority(&self, priority: Priority) {
        let mut books = self.inner().lock();
        books.rules.values_mut().for_each(|rule| rule.set_priority(self.at(), priority));
    }

    /// Brings the tensor to the first device and keeps it there until [`unpin`](Self::unpin). Pins count; a pinned block may
    /// still move inside the arena between leases.
    ///
    /// # Errors
    /// As [`read_on`](Self::read_on).
    #[track_caller]
    pub fn pin(&self) -> Result<(), SwapError> {
        self.pin_at(DeviceIndex::FIRST)
    }

    /// [`pin`](Self::pin) on another device. A pin holds room: if the tensor is written elsewhere, the new contents come to it
    /// with the next use there.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    #[track_caller]
    pub fn pin_at(&self, device: DeviceIndex) -> Result<(), SwapError> {
        let lease = self.read_at(device)?;
        lease.wait()?;
        self.inner().lock().slot_mut(self.spot(device)).pins += 1;
        drop(lease);
        Ok(())
    }

    /// Takes one pin on the first device back; `false` if there was none.
    pub fn unpin(&self) -> bool {
        self.unpin_at(DeviceIndex::FIRST)
    }

    /// Takes one pin on a device back; `false` if there was none, or no such device.
    pub fn unpin_at(&self, device: DeviceIndex) -> bool {
        if self.inner().check_device(device).is_err() {
            return false;
        }
        let spot = self.spot(device);
        let mut books = self.inner().lock();
        let pins = &mut books.slot_mut(spot).pins;
        if *pins == 0 {
            return false;
        }
        *pins -= 1;
        books.let_room_go(spot);
        books.drop_stale(spot.at);
        self.inner().poke(&mut books, device);
        self.inner().wake(&books);
        true
    }

    pub(crate) fn spot(&self, on: DeviceIndex) -> Spot {
        Spot { at: self.at(), on }
    }

    pub(crate) fn at(&self) -> u32 {
        self.token.at
    }

    pub(crate) fn inner(&self) -> &Inner<T> {
        &self.token.inner
    }
}

impl<T: Transfer> Inner<T> {
    /// Waits for whatever uses the tensor: its transfer, or somebody's lease until the pool's deadline.
    pub(crate) fn wait_for_tensor<'a>(
        &'a self,
        books: Guard<'a, T>,
        at: u32,
        since: Instant,
    ) -> Result<Guard<'a, T>, SwapError> {
        let entry = books.entry(at);
        let working = entry.busy != Busy::No || entry.spill != Spill::No;
        let patience = if working { self.patience } else { self.deadline };
        match books.job_of(at) {
            Some(event) => Ok(self.wait_for(books, &event)),
            None if since.elapsed() < patience => Ok(self.sleep(books, since + patience)),
            None => Err(books.name_holders(books.entry(at).leased(since.elapsed()))),
        }
    }
}

impl<T: Transfer> Token<T> {
    pub(crate) fn check_length(&self, given: usize) -> Result<(), SwapError> {
        let (expected, given) = (self.spec.bytes(), given as u64);
        if expected == given {
            return Ok(());
        }
        Err(SwapError::Length { name: self.spec.name().to_owned(), expected, given })
    }
}

impl<T: Transfer> Drop for Token<T> {
    fn drop(&mut self) {
        let mut books = self.inner.lock();
        books.reap();
        books.retire(self.at);
        self.inner.wake(&books);
    }
}

impl<T: Transfer> Clone for Tensor<T> {
    fn clone(&self) -> Self {
        Tensor { token: Arc::clone(&self.token) }
    }
}

impl<T: Transfer> std::fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tensor")
            .field("spec", &self.token.spec)
            .field("residency", &self.residency())
            .finish()
    }
}
