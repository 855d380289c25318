//! Pages of the host that change places: the memory behind every buffer here, and the exchange of two ranges of it.

use crate::sync::lock;
use crate::{CpuError, remap};
use core::ops::Range;
use pinned_host::{HostCopy, HostError, HostRegion, OsLocker, OsRegion, PageLocker};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Size and alignment in bytes of what is exchanged: the range of one page table on the processors there are, and of a
/// huge page. Its entries move as one, whether they are huge or ordinary pages.
pub(crate) const GRANULE: usize = 2 << 20;

/// Memory of the buffer, and beside it addresses without memory by way of which pages change places.
///
/// ```text
///   base                       bytes       spare                 spare + spare_len
///   | granule 0 | granule 1 | …  | (rest)  |   addresses only    |
///
///   exchange of a and b, each step one system call that moves page tables:
///     1  b ─► spare       2  a ─► b       3  spare ─► a
///   What a step leaves behind stays mapped, without memory, and is never looked at before the next step fills it.
/// ```
pub(crate) struct Pages {
    region: OsRegion,
    exchange: Option<Exchange>,
}

struct Exchange {
    /// Offset of the spare addresses, which have no memory between exchanges.
    spare: usize,
    /// Their length, whole granules.
    spare_len: usize,
    /// Held during an exchange: the spare addresses are one.
    order: Mutex<Order>,
}

impl Pages {
    /// `bytes` zeroed bytes, aligned to [`GRANULE`] from that size on, all of them present.
    pub(crate) fn new(bytes: usize) -> Result<Self, HostError> {
        let granules = bytes / GRANULE;
        // Below that no two granules can change places.
        if granules < 2 || !remap::SUPPORTED {
            return Self::fixed(bytes);
        }
        // Where that overflows there is no such mapping either.
        let spare = bytes.checked_next_multiple_of(GRANULE).unwrap_or(usize::MAX);
        let most = if remap::moves_several_mappings() { SPARE } else { 1 };
        let spare_len = GRANULE * most.min(granules / 2);
        let region = map(spare.saturating_add(spare_len))?;
        let base = region.base();
        // SAFETY: both granules lie in the new region, do not overlap and hold nothing yet. Where the trial fails (an old
        // kernel, or a simulated one) it may have cost the mapping it was to fill.
        let exchange = unsafe {
            remap::move_pages(base, 0, spare, GRANULE)
                .map(|()| Exchange { spare, spare_len, order: Mutex::new(Order::new(granules)) })
                .inspect_err(|_| remap::restore(base, spare, GRANULE))
        };
        // First touch happens here and not inside the first transfer.
        region.prepare(0, bytes);
        Ok(Pages { region, exchange: exchange.ok() })
    }

    /// As [`new`](Self::new), with pages that stay where they are.
    pub(crate) fn fixed(bytes: usize) -> Result<Self, HostError> {
        let region = map(bytes.max(1))?;
        region.prepare(0, region.len());
        Ok(Pages { region, exchange: None })
    }

    /// Address of the first byte, which never changes.
    pub(crate) fn base(&self) -> *mut u8 {
        self.region.base().as_ptr()
    }

    /// Whether ranges change places without a copy; else they are copied.
    pub(crate) fn can_exchange(&self) -> bool {
        self.exchange.is_some()
    }

    /// Moves `src` to `dst`, and the pages of `dst` to where `src` was; where pages stay, copies `src` to `dst`.
    ///
    /// Once the first part of a long range has moved, a part that the system refuses is copied.
    ///
    /// # Errors
    /// [`CpuError::Exchange`], [`CpuError::Scattered`]: every byte is where it was.
    ///
    /// # Safety
    /// Both ranges are whole granules of the buffer and do not overlap; nobody else touches a byte of either.
    pub(crate) unsafe fn exchange(&self, src: Range<u64>, dst: u64) -> Result<(), CpuError> {
        // They fit: the ranges lie in host memory.
        let (src, dst, len) = (src.start as usize, dst as usize, (src.end - src.start) as usize);
        let base = self.base();
        let Some(exchange) = &self.exchange else {
            // SAFETY: the caller's promise.
            unsafe { HostCopy::streaming().copy_raw(base.add(src), base.add(dst), len) };
            return Ok(());
        };
        let mut order = lock(&exchange.order);
        for done in (0..len).step_by(exchange.spare_len) {
            let part = exchange.spare_len.min(len - done);
            let (a, b) = (src + done, dst + done);
            let numbers = (a / GRANULE, b / GRANULE, part / GRANULE);
            let moved = if order.swap(numbers) && CUTS.load(SeqCst) > MOST_CUTS {
                Err(CpuError::Scattered { pieces: CUTS.load(SeqCst), most: MOST_CUTS })
            } else {
                // SAFETY: the caller's promise for a part of the ranges; the lock keeps the spare addresses ours.
                let swapped = unsafe { self.swap_pages(exchange.spare, a, b, part) };
                let (src, dst, len) = (src as u64, dst as u64, len as u64);
                swapped.map_err(|source| CpuError::Exchange { src, dst, len, source })
            };
            if let Err(error) = moved {
                order.swap(numbers);
                if done == 0 {
                    return Err(error);
                }
                // SAFETY: the caller's promise for the rest of the ranges.
                unsafe { HostCopy::streaming().copy_raw(base.add(a), base.add(b), len - done) };
                break;
            }
        }
        Ok(())
    }

    /// The three steps for ranges no longer than the spare addresses.
    ///
    /// # Errors
    /// A step was refused, and what had moved went home.
    ///
    /// # Safety
    /// As [`exchange`](Self::exchange), and the spare addresses are the caller's alone.
    unsafe fn swap_pages(&self, spare: usize, a: usize, b: usize, len: usize) -> std::io::Result<()> {
        let base = self.region.base();
        // SAFETY: by the caller's promise the three ranges lie in the region, do not overlap, and nobody looks at them
        // meanwhile. Each step goes to a range that holds nothing: the spare addresses, or what the step before left.
        unsafe {
            if let Err(error) = remap::move_pages(base, b, spare, len) {
                remap::restore(base, spare, len);
                remap::settle(base, spare, b, len);
                return Err(error);
            }
            if let Err(error) = remap::move_pages(base, a, b, len) {
                remap::restore(base, b, len);
                remap::settle(base, b, a, len);
                remap::settle(base, spare, b, len);
                return Err(error);
            }
            if remap::move_pages(base, spare, a, len).is_err() {
                remap::settle(base, spare, a, len);
            }
        }
        Ok(())
    }
}

/// Which granule of the beginning lies at each place.
///
/// Where two neighbours were none in the beginning, the system cuts its mapping: the *cuts* are counted over all buffers,
/// because a process may have 65,530 mappings by default, and other parts of it need some.
struct Order {
    origin: Vec<u32>,
    cuts: u64,
}

impl Order {
    fn new(granules: usize) -> Self {
        // 2^32 granules are 8 PiB, more than there are addresses.
        Order { origin: (0..granules as u32).collect(), cuts: 0 }
    }

    /// Notes that two runs of granules change places, given as their first numbers and their length; whether that makes
    /// more cuts.
    fn swap(&mut self, (a, b, count): (usize, usize, usize)) -> bool {
        let before = self.cuts_around(a, b, count);
        (0..count).for_each(|at| self.origin.swap(a + at, b + at));
        let after = self.cuts_around(a, b, count);
        self.cuts = self.cuts + after - before;
        // Wraps around when there are fewer, as the sum then does.
        CUTS.fetch_add(after.wrapping_sub(before), SeqCst);
        after > before
    }

    /// Cuts at the ends of two runs; inside them an exchange makes none.
    fn cuts_around(&self, a: usize, b: usize, count: usize) -> u64 {
        let mut ends = [a, a + count, b, b + count];
        ends.sort_unstable();
        let is_cut = |number: usize| {
            let at = ends[number];
            let known = number > 0 && ends[number - 1] == at;
            !known && at > 0 && at < self.origin.len() && self.origin[at] != self.origin[at - 1] + 1
        };
        (0..4).filter(|number| is_cut(*number)).count() as u64
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        CUTS.fetch_sub(self.cuts, SeqCst);
    }
}

/// Pageable pages: a device's memory is not host memory that a device must reach, so it is not locked and
/// takes nothing from the lock limit.
fn map(bytes: usize) -> Result<OsRegion, HostError> {
    let locker = OsLocker;
    match locker.pageable(bytes) {
        Some(region) => region,
        None => locker.lock(bytes),
    }
}

/// The longest spare range in granules: 64 MiB, three calls for each. A single granule where one call moves no more.
const SPARE: usize = 32;
/// Cuts above which no exchange makes more: a quarter of the mappings Linux allows a process by default.
const MOST_CUTS: u64 = 16 << 10;
/// Cuts in all buffers.
static CUTS: AtomicU64 = AtomicU64::new(0);

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use super::*;
    use crate::remap::seam::{FAILING, HALF_WAY};

    const PAGE: usize = 4096;
    const GRANULES: usize = 8;
    /// The count of cuts is the process's, and one of the tests here plays with it.
    static ALONE: Mutex<()> = Mutex::new(());

    /// Writes, at both ends of every page, the number it has in the buffer.
    fn stamp(pages: &Pages) {
        for number in 0..GRANULES * GRANULE / PAGE {
            // SAFETY: within the buffer, which is this test's.
            unsafe {
                pages.base().add(number * PAGE).cast::<u32>().write(number as u32);
                pages.base().add((number + 1) * PAGE - 4).cast::<u32>().write(number as u32);
            }
        }
    }

    /// The granule of the beginning that lies whole at each place; panics where none does.
    fn seen(pages: &Pages) -> Vec<usize> {
        let per = GRANULE / PAGE;
        let at = |number: usize| {
            // SAFETY: within the buffer, which is this test's.
            unsafe {
                let first = pages.base().add(number * PAGE).cast::<u32>().read() as usize;
                let last = pages.base().add((number + 1) * PAGE - 4).cast::<u32>().read() as usize;
                assert_eq!(first, last, "page {number} is in pieces");
                first
            }
        };
        let granule = |number: usize| {
            let first = at(number * per);
            assert!(first.is_multiple_of(per), "granule {number} begins with page {first}");
            (0..per).for_each(|page| assert_eq!(at(number * per + page), first + page, "granule {number}"));
            first / per
        };
        (0..GRANULES).map(granule).collect()
    }

    fn exchange(pages: &Pages, src: Range<u64>, dst: u64) -> Result<(), CpuError> {
        let granule = GRANULE as u64;
        // SAFETY: the callers name ranges of whole granules that do not overlap; one thread has the buffer.
        unsafe { pages.exchange(src.start * granule..src.end * granule, dst * granule) }
    }

    /// Whatever steps fail, and even if each takes the mapping of its destination with it: an error means that nothing
    /// changed, and success that the source has arrived.
    #[test]
    fn a_refused_step_is_undone_or_made_up_for() {
        let _alone = lock(&ALONE);
        let mut refused = 0;
        for spare in [1, 2, 4] {
            let mut pages = Pages::new(GRANULES * GRANULE).expect("16 MiB");
            let parts = pages.exchange.as_mut().expect("a kernel that can, or nothing is tested");
            parts.spare_len = spare * GRANULE;
            for failing in 0..128_u64 {
                for (src, dst) in [(1..4, 5), (4..8, 0)] {
                    HALF_WAY.set(failing & 64 != 0);
                    let failing = failing & 63;
                    stamp(&pages);
                    let before = seen(&pages);
                    FAILING.set(failing);
                    let moved = exchange(&pages, src.clone(), dst);
                    FAILING.set(0);
                    let after = seen(&pages);
                    let (from, to) = (src.start as usize..src.end as usize, dst as usize);
                    if moved.is_ok() {
                        assert_eq!(after[to..to + from.len()], before[from.clone()], "{failing:b}");
                        if failing == 0 {
                            assert_eq!(after[from.clone()], before[to..to + from.len()], "an exchange");
                        }
                    } else {
                        assert!(failing != 0);
                        refused += 1;
                        assert_eq!(after, before, "{failing:b}: {moved:?}");
                    }
                }
            }
        }
        assert!(refused > 100, "{refused}");
    }

    #[test]
    fn cuts_are_counted_and_bounded() {
        let _alone = lock(&ALONE);
        let mut order = Order::new(64);
        let mut random = 88_172_645_463_325_252_u64;
        for _ in 0..2000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let count = 1 + random as usize % 8;
            let (a, b) = ((random >> 8) as usize % (65 - count), (random >> 24) as usize % (65 - count));
            if a.abs_diff(b) >= count {
                order.swap((a, b, count));
            }
            let cuts = order.origin.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
            assert_eq!(order.cuts, cuts as u64);
        }
        drop(order);

        let pages = Pages::new(GRANULES * GRANULE).expect("16 MiB");
        stamp(&pages);
        let before = seen(&pages);
        // Others' cuts, for a moment.
        let others = MOST_CUTS + 1;
        CUTS.fetch_add(others, SeqCst);
        let refused = exchange(&pages, 0..1, 3);
        CUTS.fetch_sub(others, SeqCst);
        assert!(matches!(refused, Err(CpuError::Scattered { .. })), "{refused:?}");
        assert_eq!(seen(&pages), before);
        exchange(&pages, 0..1, 3).expect("there are mappings again");
        exchange(&pages, 3..4, 0).expect("fewer cuts are always allowed");
        assert_eq!(seen(&pages), before);
    }
}
