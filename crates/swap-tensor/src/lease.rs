//! Leases: a tensor on a device, at an address that does not change, ordered on a queue.

use crate::{DeviceIndex, SwapError, Tensor, TensorSpec, fill::Want, hold::Hold};
use allocator_core::DeviceBuffer;
use core::ops::Range;
use pinned_host::Transfer;
use std::panic::Location;

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Reading: any number at a time.
    Read,
    /// Reading and writing: alone. The tensor's other copies are stale from the moment the lease is given.
    Write,
}

/// A tensor leased for reading.
///
/// The device copy stays where it is until the lease ends, and work submitted to the lease's queue after the lease
/// was given runs after everything that made the copy. Other queues are not ordered: take a lease per queue.
/// End it with [`finish`](Self::finish) and the event behind your last use, or drop it: then an event is recorded
/// on its queue. The room is not used again before that event.
#[derive(Debug)]
#[must_use = "a lease ends when dropped"]
pub struct ReadLease<T: Transfer>(Hold<T>);

/// A tensor leased for writing, alone. See [`ReadLease`].
#[derive(Debug)]
#[must_use = "a lease ends when dropped"]
pub struct WriteLease<T: Transfer>(Hold<T>);

/// One lease of [`SwapPool::lease_all`](crate::SwapPool::lease_all).
#[derive(Debug)]
#[must_use = "a lease ends when dropped"]
pub enum Lease<T: Transfer> {
    /// For reading.
    Read(ReadLease<T>),
    /// For writing.
    Write(WriteLease<T>),
}

macro_rules! shared_face {
    ($lease:ident) => {
        impl<T: Transfer> $lease<T> {
            pub(crate) fn new(hold: Hold<T>) -> Self {
                $lease(hold)
            }

            /// Name, dtype and shape.
            pub fn spec(&self) -> &TensorSpec {
                &self.0.token.spec
            }

            /// Where the tensor's bytes are in [`buffer`](Self::buffer); fixed until the lease ends.
            pub fn range(&self) -> Range<u64> {
                self.0.range.start..self.0.range.start + self.spec().bytes()
            }

            /// The device it is on.
            pub fn device(&self) -> DeviceIndex {
                self.0.on
            }

            /// The buffer of that device's arena.
            pub fn buffer(&self) -> &T::Buffer {
                &self.0.token.inner.on(self.0.on).buffer
            }

            /// The queue this lease is ordered on.
            pub fn queue(&self) -> &T::Queue {
                &self.0.queue
            }

            /// The backend's native view of the tensor, rounded up to the device's grain.
            ///
            /// # Errors
            /// The backend refuses the range.
            pub fn view(&self) -> Result<<T::Buffer as DeviceBuffer>::View<'_>, SwapError> {
                self.buffer().view(self.0.range.clone()).map_err(|e| SwapError::device("view a tensor", e))
            }

            /// Blocks until the tensor's bytes are there and everything submitted to the queue so far is done.
            ///
            /// # Errors
            /// The device failed, or the copy or move that made the device copy did.
            pub fn wait(&self) -> Result<(), SwapError> {
                self.0.wait()
            }

            /// Copies the contents to `into` by a plain synchronous read, after [`wait`](Self::wait): a witness
            /// that shares nothing with the transfers.
            ///
            /// # Errors
            /// As `wait`; a length that is not the tensor's.
            pub fn read_now(&self, into: &mut [u8]) -> Result<(), SwapError> {
                self.0.read_now(into)
            }

            /// Copies the contents to `into` through staging, after everything submitted to the queue so far.
            ///
            /// # Errors
            /// A length that is not the tensor's; the device fails.
            pub fn download(&self, into: &mut [u8]) -> Result<(), SwapError> {
                self.0.download(into)
            }

            /// Ends the lease with the event behind its last use. The event must be of this device and cover every
            /// use made under the lease.
            ///
            /// # Errors
            /// [`SwapError::BadCopy`] if what was leased turned out bad: what was computed from it is worthless.
            pub fn finish(mut self, event: T::Event) -> Result<(), SwapError> {
                self.0.end(Some(event))
            }
        }
    };
}

shared_face!(ReadLease);
shared_face!(WriteLease);

impl<T: Transfer> WriteLease<T> {
    /// Replaces the contents by a plain synchronous write, after [`wait`](Self::wait).
    ///
    /// # Errors
    /// As `wait`; a length that is not the tensor's. Nothing was written then.
    pub fn write_now(&mut self, data: &[u8]) -> Result<(), SwapError> {
        self.0.write_now(data)
    }

    /// Replaces the contents through staging. Work submitted to the queue afterwards sees them.
    ///
    /// # Errors
    /// A length that is not the tensor's; no staging in time. If it fails half-way, the tensor's device copy is torn; what the lease
    /// was given stays as it is if the device was asked for nothing.
    pub fn upload(&mut self, data: &[u8]) -> Result<(), SwapError> {
        self.0.upload(data)
    }
}

impl<T: Transfer> Lease<T> {
    /// Name, dtype and shape.
    pub fn spec(&self) -> &TensorSpec {
        &self.hold().token.spec
    }

    /// Where the tensor's bytes are in the arena's buffer; fixed until the lease ends.
    pub fn range(&self) -> Range<u64> {
        let hold = self.hold();
        hold.range.start..hold.range.start + hold.token.spec.bytes()
    }

    /// The device it is on.
    pub fn device(&self) -> DeviceIndex {
        self.hold().on
    }

    fn hold(&self) -> &Hold<T> {
        match self {
            Lease::Read(lease) => &lease.0,
            Lease::Write(lease) => &lease.0,
        }
    }

    pub(crate) fn new(hold: Hold<T>) -> Self {
        match hold.mode {
            Mode::Read => Lease::Read(ReadLease(hold)),
            Mode::Write => Lease::Write(WriteLease(hold)),
        }
    }

    #[track_caller]
    pub(crate) fn read(
        tensor: &Tensor<T>,
        on: DeviceIndex,
        queue: Option<&T::Queue>,
    ) -> Result<ReadLease<T>, SwapError> {
        Hold::take(&tensor.token, on, (Mode::Read, Want::Contents), queue, Location::caller()).map(ReadLease)
    }

    #[track_caller]
    pub(crate) fn write(
        tensor: &Tensor<T>,
        (on, want): (DeviceIndex, Want),
        queue: Option<&T::Queue>,
    ) -> Result<WriteLease<T>, SwapError> {
        Hold::take(&tensor.token, on, (Mode::Write, want), queue, Location::caller()).map(WriteLease)
    }
}
