//! What the model runs beside: an arena, or an allocator alone with bytes that the test moves itself.

use std::ops::Range;

use allocator_core::conformance::VecBuffer;
use allocator_core::{
    AllocError, ApplyError, Arena, ArenaError, Block, DeviceBuffer, Handle, Move, OffsetAllocator, Placement,
    Request,
};

use super::Config;

/// The thing under test.
pub(crate) enum Subject<P: Placement> {
    Arena(Box<Arena<VecBuffer, P>>),
    /// `bytes` is `None` where the range is longer than any memory.
    Bare {
        offsets: Box<OffsetAllocator<P>>,
        bytes: Option<VecBuffer>,
    },
}

impl<P: Placement> Subject<P> {
    pub(crate) fn arena(config: Config, placement: P) -> Self {
        let buffer = VecBuffer::with_grain(config.size as usize, config.grain);
        let mut arena = Arena::with_placement(buffer, placement).unwrap();
        arena.set_compaction(config.compaction);
        Subject::Arena(Box::new(arena))
    }

    pub(crate) fn bare(config: Config, placement: P) -> Self {
        let offsets = OffsetAllocator::with_placement(config.size, config.grain, placement).unwrap();
        let short = config.size <= SHORT;
        let bytes = short.then(|| VecBuffer::with_grain(config.size as usize, config.grain));
        Subject::Bare { offsets: Box::new(offsets), bytes }
    }

    pub(crate) fn offsets(&self) -> &OffsetAllocator<P> {
        match self {
            Subject::Arena(arena) => arena.allocator(),
            Subject::Bare { offsets, .. } => offsets,
        }
    }

    pub(crate) fn block(&self, handle: Handle) -> Result<Block, AllocError> {
        self.offsets().block(handle)
    }

    /// Allocates; when `moving`, after whatever moves make room.
    pub(crate) fn allocate(&mut self, request: Request, moving: bool) -> Result<Handle, AllocError> {
        match self {
            Subject::Arena(arena) if moving => arena.allocate(request).map_err(|error| match error {
                ArenaError::Alloc(error) => error,
                error => panic!("{error}"),
            }),
            Subject::Arena(arena) => arena.allocate_in_place(request),
            Subject::Bare { offsets, .. } => match offsets.allocate(request) {
                Err(AllocError::OutOfMemory { .. }) if moving => {
                    for step in offsets.plan_room(request)?.moves() {
                        self.apply(step)?;
                    }
                    self.allocate(request, false)
                }
                placed => placed,
            },
        }
    }

    pub(crate) fn allocate_at(&mut self, offset: u64, request: Request) -> Result<Handle, AllocError> {
        match self {
            Subject::Arena(arena) => arena.allocate_at(offset, request),
            Subject::Bare { offsets, .. } => offsets.allocate_at(offset, request),
        }
    }

    pub(crate) fn free(&mut self, handle: Handle) -> Result<Range<u64>, AllocError> {
        match self {
            Subject::Arena(arena) => arena.release(handle),
            Subject::Bare { offsets, .. } => offsets.free(handle),
        }
    }

    pub(crate) fn lease(&mut self, handle: Handle) -> Result<u32, AllocError> {
        match self {
            Subject::Arena(arena) => arena.lease(handle),
            Subject::Bare { offsets, .. } => offsets.lease(handle),
        }
    }

    pub(crate) fn unlease(&mut self, handle: Handle) -> Result<u32, AllocError> {
        match self {
            Subject::Arena(arena) => arena.unlease(handle),
            Subject::Bare { offsets, .. } => offsets.unlease(handle),
        }
    }

    /// Makes one move, its bytes included.
    pub(crate) fn apply(&mut self, step: &Move) -> Result<(), AllocError> {
        let copy = |buffer: &mut VecBuffer, step: &Move| buffer.copy_within(step.src.clone(), step.dst);
        match self {
            Subject::Arena(arena) => match arena.apply(step, copy) {
                Ok(()) => Ok(()),
                Err(ApplyError::Alloc(error)) => Err(error),
                Err(error) => panic!("{step:?}: {error}"),
            },
            Subject::Bare { offsets, bytes } => {
                offsets.commit_move(step)?;
                bytes.iter_mut().for_each(|bytes| copy(bytes, step).unwrap());
                Ok(())
            }
        }
    }

    /// Resizes the whole range and its memory; an arena cannot.
    pub(crate) fn resize(&mut self, size: u64) -> Option<Result<(), AllocError>> {
        let Subject::Bare { offsets, bytes } = self else { return None };
        let resized = offsets.resize(size);
        if let (Ok(()), Some(bytes)) = (&resized, bytes) {
            let mut other = VecBuffer::with_grain(size as usize, bytes.grain());
            other.write(0, bytes.read(0..size.min(bytes.size())).unwrap()).unwrap();
            *bytes = other;
        }
        Some(resized)
    }

    /// Writes to `range` what `byte` says, where there are bytes.
    pub(crate) fn write(&mut self, range: Range<u64>, byte: impl Fn(u64) -> u8) {
        let bytes = match self {
            Subject::Arena(arena) => Some(arena.buffer_mut()),
            Subject::Bare { bytes, .. } => bytes.as_mut(),
        };
        if let Some(bytes) = bytes {
            bytes.write(range.start, &range.clone().map(byte).collect::<Vec<_>>()).unwrap();
        }
    }

    /// The bytes of `range`, where there are any.
    pub(crate) fn read(&self, range: Range<u64>) -> Option<&[u8]> {
        match self {
            Subject::Arena(arena) => Some(arena.buffer().read(range).unwrap()),
            Subject::Bare { bytes, .. } => bytes.as_ref().map(|bytes| bytes.read(range).unwrap()),
        }
    }
}

/// The longest range that has bytes.
const SHORT: u64 = 1 << 24;
