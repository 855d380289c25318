//! A tensor's contents between the program and whichever tier has them.

use crate::{
    DeviceIndex, SlotState, SwapError, Tensor, entry::Busy, file::FileCopy, lower::LowerCopy, observe::Kind,
};
use pinned_host::{HostError, SliceOf, Transfer};
use std::time::Instant;

impl<T: Transfer> Tensor<T> {
    /// Copies the current contents to `into`, from whichever tier has them; the tensor moves nowhere.
    ///
    /// # Errors
    /// A length that is not the tensor's, or as [`read_on`](Self::read_on).
    #[track_caller]
    pub fn copy_to(&self, into: &mut [u8]) -> Result<(), SwapError> {
        self.token.check_length(into.len())?;
        match self.borrow_below()? {
            Below::Nothing => {
                let with_it = self.inner().lock().entry(self.at()).device_with_it();
                self.read_at(with_it.unwrap_or_default())?.download(into)
            }
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

    /// The copy below the devices, if it is current; a host copy is taken out for the time of the read.
    fn borrow_below(&self) -> Result<Below<T>, SwapError> {
        let inner = self.inner();
        let (since, mut books) = (Instant::now(), inner.lock());
        loop {
            books.reap();
            let entry = books.entry_mut(self.at());
            let on_device = entry.device_with_it().is_some() || entry.padded == 0;
            if entry.writer.is_none() && entry.busy == Busy::No {
                if entry.host.state == SlotState::Valid {
                    if let Some(slice) = entry.host.slice.take() {
                        entry.busy = Busy::Host;
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
                self.inner().probe().io(Kind::FileRead, &self.token.spec, bytes, || {
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
                entry.busy = Busy::No;
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
            match (inner.host_slice(&mut books, self.at()), books.job_in_flight(DeviceIndex::FIRST)) {
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
        entry.busy = Busy::Host;
        entry.host.state.step(SlotState::Filling);
        drop(books);
        slice.as_mut_slice()[..data.len()].copy_from_slice(data);
        let mut books = inner.lock();
        let entry = books.entry_mut(self.at());
        entry.host.slice = Some(slice);
        entry.host.state.step(SlotState::Valid);
        entry.busy = Busy::No;
        books.enter_host(self.at());
        // Where it is pinned the room stays, and the next use brings the new contents in.
        books.outdate(self.at(), None);
        for on in books.devices.indices() {
            if !books.entry(self.at()).is_held_on(on) {
                books.release_device(self.spot(on));
            }
        }
        inner.wake(&books);
        Ok(())
    }

    fn load_to_device(&self, data: &[u8]) -> Result<(), SwapError> {
        self.overwrite()?.upload(data)
    }
}

/// The copy below the devices.
enum Below<T: Transfer> {
    Host(SliceOf<T>),
    Lower(LowerCopy),
    File(FileCopy),
    Nothing,
}
