//! Locked regions, divided: many slices from few regions, without leaks and without power-of-two waste.

use crate::{HostError, HostRegion, PinnedSlice};
use allocator_core::{AllocError, Handle, OffsetAllocator, Request};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Host memory that is divided into slices: a few regions, made once, each with its own allocator.
///
/// Cloning is cheap and names the same pool. A region goes back to the system when the pool and the last slice
/// of it are gone, in whatever order.
///
/// ```text
///    region 0 (locked)                      region 1 (pageable)
///    | slice | hole |   slice   |  hole  |  | slice |        hole, never touched           |
///                                                   ^ touched: prepared on first use beyond
/// ```
///
/// Who waits in [`allocate_deadline`](Self::allocate_deadline) is served in order of arrival and overtaken by
/// nobody, so a large request cannot starve behind small ones.
///
/// Source: DeepSpeed's pinned-tensor manager and PyTorch's host cache do this job with one locked block per
/// request and with powers of two; see the crate's docs.
///
/// ```
/// use pinned_host::{HostError, HostPool, OsLocker, PageLocker};
///
/// let region = OsLocker.pageable(64 << 10).expect("the system locker has pageable memory")?;
/// let pool = HostPool::new(vec![region], 64)?;
/// let mut slice = pool.allocate(1000)?;
/// slice.as_mut_slice().fill(7);
/// assert_eq!((slice.len(), pool.stats().in_use), (1000, 1024));
/// drop(slice);
/// assert_eq!(pool.stats().in_use, 0);
/// # Ok::<(), HostError>(())
/// ```
pub struct HostPool<R: HostRegion> {
    shared: Arc<Shared<R>>,
}

/// What a pool holds, in bytes unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostStats {
    /// All regions together.
    pub capacity: u64,
    /// In slices now, rounding included.
    pub in_use: u64,
    /// The most that was in slices at once.
    pub peak_in_use: u64,
    /// The part of `capacity` that is page-locked.
    pub locked: u64,
    /// The part of `capacity` that is pageable.
    pub pageable: u64,
    /// The largest piece that is free in one region.
    pub largest_hole: u64,
    /// Slices alive, a count.
    pub slices: usize,
    /// Callers waiting for room, a count.
    pub waiters: usize,
}

impl<R: HostRegion> HostPool<R> {
    /// A pool over `regions`, whose slices take whole multiples of `grain` bytes, and of every region's
    /// [`atom`](HostRegion::atom).
    ///
    /// Room is looked for in the order of `regions`: put the better memory first. The end of a region that is
    /// no multiple of the grain is not used. Without regions, every request is [`HostError::TooLarge`].
    ///
    /// # Errors
    /// [`HostError::BadGrain`] unless `grain` is a power of two; [`HostError::ZeroSize`] for a region smaller
    /// than the grain.
    pub fn new(regions: Vec<R>, grain: u64) -> Result<Self, HostError> {
        if !grain.is_power_of_two() {
            return Err(HostError::BadGrain { grain });
        }
        let atoms = regions.iter().map(|region| region.atom() as u64);
        let grain = atoms.filter(|atom| atom.is_power_of_two()).fold(grain, u64::max);
        let mut rooms = Vec::with_capacity(regions.len());
        let mut totals = HostStats::default();
        let mut largest_region = 0;
        for region in &regions {
            let size = region.len() as u64 / grain * grain;
            if size == 0 {
                return Err(HostError::ZeroSize);
            }
            rooms.push(Room { allocator: OffsetAllocator::with_grain(size, grain)?, touched: 0 });
            totals.capacity += size;
            *(if region.is_locked() { &mut totals.locked } else { &mut totals.pageable }) += size;
            largest_region = largest_region.max(size);
        }
        let state =
            State { rooms, in_use: 0, peak_in_use: 0, slices: 0, queue: VecDeque::new(), next_number: 0 };
        let state = Mutex::new(state);
        let shared = Shared { regions, state, freed: Condvar::new(), grain, totals, largest_region };
        Ok(HostPool { shared: Arc::new(shared) })
    }

    /// A slice of exactly `bytes` bytes, or a refusal at once. O(regions).
    ///
    /// It starts at a multiple of 64 bytes in its region, of 4 KiB when it has at least 4 KiB, and of the grain;
    /// regions of the operating system start at a page. The contents are whatever was there before.
    ///
    /// # Errors
    /// [`HostError::Full`] when there is no room, and also when there is but somebody waits for it: a caller that
    /// does not wait overtakes nobody. [`HostError::TooLarge`], [`HostError::ZeroSize`].
    pub fn allocate(&self, bytes: usize) -> Result<PinnedSlice<R>, HostError> {
        let request = self.request(bytes)?;
        let mut state = self.shared.lock();
        let placed = if state.queue.is_empty() { state.place(request)? } else { None };
        match placed {
            Some(placed) => {
                drop(state);
                Ok(self.slice(placed, bytes))
            }
            None => Err(HostError::Full {
                asked: bytes as u64,
                free: self.shared.totals.capacity - state.in_use,
                largest: state.largest_hole(),
                waiters: state.queue.len(),
            }),
        }
    }

    /// As [`allocate`](Self::allocate), but waits for room until `deadline`; `None` waits for as long as it takes.
    ///
    /// First come, first served. A deadline in the past still gets what is free and wanted by nobody else.
    ///
    /// # Errors
    /// [`HostError::Timeout`], [`HostError::TooLarge`], [`HostError::ZeroSize`].
    pub fn allocate_deadline(
        &self,
        bytes: usize,
        deadline: Option<Instant>,
    ) -> Result<PinnedSlice<R>, HostError> {
        let request = self.request(bytes)?;
        // Declared before the guard, so dropped after it: `Turn::drop` takes the lock itself.
        let mut turn = Turn { shared: &self.shared, number: None };
        let mut state = self.shared.lock();
        if state.queue.is_empty()
            && let Some(placed) = state.place(request)?
        {
            drop(state);
            return Ok(self.slice(placed, bytes));
        }
        let began = Instant::now();
        let number = state.join();
        turn.number = Some(number);
        loop {
            if state.queue.front() == Some(&number)
                && let Some(placed) = state.place(request)?
            {
                state.leave(number);
                turn.number = None;
                let others = !state.queue.is_empty();
                drop(state);
                if others {
                    // What is left may be enough for the next in line.
                    self.shared.freed.notify_all();
                }
                return Ok(self.slice(placed, bytes));
            }
            let freed = &self.shared.freed;
            state = match deadline {
                None => freed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let now = Instant::now();
                    if now >= deadline {
                        return Err(HostError::Timeout { asked: bytes as u64, waited: now - began });
                    }
                    freed.wait_timeout(state, deadline - now).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// What the pool holds now. O(regions).
    pub fn stats(&self) -> HostStats {
        let state = self.shared.lock();
        HostStats {
            in_use: state.in_use,
            peak_in_use: state.peak_in_use,
            largest_hole: state.largest_hole(),
            slices: state.slices,
            waiters: state.queue.len(),
            ..self.shared.totals
        }
    }

    /// The largest slice the pool can give when nothing is in use, in bytes.
    pub fn max_slice(&self) -> usize {
        // No region is longer than `usize`.
        self.shared.largest_region as usize
    }

    fn request(&self, bytes: usize) -> Result<Request, HostError> {
        let (asked, capacity) = (bytes as u64, self.shared.largest_region);
        if asked == 0 {
            return Err(HostError::ZeroSize);
        }
        if asked > capacity {
            return Err(HostError::TooLarge { asked, capacity });
        }
        let align = if asked >= PAGE { PAGE } else { LINE };
        let grain = self.shared.grain;
        Ok(Request::new(asked.next_multiple_of(grain)).align(align.max(grain)))
    }

    /// Makes the slice, then the pages it is the first to use: if that panics, the slice goes back.
    fn slice(&self, placed: Placed, bytes: usize) -> PinnedSlice<R> {
        let Placed { region, handle, offset, untouched } = placed;
        let slice = PinnedSlice::new(Arc::clone(&self.shared), region, handle, offset as usize, bytes);
        if let Some((from, bytes)) = untouched
            && !slice.is_locked()
        {
            slice.region().prepare(from as usize, bytes as usize);
        }
        slice
    }
}

impl<R: HostRegion> Clone for HostPool<R> {
    fn clone(&self) -> Self {
        HostPool { shared: Arc::clone(&self.shared) }
    }
}

impl<R: HostRegion> core::fmt::Debug for HostPool<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("HostPool").field(&self.stats()).finish()
    }
}

/// What a pool's handles and slices have in common; it outlives both.
pub(crate) struct Shared<R> {
    pub(crate) regions: Vec<R>,
    state: Mutex<State>,
    /// Signalled when room was freed or the queue of waiters advanced.
    freed: Condvar,
    grain: u64,
    /// Only `capacity`, `locked` and `pageable`: what never changes.
    totals: HostStats,
    largest_region: u64,
}

impl<R> Shared<R> {
    /// Takes a block back. Allocates nothing.
    pub(crate) fn free(&self, region: usize, handle: Handle) {
        let mut state = self.lock();
        let freed = state.rooms[region].allocator.free(handle);
        debug_assert!(freed.is_ok(), "a slice owns its block: {freed:?}");
        if let Ok(range) = freed {
            state.in_use -= range.end - range.start;
            state.slices -= 1;
        }
        let waited_for = !state.queue.is_empty();
        drop(state);
        if waited_for {
            self.freed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct State {
    /// One per region, in the same order.
    rooms: Vec<Room>,
    in_use: u64,
    peak_in_use: u64,
    slices: usize,
    /// Numbers of the callers that wait, longest first. Only the first may take room.
    queue: VecDeque<u64>,
    next_number: u64,
}

struct Room {
    allocator: OffsetAllocator,
    /// No byte at or beyond this offset was ever part of a slice.
    touched: u64,
}

struct Placed {
    region: usize,
    handle: Handle,
    offset: u64,
    /// Offset and length of what was used for the first time.
    untouched: Option<(u64, u64)>,
}

impl State {
    /// Takes room in the first region that has it; `None` when none has.
    fn place(&mut self, request: Request) -> Result<Option<Placed>, HostError> {
        for (region, room) in self.rooms.iter_mut().enumerate() {
            let handle = match room.allocator.allocate(request) {
                Ok(handle) => handle,
                Err(AllocError::OutOfMemory { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let range = room.allocator.block(handle)?.range;
            let untouched = (range.end > room.touched).then(|| (room.touched, range.end - room.touched));
            room.touched = room.touched.max(range.end);
            self.in_use += range.end - range.start;
            self.peak_in_use = self.peak_in_use.max(self.in_use);
            self.slices += 1;
            return Ok(Some(Placed { region, handle, offset: range.start, untouched }));
        }
        Ok(None)
    }

    fn largest_hole(&self) -> u64 {
        self.rooms.iter().map(|room| room.allocator.stats().largest_hole).max().unwrap_or(0)
    }

    fn join(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.queue.push_back(number);
        number
    }

    fn leave(&mut self, number: u64) {
        self.queue.retain(|&waiting| waiting != number);
    }
}

/// A place in the queue of waiters; given up on every way out, a panic included.
struct Turn<'a, R> {
    shared: &'a Shared<R>,
    number: Option<u64>,
}

impl<R> Drop for Turn<'_, R> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.lock().leave(number);
            self.shared.freed.notify_all();
        }
    }
}

/// Alignment of small slices in bytes: a cache line, and more than any scalar needs.
const LINE: u64 = 64;
/// Alignment in bytes of slices at least that long: what direct I/O and page-wise engines want.
const PAGE: u64 = 4096;
