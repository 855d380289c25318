//! The arena under the tensors, whatever its backend.

use crate::ModelError;
use allocator_core::{AllocError, Arena, ArenaError, DeviceBuffer, Handle, Observer, Request, Stats};
use pinned_host::{Queue, QueuedBuffer, Transfer};

/// An arena whose backend is nobody's business, and the way to its bytes where there is one.
pub(crate) trait Store: Send {
    fn allocate(&mut self, bytes: u64) -> Result<Handle, ModelError>;
    fn release(&mut self, handle: Handle) -> Result<(), AllocError>;
    fn observe(&mut self, observer: Box<dyn Observer + Send>);
    fn stats(&self) -> Stats;
    /// Copies a block's bytes out; where there is no way to them `into` stays as it is.
    fn read(&self, handle: Handle, into: &mut [u8]) -> Result<(), ModelError>;
    /// Gives a block new bytes, where there is a way to them.
    fn write(&mut self, handle: Handle, bytes: &[u8]) -> Result<(), ModelError>;
}

/// The one store: an arena over `B`.
pub(crate) struct Room<B: DeviceBuffer> {
    arena: Arena<B>,
    access: Option<Box<dyn Access<B>>>,
}

/// How bytes of a `B` are read and written, now.
trait Access<B>: Send {
    fn read(&self, buffer: &B, at: u64, into: &mut [u8]) -> Result<(), Refusal>;
    fn write(&self, buffer: &mut B, at: u64, bytes: &[u8]) -> Result<(), Refusal>;
}

/// What a device says when it refuses.
type Refusal = Box<dyn core::error::Error + Send + Sync>;

impl<B: DeviceBuffer> Room<B> {
    /// Blocks, and nothing in them.
    pub(crate) fn of_blocks(arena: Arena<B>) -> Self {
        Room { arena, access: None }
    }
}

impl<B: QueuedBuffer> Room<B> {
    /// Blocks with numbers in them, which come and go by the device's plain copies.
    pub(crate) fn of_numbers<T: Transfer<Buffer = B>>(arena: Arena<B>, device: T) -> Self {
        Room { arena, access: Some(Box::new(Plain(device))) }
    }
}

impl<B: DeviceBuffer + Send> Store for Room<B> {
    fn allocate(&mut self, bytes: u64) -> Result<Handle, ModelError> {
        self.arena.allocate(Request::new(bytes).align(ALIGN)).map_err(|error| match error {
            ArenaError::Alloc(source) => ModelError::Alloc { bytes, source },
            refusal => ModelError::Device { what: "move blocks for", bytes, source: Box::new(refusal) },
        })
    }

    fn release(&mut self, handle: Handle) -> Result<(), AllocError> {
        self.arena.release(handle).map(drop)
    }

    fn observe(&mut self, observer: Box<dyn Observer + Send>) {
        self.arena.set_observer(observer);
    }

    fn stats(&self) -> Stats {
        self.arena.stats()
    }

    fn read(&self, handle: Handle, into: &mut [u8]) -> Result<(), ModelError> {
        let bytes = into.len() as u64;
        let Some(access) = &self.access else { return Ok(()) };
        let range = self.arena.range(handle).map_err(|source| ModelError::Alloc { bytes, source })?;
        let read = access.read(self.arena.buffer(), range.start, into);
        read.map_err(|source| ModelError::Device { what: "read", bytes, source })
    }

    fn write(&mut self, handle: Handle, bytes: &[u8]) -> Result<(), ModelError> {
        let len = bytes.len() as u64;
        let Some(access) = &self.access else { return Ok(()) };
        let range = self.arena.range(handle).map_err(|source| ModelError::Alloc { bytes: len, source })?;
        let written = access.write(self.arena.buffer_mut(), range.start, bytes);
        written.map_err(|source| ModelError::Device { what: "write", bytes: len, source })
    }
}

/// A device's plain, synchronous copies, made after the moves that the arena may have enqueued.
struct Plain<T>(T);

impl<T: Transfer> Access<T::Buffer> for Plain<T> {
    fn read(&self, buffer: &T::Buffer, at: u64, into: &mut [u8]) -> Result<(), Refusal> {
        buffer.queue().drain()?;
        Ok(self.0.read_now(buffer, at, into)?)
    }

    fn write(&self, buffer: &mut T::Buffer, at: u64, bytes: &[u8]) -> Result<(), Refusal> {
        buffer.queue().drain()?;
        Ok(self.0.write_now(buffer, at, bytes)?)
    }
}

/// Alignment of every tensor in bytes, as PyTorch has it in host memory.
const ALIGN: u64 = 64;
