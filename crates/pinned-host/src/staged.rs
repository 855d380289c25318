//! Copies between pageable memory and a device, in pieces through staging.

mod error;
mod run;

pub use error::{StagedCause, StagedError};

use crate::{CancelToken, HostCopy, Lane, Queue, RegionOf, StagingRing, Transfer, Wait};
use allocator_core::{DeviceBuffer, RangeError, check_range};
use run::Run;
use std::time::Instant;

/// Copies between memory that a device does not reach and one of its buffers, in pieces through a [`StagingRing`].
///
/// ```text
///   host      | copy 1 | copy 2 | copy 3 | copy 4 |                 into staging, which stays in the cache
///   lane               | transfer 1 | transfer 2 | transfer 3 | …   from there to the device
/// ```
///
/// **Synchronous**: when a call returns, with `Ok` or an error that [is settled](StagedError::is_settled), nothing of it is
/// in flight, so what is submitted later is ordered after it without an event, and its staging memory is back in the ring.
/// The device sees staging memory only, so the caller's bytes are free in any case.
///
/// # Order
/// The copy runs on its direction's lane, after the events given to [`after`](Self::after): what
/// [`Hazards::before`](crate::Hazards::before) names. From the call until its return nobody else submits work on these bytes
/// of the buffer, for which there is no event yet; uses of other bytes go on.
///
/// # No deadlock
/// Who has a piece in flight never waits for more staging, only for its own oldest piece, whose memory it uses again. It
/// waits in the ring's queue holding nothing. So copies end as long as every other user of the ring gives back what it has
/// without waiting for more, be the ring no longer than one piece. When others wait, a long copy gives all it has back every
/// [`TURN`](Self::TURN) bytes and queues up behind them. Uploads and downloads share nothing. Memory that a lost device had
/// does not come back: who must not wait for it sets a [`deadline`](Self::deadline).
///
/// Source: the pools of LMCache and SGLang hang when every holder waits for more (LMCache #2942, SGLang #33862); vLLM moves
/// one slot while it fills the other.
///
/// ```
/// # use pinned_host::{Transfer, StagingRing, RegionOf, StagedCopy, StagedError};
/// /// There and back.
/// fn round_trip<T: Transfer>(
///     device: &T,
///     ring: &StagingRing<RegionOf<T>>,
///     buffer: &mut T::Buffer,
///     bytes: &mut [u8],
/// ) -> Result<(), StagedError<T>> {
///     let staged = StagedCopy::new(device, ring);
///     staged.upload(bytes, buffer, 0)?;
///     staged.download(buffer, 0, bytes)
/// }
/// ```
/// `crates/backend-cpu/examples/staged_rate.rs` measures it.
#[must_use = "it copies when told to"]
pub struct StagedCopy<'a, T: Transfer> {
    device: &'a T,
    ring: &'a StagingRing<RegionOf<T>>,
    piece: Option<usize>,
    depth: usize,
    after: &'a [T::Event],
    wait: Wait<'a>,
    cancelled: Option<&'a dyn Fn() -> bool>,
}

impl<'a, T: Transfer> StagedCopy<'a, T> {
    /// Bytes of a piece unless [`piece`](Self::piece) says otherwise, or the half of a ring that has no two of them: four fit
    /// a last cache, and starting one costs little beside copying it. With a free core 128 KiB to 1 MiB were equal on the CPU
    /// device, without one this was best.
    pub const PIECE: usize = 1 << 20;

    /// After so many bytes, a copy that others wait behind gives its staging memory back and queues up again.
    pub const TURN: usize = 8 << 20;

    /// Copies to and from buffers of `device` through `ring`, whose memory is of the device's locker.
    pub fn new(device: &'a T, ring: &'a StagingRing<RegionOf<T>>) -> Self {
        StagedCopy { device, ring, piece: None, depth: 4, after: &[], wait: Wait::forever(), cancelled: None }
    }

    /// In pieces of so many bytes, made whole grains of the buffer; at most what the ring gives at once.
    pub fn piece(self, bytes: usize) -> Self {
        StagedCopy { piece: Some(bytes), ..self }
    }

    /// With so many pieces in flight at most, from 1 to 8; fewer where the ring has no more. The default is 4.
    pub fn depth(self, pieces: usize) -> Self {
        StagedCopy { depth: pieces, ..self }
    }

    /// Ordered after `events`: the lane is told to wait for each, the host waits for none.
    pub fn after(self, events: &'a [T::Event]) -> Self {
        StagedCopy { after: events, ..self }
    }

    /// Waits for staging memory until then and no longer; [`HostError::Timeout`](crate::HostError::Timeout) is the cause of
    /// the error, which can strike a long copy in the middle when it has let others in. Work in flight is waited for as long
    /// as the device takes.
    pub fn deadline(self, deadline: Instant) -> Self {
        StagedCopy { wait: Wait { deadline: Some(deadline), ..self.wait }, ..self }
    }

    /// Ends with [`StagedCause::Cancelled`] when `token` is cancelled: before the next piece, or in the wait for staging. What
    /// the device has been given is waited for.
    pub fn cancelled_by(self, token: &'a CancelToken) -> Self {
        StagedCopy { wait: self.wait.or_cancelled_by(token), ..self }
    }

    /// Asked before each piece: `true` ends the copy with [`StagedCause::Cancelled`]. Not asked during a wait for staging.
    pub fn cancel_when(self, cancelled: &'a dyn Fn() -> bool) -> Self {
        StagedCopy { cancelled: Some(cancelled), ..self }
    }

    /// Copies `src` to `dst` at byte offset `at`, on the upload lane. O(pieces), allocates nothing.
    ///
    /// # Errors
    /// [`StagedError`] says why and how many bytes had arrived; bytes beyond them are unspecified. A range beyond the buffer
    /// or off its grain is refused before anything is sent.
    pub fn upload(&self, src: &[u8], dst: &mut T::Buffer, at: u64) -> Result<(), StagedError<T>> {
        let (piece, len) = (self.checked(Lane::Upload, dst, at, src.len())?, src.len());
        let mut run = Run::new(self, Lane::Upload, piece, len);
        let mut copy = || {
            while let Some(bytes) = run.next_piece() {
                let Some(mut slice) = run.staging(bytes.len())? else {
                    run.recycle(|_, _| ())?;
                    continue;
                };
                // It is read from there in a moment.
                HostCopy::caching().copy(&src[bytes.clone()], slice.as_mut_slice());
                run.sent(self.device.upload(slice, dst, at + bytes.start as u64))?;
            }
            run.land(|_, _| ())
        };
        let copied = copy();
        run.finish(copied)
    }

    /// Copies the bytes of `src` from byte offset `from` to `dst`, on the download lane. O(pieces), allocates nothing.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub fn download(&self, src: &T::Buffer, from: u64, dst: &mut [u8]) -> Result<(), StagedError<T>> {
        let (piece, len) = (self.checked(Lane::Download, src, from, dst.len())?, dst.len());
        let mut run = Run::new(self, Lane::Download, piece, len);
        let host = if len < LONG { HostCopy::caching() } else { HostCopy::streaming() };
        let mut arrived = |at: usize, slice: &[u8]| {
            host.copy(slice, &mut dst[at..]);
        };
        let mut copy = || {
            while let Some(bytes) = run.next_piece() {
                let Some(slice) = run.staging(bytes.len())? else {
                    run.recycle(&mut arrived)?;
                    continue;
                };
                run.sent(self.device.download(src, from + bytes.start as u64, slice))?;
            }
            run.land(&mut arrived)
        };
        let copied = copy();
        run.finish(copied)
    }

    /// Checks the range, orders the lane, and returns the length of a piece.
    fn checked(&self, lane: Lane, buffer: &T::Buffer, at: u64, len: usize) -> Result<usize, StagedError<T>> {
        let (size, grain, asked) = (buffer.size(), buffer.grain(), len as u64);
        let refused = |cause| StagedError { lane, asked, copied: 0, settled: true, cause };
        let end = at.checked_add(asked).ok_or(RangeError::OutOfBounds { start: at, len: asked, size });
        let checked = end.and_then(|end| check_range(size, grain, &(at..end)));
        checked.map_err(|error| refused(StagedCause::Range(error)))?;
        if len > 0 {
            for event in self.after {
                self.device.lane(lane).wait(event).map_err(|error| refused(StagedCause::Order(error)))?;
            }
        }
        let most = self.ring.max_slice(lane);
        let piece = self.piece.map_or(Self::PIECE.min(most / 2), |piece| piece.min(most)) as u64;
        // At most as long as it was, or one grain.
        Ok((piece / grain).max(1).saturating_mul(grain) as usize)
    }
}

impl<T: Transfer> Clone for StagedCopy<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Transfer> Copy for StagedCopy<'_, T> {}

impl<T: Transfer> core::fmt::Debug for StagedCopy<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("StagedCopy")
            .field("piece", &self.piece)
            .field("depth", &self.depth)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

/// A download at least this long leaves the caches alone, in bytes: nobody finds all of it there afterwards.
const LONG: usize = 8 << 20;
