//! Host-visible buffers of wgpu's between the host's memory and the device's.

use super::WgpuError;
use super::buffer::Held;
use super::flight::Mark;
use super::native::lock;
use super::shared::Shared;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// The staging buffers of one direction: made when first needed, reused, never more than fit the bound.
pub(super) struct Pool {
    direction: Direction,
    /// Ready for the next piece: mapped for uploads, unmapped for downloads. The last one used is the first one
    /// used again, since it is the one in the processor's caches.
    free: Mutex<Vec<Staging>>,
    /// How many exist, in the list or in use.
    count: Arc<AtomicU64>,
}

/// Which way a pool's buffers are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The host writes, the device reads.
    Up,
    /// The device writes, the host reads.
    Down,
}

/// One staging buffer.
pub(super) struct Staging {
    pub(super) buffer: wgpu::Buffer,
    /// Set when the device has done with it and it is mapped.
    pub(super) mark: Arc<Mark>,
    count: Arc<AtomicU64>,
    _held: Held,
}

impl Pool {
    pub(super) fn new(direction: Direction) -> Self {
        Pool { direction, free: Mutex::new(Vec::new()), count: Arc::new(AtomicU64::new(0)) }
    }

    /// A buffer, waiting for one in use where no more may be made.
    pub(super) fn take(&self, shared: &Shared) -> Result<Staging, WgpuError> {
        let most = (shared.settings.staging / shared.settings.piece).max(1);
        loop {
            if let Some(staging) = lock(&self.free).pop() {
                return Ok(staging);
            }
            let enough = if self.count.fetch_add(1, SeqCst) < most {
                match self.make(shared) {
                    // The device is full: those there are must do.
                    Err(WgpuError::Memory { .. }) if self.count.load(SeqCst) > 0 => 1,
                    made => return made,
                }
            } else {
                self.count.fetch_sub(1, SeqCst);
                most
            };
            shared.wait_until(|| !lock(&self.free).is_empty() || self.count.load(SeqCst) < enough)?;
        }
    }

    /// Gives a buffer back that is ready for the next piece.
    pub(super) fn put(&self, staging: Staging) {
        lock(&self.free).push(staging);
    }

    /// Makes one that has been counted; it is uncounted again if that fails.
    fn make(&self, shared: &Shared) -> Result<Staging, WgpuError> {
        let (what, usage) = match self.direction {
            Direction::Up => ("upload staging", wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC),
            Direction::Down => {
                ("download staging", wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
            }
        };
        let bytes = shared.settings.piece;
        match shared.make_buffer(what, bytes, usage, self.direction == Direction::Up) {
            Ok(buffer) => Ok(Staging {
                buffer,
                mark: shared.flight.mark(),
                count: Arc::clone(&self.count),
                _held: shared.usage.hold_scratch(bytes),
            }),
            Err(error) => {
                self.count.fetch_sub(1, SeqCst);
                Err(error)
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.count.fetch_sub(1, SeqCst);
    }
}
