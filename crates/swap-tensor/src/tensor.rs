//! The handle of a tensor.

use crate::{
    Residency, SlotState, SwapError, TensorSpec,
    fill::Want,
    hold::Hold,
    lease::{Lease, Mode, ReadLease, WriteLease},
    lock::Guard,
    lower::LowerCopy,
    observe::{Kind, Reason},
    policy::Priority,
    pool::Inner,
    request::{self, LeaseRequest, Wanted},
    spill::Spill,
};
use pinned_host::{HostError, Transfer};
use std::{
    panic::Location,
    sync::{Arc, atomic::AtomicBool},
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
    /// It waits for the fetching thread.
    pub(crate) wished: AtomicBool,
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

    /// A lease for reading, on the pool's default queue. See [`read_on`](Self::read_on).
    ///
    /// # Errors
    /// As `read_on`.
    #[track_caller]
    pub fn read(&self) -> Result<ReadLease<T>, SwapError> {
        Lease::read(self, &self.inner().queue)
    }

    /// A lease for writing, on the pool's default queue. See [`write_on`](Self::write_on).
    ///
    /// # Errors
    /// As `write_on`.
    #[track_caller]
    pub fn write(&self) -> Result<WriteLease<T>, SwapError> {
        Lease::write(self, &self.inner().queue)
    }

    /// Brings the tensor to the device, evicting others if need be, and leases it for reading on `queue`.
    ///
    /// # Errors
    /// [`SwapError::NoValidCopy`]; [`SwapError::Leased`] or [`SwapError::DeviceBudget`] when others do not make way
    /// within the pool's deadline; [`SwapError::HostBudget`] when a dirty tensor would have to leave and cannot; the
    /// device's or a file's error. Nothing is lost and nothing held then.
    #[track_caller]
    pub fn read_on(&self, queue: &T::Queue) -> Result<ReadLease<T>, SwapError> {
        Lease::read(self, queue)
    }

    /// Like [`read_on`](Self::read_on), for reading and writing, alone. The tensor is dirty from then on.
    ///
    /// # Errors
    /// As `read_on`.
    #[track_caller]
    pub fn write_on(&self, queue: &T::Queue) -> Result<WriteLease<T>, SwapError> {
        Lease::write(self, queue)
    }

    /// Like [`write_on`](Self::write_on) on the pool's default queue, but the old contents are not brought in, and the caller
    /// writes all of them: through the lease, or by work whose event [`finish`](WriteLease::finish) is given. A lease that is
    /// dropped without either leaves the copy torn.
    ///
    /// # Errors
    /// As `write_on`, except that no valid copy is needed.
    #[track_caller]
    pub fn overwrite(&self) -> Result<WriteLease<T>, SwapError> {
        Lease::overwrite(self, &self.inner().queue)
    }

    /// A request for a read lease: awaited by a task, or waited for with [`LeaseRequest::wait`].
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
        let wanted = vec![Wanted { token: Arc::clone(&self.token), mode, want, place: Location::caller() }];
        LeaseRequest::new(&self.token.inner, wanted, make)
    }

    /// Brings the tensor to the device and returns when it is there.
    ///
    /// # Errors
    /// As [`read_on`](Self::read_on).
    #[track_caller]
    pub fn to_device(&self) -> Result<(), SwapError> {
        self.read()?.wait()
    }

    /// Copies the current contents to `into`, from whichever tier has them; the tensor moves nowhere.
    ///
    /// # Errors
    /// A length that is not the tensor's, or as [`read_on`](Self::read_on).
    #[track_caller]
    pub fn copy_to(&self, into: &mut [u8]) -> Result<(), SwapError> {
        self.token.check_length(into.len())?;
        match self.borrow_below()? {
            Below::Nothing => self.read()?.download(into),
            below => self.read_below(below, into),
        }
    }

    /// Replaces the contents by `data`, in the host tier; on the device if the host tier has no room.
    ///
    /// # Errors
    /// A length that is not the tensor's; leases that do not end; no room in either tier.
    pub fn load(&self, data: &[u8]) -> Result<(), SwapError> {
        self.token.check_length(data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        match self.load_to_host(data) {
            Err(SwapError::HostBudget { .. }) => self.load_to_device(data),
            other => other,
        }
    }

    /// Makes sure a valid copy lies below and gives the device room back.
    ///
    /// # Errors
    /// [`SwapError::Leased`] when leases or pins do not end in time; no host room, or the copy fails, or [`SwapError::Timeout`] when
    /// others write to the tensor all the time: the device copy stays then.
    pub fn swap_out(&self) -> Result<(), SwapError> {
        let inner = self.inner();
        let (since, mut books) = (Instant::now(), inner.lock());
        let mut tried = false;
        let failures = books.counters.failed_transfers;
        loop {
            books.reap();
            let entry = books.entry(self.at());
            if entry.padded == 0 || !entry.device.state.holds_room() {
                return Ok(());
            }
            if !entry.idle() || entry.jobs > 0 {
                books = inner.wait_for_tensor(books, self.at(), since)?;
                continue;
            }
            if entry.valid_below() {
                if !books.release_device(self.at()) {
                    let error = books.entry(self.at()).leased(since.elapsed());
                    return Err(error);
                }
                books.counters.evictions += 1;
                inner.probe.evicted(self.spec(), books.entry(self.at()).padded, Reason::Asked);
                inner.wake(&books);
                return Ok(());
            }
            if entry.device.state != SlotState::Valid {
                return Err(entry.no_valid_copy());
            }
            if core::mem::replace(&mut tried, true) {
                if let Some(fault) = books.fault.take() {
                    return Err(fault);
                }
                // Somebody else was told, or wrote to the tensor meanwhile: another try.
                let waited = since.elapsed();
                if waited >= inner.patience {
                    return Err(SwapError::Timeout { operation: "swap a tensor out", waited });
                }
            }
            match inner.write_back(&mut books, self.at()) {
                Ok(()) => {}
                Err(full @ SwapError::HostBudget { .. }) => {
                    if books.counters.failed_transfers > failures {
                        return Err(books.fault.take().unwrap_or(full));
                    }
                    if since.elapsed() >= inner.patience || !inner.spill_for(&mut books, self.at()) {
                        return Err(full);
                    }
                    // Host copies make way first, or the device copy goes below directly: another look when that is done.
                    tried = books.entry(self.at()).device.leaving;
                    books = inner.sleep(books, since + inner.patience);
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Gives the device room back if that costs nothing: `false` if the tensor is leased, pinned, dirty or in flight.
    pub fn evict(&self) -> bool {
        let mut books = self.inner().lock();
        books.reap();
        let entry = books.entry(self.at());
        let resident = entry.device.state == SlotState::Valid;
        if !resident || !entry.idle() || entry.jobs > 0 || !entry.valid_below() {
            return false;
        }
        if !books.release_device(self.at()) {
            return false;
        }
        books.counters.evictions += 1;
        self.inner().probe.evicted(self.spec(), books.entry(self.at()).padded, Reason::Asked);
        self.inner().wake(&books);
        true
    }

    /// How important it is that the tensor stays in its tier: among those of one priority the pool's policy decides.
    pub fn priority(&self) -> Priority {
        self.inner().lock().rule.priority(self.at())
    }

    /// Sets [`priority`](Self::priority). A tensor of a higher one leaves only when none of a lower one can.
    pub fn set_priority(&self, priority: Priority) {
        self.inner().lock().rule.set_priority(self.at(), priority);
    }

    /// Brings the tensor to the device and keeps it there until [`unpin`](Self::unpin). Pins count; a pinned block may
    /// still move inside the arena between leases.
    ///
    /// # Errors
    /// As [`read_on`](Self::read_on).
    #[track_caller]
    pub fn pin(&self) -> Result<(), SwapError> {
        let lease = self.read()?;
        lease.wait()?;
        self.inner().lock().entry_mut(self.at()).pins += 1;
        drop(lease);
        Ok(())
    }

    /// Takes one pin back; `false` if there was none.
    pub fn unpin(&self) -> bool {
        let mut books = self.inner().lock();
        let entry = books.entry_mut(self.at());
        if entry.pins == 0 {
            return false;
        }
        entry.pins -= 1;
        let (held, padded) = (entry.held(), entry.padded);
        if !held {
            books.held -= padded;
            books.rule.released(self.at());
            self.inner().poke(&mut books);
        }
        self.inner().wake(&books);
        true
    }

    pub(crate) fn at(&self) -> u32 {
        self.token.at
    }

    fn inner(&self) -> &Inner<T> {
        &self.token.inner
    }

    /// The copy below the device, if it is current; a host copy is taken out for the time of the read.
    fn borrow_below(&self) -> Result<Below<T>, SwapError> {
        let inner = self.inner();
        let (since, mut books) = (Instant::now(), inner.lock());
        loop {
            books.reap();
            let entry = books.entry_mut(self.at());
            let on_device = entry.device.state == SlotState::Valid || entry.padded == 0;
            if !entry.writer && !entry.busy {
                if entry.host.state == SlotState::Valid {
                    if let Some(slice) = entry.host.slice.take() {
                        entry.busy = true;
                        return Ok(Below::Host(slice));
                    }
                } else if let (Some(copy), false) = (entry.disk.copy(), on_device) {
                    return Ok(Below::Lower(copy.clone()));
                } else if entry.file_is_valid() && !on_device {
                    if let Some(file) = entry.file.clone() {
                        return Ok(Below::File(file));
                    }
                } else {
                    return Ok(Below::Nothing);
                }
            }
            // A writer, another reader, or an upload that has the slice: each ends by itself.
            books = inner.wait_for_tensor(books, self.at(), since)?;
        }
    }

    fn read_below(&self, below: Below<T>, into: &mut [u8]) -> Result<(), SwapError> {
        match below {
            Below::Nothing => Ok(()),
            Below::Lower(copy) => self.inner().read_lower(&copy, &self.token.spec, into),
            Below::File(copy) => {
                let bytes = into.len() as u64;
                self.inner().probe.io(Kind::FileRead, &self.token.spec, bytes, || {
                    copy.file.check_unchanged()?;
                    copy.file.read_exact_at(into, copy.offset)?;
                    copy.file.check_unchanged()
                })?;
                self.inner().lock().counters.file_bytes += bytes;
                Ok(())
            }
            Below::Host(slice) => {
                into.copy_from_slice(&slice.as_slice()[..into.len()]);
                let mut books = self.inner().lock();
                let entry = books.entry_mut(self.at());
                entry.host.slice = Some(slice);
                entry.busy = false;
                self.inner().wake(&books);
                Ok(())
            }
        }
    }

    fn load_to_host(&self, data: &[u8]) -> Result<(), SwapError> {
        let inner = self.inner();
        let (since, mut books) = (Instant::now(), inner.lock());
        let mut slice = loop {
            if !books.entry(self.at()).may_load() {
                books = inner.wait_for_tensor(books, self.at(), since)?;
                books.reap();
                continue;
            }
            match (inner.host_slice(&mut books, self.at()), books.job_in_flight()) {
                (Ok(slice), _) => break slice,
                // The memory of a copy that can be spared is with its transfer.
                (Err(SwapError::HostBudget { source: HostError::Full { .. }, .. }), Some(event))
                    if since.elapsed() < inner.deadline =>
                {
                    books = inner.wait_for(books, &event);
                }
                (Err(error), _) => return Err(error),
            }
        };
        let entry = books.entry_mut(self.at());
        // Nobody reads the old contents while the new ones come in; if only the host had them, they are gone now.
        entry.busy = true;
        entry.host.state.step(SlotState::Filling);
        drop(books);
        slice.as_mut_slice()[..data.len()].copy_from_slice(data);
        let mut books = inner.lock();
        let entry = books.entry_mut(self.at());
        entry.host.slice = Some(slice);
        entry.host.state.step(SlotState::Valid);
        entry.version += 1;
        entry.busy = false;
        entry.disk.outdate();
        books.enter_host(self.at());
        let entry = books.entry_mut(self.at());
        if entry.device.state == SlotState::Valid {
            entry.device.state.step(SlotState::Stale);
        }
        if entry.held() {
            // Pinned: the room stays, and the next use brings the new contents in.
            inner.wake(&books);
            return Ok(());
        }
        books.release_device(self.at());
        inner.wake(&books);
        Ok(())
    }

    fn load_to_device(&self, data: &[u8]) -> Result<(), SwapError> {
        self.overwrite()?.upload(data)
    }
}

impl<T: Transfer> Inner<T> {
    /// Waits for whatever uses the tensor: its transfer, or somebody's lease until the pool's deadline.
    fn wait_for_tensor<'a>(
        &'a self,
        books: Guard<'a, T>,
        at: u32,
        since: Instant,
    ) -> Result<Guard<'a, T>, SwapError> {
        let entry = books.entry(at);
        let working = entry.busy || entry.spill != Spill::No;
        let patience = if working { self.patience } else { self.deadline };
        match books.job_of(at) {
            Some(event) => Ok(self.wait_for(books, &event)),
            None if since.elapsed() < patience => Ok(self.sleep(books, since + patience)),
            None => Err(books.name_holders(books.entry(at).leased(since.elapsed()))),
        }
    }
}

/// The copy below the device.
enum Below<T: Transfer> {
    Host(pinned_host::SliceOf<T>),
    Lower(LowerCopy),
    File(crate::file::FileCopy),
    Nothing,
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
