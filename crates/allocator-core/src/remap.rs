//! A move by whole pages where that is possible, and by a copy where it is not.

use core::ops::Range;

use crate::execute::by_copies;
use crate::request::{align_down, align_up};
use crate::{Arena, ArenaError, CopiesRefused, DeviceBuffer, Placement, Remap, check_copy, disjoint_steps};

/// Moves `src` to the range of the same length at `dst`: whole granules by [`Remap::remap`], ragged ends by
/// [`DeviceBuffer::copy_within`]. Returns how many bytes were remapped.
///
/// Granules can only take the place of granules, so the two offsets must be a multiple of the granule apart; else,
/// and for ranges without a whole granule, all of it is one copy. The ranges may overlap: then the
/// granules go in steps as long as the distance, in the direction that loses no byte, as in a memmove. A step that is
/// refused is copied, with all that follows it.
///
/// Afterwards `dst` holds what `src` held. The rest of `src` is unspecified, where a copy would have left it as it was:
/// the moves of an arena go to free bytes and leave free bytes behind.
///
/// # Errors
/// A range beyond the buffer or off the grain, or a copy that the backend refuses: `src` is as it was. For overlapping
/// ranges whose first granules have moved already that takes a backend whose `remap` exchanges, and that exchanges
/// them back; one that has stopped working altogether may not.
#[cfg_attr(feature = "conformance", doc = "```")]
#[cfg_attr(not(feature = "conformance"), doc = "```ignore")]
/// use allocator_core::conformance::VecBuffer; // its granule is 16 bytes
/// use allocator_core::remap_or_copy;
///
/// let mut buffer = VecBuffer::new(128);
/// buffer.write(40, &[7; 60])?;
/// assert_eq!(remap_or_copy(&mut buffer, 40..100, 8)?, 48); // 48..96 as granules, 8 and 4 bytes as copies
/// assert_eq!(buffer.read(8..68)?, [7; 60]);
/// assert_eq!(remap_or_copy(&mut buffer, 8..68, 9)?, 0); // one byte further: no granule fits
/// assert_eq!(buffer.read(9..69)?, [7; 60]);
/// # Ok::<(), allocator_core::RangeError>(())
/// ```
pub fn remap_or_copy<B: Remap>(buffer: &mut B, src: Range<u64>, dst: u64) -> Result<u64, B::Error> {
    let whole = whole_granules(buffer, &src, dst);
    if whole.is_empty() || src.start == dst {
        return buffer.copy_within(src, dst).map(|()| 0);
    }
    let to = |at: u64| at - src.start + dst;
    let (head, tail) = (src.start..whole.start, whole.end..src.end);
    let up = dst > src.start;
    let (first, last) = if up { (tail, head) } else { (head, tail) };
    let apart = src.start.abs_diff(dst) >= src.end - src.start;
    copy(buffer, &first, to(first.start))?;
    if apart {
        // Copies leave the source as it is, so the step that changes it comes last.
        copy(buffer, &last, to(last.start))?;
    }
    // What has moved by pages: it grows from the end of `whole` that goes first.
    let mut done = 0;
    for (from, there) in disjoint_steps(whole.clone(), to(whole.start), 0) {
        let len = from.end - from.start;
        if buffer.remap(from, there).is_err() {
            break;
        }
        done += len;
    }
    let rest = match () {
        () if up && apart => whole.start..whole.end - done,
        () if up => src.start..whole.end - done,
        () if apart => whole.start + done..whole.end,
        () => whole.start + done..src.end,
    };
    if let Err(error) = copy(buffer, &rest, to(rest.start)) {
        let moved = if up { whole.end - done..whole.end } else { whole.start..whole.start + done };
        for (from, there) in disjoint_steps(to(moved.start)..to(moved.end), moved.start, 0) {
            if buffer.remap(from, there).is_err() {
                break;
            }
        }
        return Err(error);
    }
    Ok(done)
}

impl<B: Remap, P: Placement> Arena<B, P> {
    /// Whether the arena's own moves ([`allocate`](Self::allocate), [`compact`](Self::compact)) go by whole pages
    /// where they can: [`remap_or_copy`]. Off at first.
    ///
    /// A block moves by pages when it goes a multiple of the granule far. Allocate large blocks aligned to the
    /// [granule](Remap::granule), `Request::new(size).align(granule)`, and each of their moves does, except for a rest
    /// of the length below a granule; the room before the next multiple of the granule stays free for small blocks.
    /// For blocks that are not aligned there is [`compact_pages`](Self::compact_pages). Plans count a byte that is
    /// remapped like one that is copied.
    pub fn set_remap(&mut self, on: bool) {
        self.mover = if on { by_remaps } else { by_copies };
    }

    /// [`compact`](Self::compact) so that large blocks move by whole pages, wherever they start: by
    /// [`plan_compact_pages`](crate::OffsetAllocator::plan_compact_pages) and [`remap_or_copy`]. Returns how many bytes moved.
    ///
    /// # Errors
    /// [`ArenaError::Device`] when the device refuses a copy: the moves before it stand.
    pub fn compact_pages(&mut self, budget: u64) -> Result<u64, ArenaError<B::Error>> {
        let mut plan = core::mem::take(&mut self.plan);
        self.allocator().plan_compact_pages_into(self.buffer().granule(), budget, &mut plan);
        let mover = core::mem::replace(&mut self.mover, by_remaps);
        let moved = self.execute(&plan).map(|()| plan.bytes());
        self.mover = mover;
        self.plan = plan;
        moved
    }
}

/// The way of an arena that remaps.
fn by_remaps<B: Remap>(
    buffer: &mut B,
    copies: &[(Range<u64>, u64)],
    remapped: &mut u64,
) -> Result<(), CopiesRefused<B::Error>> {
    for (made, (src, dst)) in copies.iter().enumerate() {
        let moved = remap_or_copy(buffer, src.clone(), *dst);
        *remapped += moved.map_err(|error| CopiesRefused { made, error })?;
    }
    Ok(())
}

/// The part of `src` that consists of whole granules which take the place of whole granules; empty if the copy is
/// refused anyway.
fn whole_granules<B: Remap>(buffer: &B, src: &Range<u64>, dst: u64) -> Range<u64> {
    let granule = buffer.granule();
    let none = src.start..src.start;
    if check_copy(buffer.size(), buffer.grain(), src, dst).is_err()
        || !granule.is_power_of_two()
        || !src.start.abs_diff(dst).is_multiple_of(granule)
    {
        return none;
    }
    let start = align_up(src.start, granule).filter(|start| *start < src.end);
    start.map_or(none, |start| start..align_down(src.end, granule).max(start))
}

fn copy<B: DeviceBuffer>(buffer: &mut B, src: &Range<u64>, dst: u64) -> Result<(), B::Error> {
    if src.is_empty() { Ok(()) } else { buffer.copy_within(src.clone(), dst) }
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use super::*;
    use crate::RangeError;
    use crate::conformance::VecBuffer;
    use alloc::vec::Vec;

    /// A buffer that refuses remaps and copies from a chosen one on.
    struct Fussy {
        inner: VecBuffer,
        remaps: u32,
        copies: u32,
    }

    impl DeviceBuffer for Fussy {
        type View<'a> = &'a [u8];
        type Error = RangeError;

        fn size(&self) -> u64 {
            self.inner.size()
        }

        fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), RangeError> {
            spend(&mut self.copies)?;
            self.inner.copy_within(src, dst)
        }

        fn view(&self, range: Range<u64>) -> Result<&[u8], RangeError> {
            self.inner.view(range)
        }
    }

    impl Remap for Fussy {
        fn granule(&self) -> u64 {
            self.inner.granule()
        }

        fn remap(&mut self, src: Range<u64>, dst: u64) -> Result<(), RangeError> {
            spend(&mut self.remaps)?;
            self.inner.remap(src, dst)
        }
    }

    fn spend(left: &mut u32) -> Result<(), RangeError> {
        *left = left.checked_sub(1).ok_or(RangeError::Inverted { start: 1, end: 0 })?;
        Ok(())
    }

    /// 160 bytes, ten granules.
    fn fussy(remaps: u32, copies: u32) -> (Fussy, Vec<u8>) {
        let bytes: Vec<u8> = (0..160).collect();
        let mut inner = VecBuffer::new(160);
        inner.write(0, &bytes).expect("as many bytes as the buffer has");
        (Fussy { inner, remaps, copies }, bytes)
    }

    fn cases() -> impl Iterator<Item = (Range<u64>, u64)> {
        // Under miri a few of them, as it takes a thousand times as long.
        let starts = if cfg!(miri) { &[5, 64][..] } else { &[0, 5, 16, 30, 64, 75] };
        let lengths = [0, 1, 15, 16, 31, 32, 48, 60, 70];
        let pairs = starts.iter().flat_map(move |start| lengths.map(|len| *start..*start + len));
        pairs.flat_map(|src: Range<u64>| {
            let start = src.start;
            let room = 160 - (src.end - src.start);
            let congruent = (0..10).map(move |step| start % 16 + 16 * step);
            congruent.chain([0, 1, 17, 40]).filter(move |dst| *dst <= room).map(move |dst| (src.clone(), dst))
        })
    }

    #[test]
    fn every_move_is_a_memmove_whatever_is_refused() {
        for (src, dst) in cases() {
            for remaps in [0, 1, 2, 3, 99] {
                let (mut buffer, before) = fussy(remaps, 99);
                let moved = remap_or_copy(&mut buffer, src.clone(), dst).unwrap();
                let wanted = &before[src.start as usize..src.end as usize];
                let len = src.end - src.start;
                assert_eq!(buffer.view(dst..dst + len).unwrap(), wanted, "{src:?} to {dst}, {remaps}");
                // Bytes of neither range stay.
                let after = buffer.view(0..160).unwrap();
                for at in (0..160).filter(|at| !src.contains(at) && !(dst..dst + len).contains(at)) {
                    assert_eq!(after[at as usize], before[at as usize], "{src:?} to {dst}, byte {at}");
                }
                let apart = src.start.abs_diff(dst);
                if remaps == 99 && apart > 0 && apart.is_multiple_of(16) {
                    let first = src.start.next_multiple_of(16);
                    assert_eq!(moved, (src.end / 16 * 16).saturating_sub(first), "{src:?} to {dst}");
                } else if remaps == 0 {
                    assert_eq!(moved, 0);
                }
            }
        }
    }

    #[test]
    fn a_refused_copy_leaves_the_source_as_it_was() {
        let mut refused = 0;
        for (src, dst) in cases() {
            for remaps in [0, 1, 2, 99] {
                for copies in 0..3 {
                    let (mut buffer, before) = fussy(remaps, copies);
                    let moved = remap_or_copy(&mut Undoable(&mut buffer), src.clone(), dst);
                    if moved.is_err() {
                        refused += 1;
                        let wanted = &before[src.start as usize..src.end as usize];
                        assert_eq!(buffer.view(src.clone()).unwrap(), wanted, "{src:?} to {dst}");
                    }
                }
            }
        }
        assert!(refused > if cfg!(miri) { 10 } else { 100 }, "{refused}");
    }

    /// Grants every remap once a copy was refused, as a device that lacked memory for a moment does.
    struct Undoable<'a>(&'a mut Fussy);

    impl DeviceBuffer for Undoable<'_> {
        type View<'a>
            = &'a [u8]
        where
            Self: 'a;
        type Error = RangeError;

        fn size(&self) -> u64 {
            self.0.size()
        }

        fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), RangeError> {
            self.0.copy_within(src, dst).inspect_err(|_| self.0.remaps = u32::MAX)
        }

        fn view(&self, range: Range<u64>) -> Result<&[u8], RangeError> {
            self.0.view(range)
        }
    }

    impl Remap for Undoable<'_> {
        fn granule(&self) -> u64 {
            self.0.granule()
        }

        fn remap(&mut self, src: Range<u64>, dst: u64) -> Result<(), RangeError> {
            self.0.remap(src, dst)
        }
    }

    #[test]
    fn what_no_buffer_can_serve_is_refused() {
        let (mut buffer, before) = fussy(99, 99);
        let inverted = Range { start: 32, end: 16 };
        for (src, dst) in [(0..32, 144), (150..170, 0), (0..16, u64::MAX - 15), (inverted, 64)] {
            assert!(remap_or_copy(&mut buffer, src.clone(), dst).is_err(), "{src:?} to {dst}");
        }
        assert_eq!(buffer.view(0..160).unwrap(), before);
    }
}
