//! Buffers on the device, and copies within them.

use crate::groups::{Group, Room, Rules, Shift, is_nothing};
use crate::memory::Memory;
use crate::turn::{Launched, Piece, Progress, Turn};
use crate::{CudaError, CudaOptions, CudaQueue, CudaView, Plain, kernel};
use allocator_core::{
    CopiesRefused, CopyCost, CopyWay, DeviceBuffer, Remap, bounce_pieces, check_copy, check_range,
    disjoint_steps,
};
use core::ops::Range;
use cudarc::driver as cu;
use cudarc::driver::sys;
use pinned_host::QueuedBuffer;
use std::sync::Arc;

/// Bytes on a CUDA device. Cloning names the same bytes.
///
/// When the last clone goes, what was enqueued on the device's queues is waited for, and the memory is freed. Work on other
/// streams is waited for too, of another device in the same context or of the caller's once a view of the buffer has been
/// there (then for the whole of that stream's context); what was launched by address alone is the caller's to wait for.
///
/// Offsets and lengths are multiples of one byte. `copy_within` enqueues on the buffer's queue, at once.
#[derive(Clone)]
pub struct CudaBuffer {
    memory: Arc<Memory>,
    queue: CudaQueue,
    /// Room for copies between ranges that overlap; used on `queue` alone, whose order parts its uses.
    scratch: Option<Arc<Memory>>,
    cost: CopyCost,
    /// Longest copy that the kernel makes.
    short: u64,
}

impl CudaBuffer {
    pub(crate) fn new(
        memory: Memory,
        queue: &CudaQueue,
        scratch: Option<&Arc<Memory>>,
        options: &CudaOptions,
    ) -> Self {
        let start = options.step_cost;
        let cost = CopyCost { start, scratch: scratch.map_or(0, |scratch| scratch.size()) };
        let (memory, queue, scratch) = (Arc::new(memory), queue.clone(), scratch.cloned());
        CudaBuffer { memory, queue, scratch, cost, short: options.kernel_copies }
    }

    /// Address of the first byte on the device.
    ///
    /// Valid as long as a clone of this value; not to be freed. It never changes, remaps and resizes included.
    pub fn address(&self) -> sys::CUdeviceptr {
        self.memory.base()
    }

    /// Whether its pages can be exchanged and its size changed; see [`Remap`] and [`resize`](Self::resize).
    pub fn is_virtual(&self) -> bool {
        self.memory.pages().is_some()
    }

    /// Enqueues copies of `src` ranges to `dst` offsets that touch none of one another's bytes: independent moves. Short ones
    /// are made by a kernel, many in one launch ([`CudaOptions::kernel_copies`]); others in one call of a driver that has
    /// `cuMemcpyBatchAsync` (12.8), and one by one otherwise. O(n log n).
    ///
    /// # Errors
    /// A range beyond the buffer; two copies that are not independent, or one that overlaps itself; the driver refuses
    /// all of it. Then nothing that anybody may read was changed. As for [`copy_within`](DeviceBuffer::copy_within), a
    /// copy that is cut is reported by the next event.
    pub fn copy_independent(&mut self, copies: &[(Range<u64>, u64)]) -> Result<(), CudaError> {
        let size = self.memory.hold();
        for (src, dst) in copies {
            check_copy(*size, 1, src, *dst)?;
        }
        check_independent(copies)?;
        self.memory.check()?;
        let found: Vec<Piece> = copies
            .iter()
            .filter(|(src, _)| !src.is_empty())
            .map(|(src, dst)| self.piece(src.clone(), *dst))
            .collect();
        if found.is_empty() {
            return self.queue.context().check_lost();
        }
        self.queue.turn()?.independent(&found, self.short)
    }

    /// Makes a virtual buffer longer or shorter, at its end and in place.
    ///
    /// All clones see the new length; memory is taken and given back by whole granules. Room for growth is reserved when the
    /// device is opened ([`CudaOptions::reserve`](crate::CudaOptions::reserve)). Giving memory back waits for what was
    /// enqueued, by the device's queues and through views; calls on clones that would use the buffer, [`size`](
    /// DeviceBuffer::size) and [`view`](DeviceBuffer::view) among them, wait until it is done. New bytes are unspecified.
    /// O(granules changed) calls of the driver.
    ///
    /// Shrinking voids views that reach beyond the new end, also those of clones: their bytes are gone, and whoever has one must
    /// not use it any more. Its addresses stay the buffer's until the last clone goes, so that such a use is refused by the
    /// driver, or ends the context, and never touches memory of anybody else's.
    ///
    /// # Errors
    /// Not virtual; more than was reserved; no memory; the driver refuses. Nothing changed, unless the driver took pages away
    /// and does not put them back: then all that uses the buffer is [`CudaError::Broken`].
    pub fn resize(&mut self, size: u64) -> Result<(), CudaError> {
        self.memory.resize(size)
    }

    /// The caller's slice that [`CudaDevice::buffer_over`](crate::CudaDevice::buffer_over) took, once no other clone is
    /// left and the work on it has ended.
    ///
    /// # Errors
    /// Clones or operations still use it, or it was no slice of `T`: the buffer comes back.
    pub fn into_slice<T: Plain>(self) -> Result<cu::CudaSlice<T>, CudaBuffer> {
        let CudaBuffer { memory, queue, scratch, cost, short } = self;
        match Memory::into_slice(memory) {
            Ok(slice) => Ok(slice),
            Err(memory) => Err(CudaBuffer { memory, queue, scratch, cost, short }),
        }
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Enqueues the first of these moves, or several that go together; how many.
    ///
    /// # Errors
    /// The first is refused; nothing was enqueued.
    fn some(&self, turn: &mut Turn<'_>, moves: &[Shift]) -> Result<usize, CudaError> {
        // The kernel is not even loaded for one move.
        let together = moves.len() > 1 && self.short > 0 && turn.has_kernel();
        let most = if together { kernel::MOST } else { 1 };
        let rules = Rules { cost: self.cost, short: self.short, most };
        // Whether these moves are being read although none of them is made.
        let mut reading = false;
        let launched = match rules.next(moves) {
            Group::Apart(count) => turn.launch(&self.pieces(&moves[..count]))?.then_some(count),
            Group::Through(count) => {
                let launched = self.through(turn, &moves[..count])?;
                reading = launched == Launched::First;
                (launched == Launched::Both).then_some(count)
            }
            Group::Alone => None,
        };
        let made = match (launched, &moves[0]) {
            (Some(count), _) => Ok(count),
            (None, shift) if is_nothing(shift) => Ok(1),
            (None, (src, dst)) => self.one(turn, src.clone(), *dst).map(|()| 1),
        };
        if reading {
            // Whoever is told that a move was not made orders nothing behind it. It is rare: once refused, the kernel is given up.
            turn.empty();
        }
        made
    }

    /// Enqueues one move in the cheapest way; it is none of nothing.
    fn one(&self, turn: &mut Turn<'_>, src: Range<u64>, dst: u64) -> Result<(), CudaError> {
        let len = src.end - src.start;
        let whole = Progress::none(len);
        match (self.cost.way(len, src.start.abs_diff(dst)), &self.scratch) {
            (CopyWay::Bounce, Some(scratch)) => {
                let (room, base) = (scratch.base(), self.memory.base());
                let all = bounce_pieces(src, dst, scratch.size()).flat_map(|(from, to)| {
                    let len = from.end - from.start;
                    let out = Piece { src: base + from.start, dst: room, len };
                    [out, Piece { src: room, dst: base + to, len }]
                });
                turn.copies(whole, all)
            }
            _ => turn.copies(whole, disjoint_steps(src, dst, 0).map(|(from, to)| self.piece(from, to))),
        }
    }

    /// Enqueues moves that [`Group::Through`] names: all to the scratch, then all from there. Unless both are, no byte of the
    /// buffer will change.
    fn through(&self, turn: &mut Turn<'_>, moves: &[Shift]) -> Result<Launched, CudaError> {
        let Some(scratch) = &self.scratch else { return Ok(Launched::Neither) };
        let mut room = Room::new(scratch.size());
        let (mut out, mut back) = (Vec::with_capacity(moves.len()), Vec::with_capacity(moves.len()));
        for shift in moves.iter().filter(|shift| !is_nothing(shift)) {
            let Some(place) = room.take(&shift.0) else { return Ok(Launched::Neither) };
            let Piece { src, dst, len } = self.piece(shift.0.clone(), shift.1);
            let place = scratch.base() + place;
            out.push(Piece { src, dst: place, len });
            back.push(Piece { src: place, dst, len });
        }
        turn.launch_twice(&out, &back)
    }

    fn pieces(&self, moves: &[Shift]) -> Vec<Piece> {
        let moving = moves.iter().filter(|shift| !is_nothing(shift));
        moving.map(|(src, dst)| self.piece(src.clone(), *dst)).collect()
    }

    fn piece(&self, src: Range<u64>, dst: u64) -> Piece {
        let base = self.memory.base();
        Piece { src: base + src.start, dst: base + dst, len: src.end - src.start }
    }
}

impl DeviceBuffer for CudaBuffer {
    type View<'a> = CudaView<'a>;
    type Error = CudaError;

    fn size(&self) -> u64 {
        self.memory.size()
    }

    /// Memmove semantics, although CUDA's copies forbid overlap: pieces as long as the distance, or by way of the
    /// scratch, whichever costs less.
    ///
    /// `Ok` means enqueued. Should the driver take the first piece and refuse a later one, then refuse it again once the
    /// queue is empty, the copy is cut: the next event recorded on the queue reports [`CudaError::Cut`], or the next
    /// [`drain`](pinned_host::Queue::drain) does.
    fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), CudaError> {
        let size = self.memory.hold();
        check_copy(*size, 1, &src, dst)?;
        self.memory.check()?;
        if is_nothing(&(src.clone(), dst)) {
            return self.queue.context().check_lost();
        }
        self.one(&mut self.queue.turn()?, src, dst)
    }

    /// Short copies that follow one another are made by a kernel, many in one launch, where their order makes no difference;
    /// and by way of the scratch where that takes it away and costs less. Others as by
    /// [`copy_within`](DeviceBuffer::copy_within).
    fn copies_within(&mut self, copies: &[(Range<u64>, u64)]) -> Result<(), CopiesRefused<CudaError>> {
        let refused = |made| move |error| CopiesRefused { made, error };
        let size = self.memory.hold();
        let checked = |(src, dst): &Shift| check_copy(*size, 1, src, *dst);
        let good = copies.iter().position(|copy| checked(copy).is_err()).unwrap_or(copies.len());
        self.memory.check().map_err(refused(0))?;
        let mut turn = self.queue.turn().map_err(refused(0))?;
        let mut made = 0;
        while made < good {
            made += self.some(&mut turn, &copies[made..good]).map_err(refused(made))?;
        }
        match copies.get(good).map(checked) {
            Some(Err(error)) => Err(CopiesRefused { made, error: error.into() }),
            _ => Ok(()),
        }
    }

    /// Checks the range against the size of now: a later [`resize`](CudaBuffer::resize) of any clone may void the view.
    fn view(&self, range: Range<u64>) -> Result<CudaView<'_>, CudaError> {
        check_range(self.size(), 1, &range)?;
        self.memory.check()?;
        Ok(CudaView::new(&self.memory, self.queue.stream(), range))
    }
}

impl QueuedBuffer for CudaBuffer {
    type Queue = CudaQueue;

    fn queue(&self) -> &CudaQueue {
        &self.queue
    }
}

/// Whole pages of a virtual buffer change places by unmapping and mapping; no byte is copied.
///
/// The driver maps at once and not in the order of a stream. So the buffer's queue is waited for first (meanwhile, calls on
/// clones that would use the buffer wait too), and with it
/// whatever that was told to wait for: as with [`copy_within`](DeviceBuffer::copy_within), make the queue wait for those
/// who use the two ranges. What comes later needs no wait for the remap. Addresses stay as they are.
impl Remap for CudaBuffer {
    /// The page of the buffer; on a buffer that is not virtual, more bytes than it has, so that it has no whole granule.
    fn granule(&self) -> u64 {
        let beyond =
            || self.size().checked_add(1).and_then(u64::checked_next_power_of_two).unwrap_or(1 << 63);
        self.memory.pages().map_or_else(beyond, |pages| pages.granule())
    }

    fn remap(&mut self, src: Range<u64>, dst: u64) -> Result<(), CudaError> {
        let size = self.memory.hold_alone();
        check_copy(*size, 1, &src, dst)?;
        let len = src.end - src.start;
        let wrong = |why| CudaError::Remap { src: src.start, len, dst, why };
        let Some(pages) = self.memory.pages() else {
            return Err(wrong("the buffer's memory is not virtual"));
        };
        let granule = pages.granule();
        if [src.start, src.end, dst].iter().any(|at| at % granule != 0) {
            return Err(wrong("an offset or the length is no multiple of the granule"));
        }
        if src.start.abs_diff(dst) < len {
            return Err(wrong("source and destination overlap"));
        }
        let context = self.queue.context();
        context.check_lost()?;
        if len == 0 {
            return Ok(());
        }
        self.queue.empty()?;
        let numbers = |from: u64| (from / granule) as usize..((from + len) / granule) as usize;
        pages.exchange(context, numbers(src.start), numbers(dst))
    }
}

impl core::fmt::Debug for CudaBuffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CudaBuffer")
            .field("size", &self.size())
            .field("virtual", &self.is_virtual())
            .finish_non_exhaustive()
    }
}

/// # Errors
/// A copy writes bytes that another, or itself, uses.
fn check_independent(copies: &[(Range<u64>, u64)]) -> Result<(), CudaError> {
    let mut uses: Vec<(Range<u64>, bool, usize)> = Vec::with_capacity(2 * copies.len());
    for (number, (src, dst)) in copies.iter().enumerate().filter(|(_, (src, _))| !src.is_empty()) {
        uses.push((src.clone(), false, number));
        uses.push((*dst..dst + (src.end - src.start), true, number));
    }
    uses.sort_unstable_by_key(|(range, ..)| range.start);
    // The reach of what began before, of the writes and of all together.
    let (mut write, mut any) = ((0, 0), (0, 0));
    for (range, writes, number) in uses {
        let before = if writes { any } else { write };
        if range.start < before.0 {
            let (copy, other) = if writes { (number, before.1) } else { (before.1, number) };
            return Err(CudaError::Entangled { copy, other });
        }
        any = any.max((range.end, number));
        if writes {
            write = write.max((range.end, number));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn independent_copies_share_no_byte_that_one_of_them_writes() {
        let entangled = |copies: &[(Range<u64>, u64)]| match check_independent(copies) {
            Err(CudaError::Entangled { copy, other }) => Some((copy, other)),
            _ => None,
        };
        assert_eq!(entangled(&[(0..4, 8), (0..4, 12), (2..6, 16)]), None, "sources may be shared");
        assert_eq!(entangled(&[(0..4, 4), (8..12, 12)]), None, "neighbours");
        assert_eq!(entangled(&[(0..4, 2)]), Some((0, 0)));
        assert_eq!(entangled(&[(0..4, 8), (8..12, 16)]), Some((0, 1)));
        assert_eq!(entangled(&[(0..4, 8), (16..20, 11)]), Some((1, 0)));
        assert_eq!(entangled(&[(0..100, 200), (50..60, 10)]), Some((1, 0)), "a long source");
        assert_eq!(entangled(&[(5..5, 0), (0..4, 8)]), None, "nothing touches nothing");
    }
}
