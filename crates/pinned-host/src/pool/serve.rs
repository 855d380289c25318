//! How a request comes by its room: a hole, a new region, or a place in the queue.

use super::config::{OnPressure, Pressure, Source};
use super::shelf::Shelf;
use super::state::{Gone, Growth, Place, Placed, State, Want};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, lock};
use crate::wait::Wake;
use crate::{HostError, HostRegion, Wait};
use core::cell::Cell;
use std::time::{Duration, Instant};

/// What a pool's handles and slices have in common; it outlives both.
pub(crate) struct Shared<R> {
    state: Mutex<State<R>>,
    /// Whether blocks that are given back may be kept on shelves. Changed under the lock of `state`.
    shelves_open: AtomicBool,
    /// What lengths are rounded up to: the grain or the largest atom. Changed under the lock of `state`.
    unit: AtomicU64,
    /// Who makes regions; `None` where there are only those there were.
    source: Option<Source<R>>,
    pressure: Option<OnPressure>,
}

impl<R: HostRegion> Shared<R> {
    pub(super) fn new(state: State<R>, source: Option<Source<R>>, pressure: Option<OnPressure>) -> Self {
        let (open, unit) = (state.may_keep_back(), state.unit());
        let (shelves_open, unit) = (AtomicBool::new(open), AtomicU64::new(unit));
        Shared { state: Mutex::new(state), shelves_open, unit, source, pressure }
    }

    /// Bytes that slices of `bytes` bytes take.
    #[inline]
    pub(super) fn rounded(&self, bytes: u64) -> u64 {
        let unit = self.unit.load(Ordering::Relaxed);
        // Longer ones than that are refused before it matters.
        bytes.saturating_add(unit - 1) & !(unit - 1)
    }

    #[inline]
    pub(super) fn are_shelves_open(&self) -> bool {
        self.shelves_open.load(Ordering::SeqCst)
    }

    /// Publishes what others read without the lock. To be called whenever it may have changed.
    pub(super) fn publish(&self, state: &State<R>) {
        self.shelves_open.store(state.may_keep_back(), Ordering::SeqCst);
        self.unit.store(state.unit(), Ordering::Relaxed);
    }

    /// Makes holes of what is on shelves, and says which regions shall go now. Whoever holds the lock sees each block on a
    /// shelf or as a hole, never between the two.
    pub(super) fn clear(&self, shelves: &[Arc<Shelf<R>>], state: &mut State<R>) -> Vec<Gone<R>> {
        // Nobody need be woken for it: while somebody waits, nothing is on a shelf.
        shelves.iter().flat_map(|shelf| shelf.clear()).filter_map(|place| state.free(place)).collect()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<R>> {
        lock(&self.state)
    }

    pub(super) fn makes_regions(&self) -> bool {
        self.source.is_some()
    }

    /// Takes a block back. Touches the heap only where a region goes.
    pub(super) fn free(&self, place: Place) {
        let mut state = self.lock();
        let idle = state.free(place);
        state.wake_next();
        drop(state);
        if let Some(region) = idle {
            self.release(region);
        }
    }

    /// Room at once, or a refusal.
    pub(super) fn take(&self, shelves: &[Arc<Shelf<R>>], want: Want) -> Result<Placed<R>, HostError> {
        let mut state = self.lock();
        state.check(want)?;
        // Who is asked to release something acts for the first in the queue.
        if !state.queue.is_empty() && !PRESSED.get() {
            return Err(state.full(want));
        }
        // The whole of the way that is usually taken.
        if let Some(placed) = state.place(want)? {
            return Ok(placed);
        }
        let (state, served) = self.serve(shelves, state, want, &mut true);
        served.map_err(|refused| refused.unwrap_or_else(|| state.full(want)))
    }

    /// Room, as soon as there is some and it is the caller's turn.
    pub(super) fn wait(
        self: &Arc<Self>,
        shelves: &[Arc<Shelf<R>>],
        want: Want,
        wait: &Wait<'_>,
    ) -> Result<Placed<R>, HostError> {
        if PRESSED.get() {
            // It would wait for itself.
            return self.take(shelves, want);
        }
        // Declared before the guard of the lock, so dropped after it: it takes the lock itself.
        let mut turn = Turn { shared: self, number: None };
        let mut may_press = true;
        let mut state = self.lock();
        state.check(want)?;
        if state.queue.is_empty()
            && let Some(placed) = state.place(want)?
        {
            return Ok(placed);
        }
        let began = Instant::now();
        let waited = || Instant::now() - began;
        let me: Arc<dyn Wake> = Arc::<Self>::clone(self);
        let _watch = wait.cancel.map(|token| token.watch(Arc::downgrade(&me)));
        let (number, sleeper) = state.join();
        turn.number = Some(number);
        // From now on nothing is put on shelves, and what is there is looked at before anybody sleeps.
        self.publish(&state);
        let mut reason = None;
        loop {
            if state.queue.front().is_some_and(|(first, _)| *first == number) {
                let (after, served) = self.serve(shelves, state, want, &mut may_press);
                state = after;
                match served {
                    Ok(placed) => {
                        state.leave(number);
                        turn.number = None;
                        self.publish(&state);
                        // What is left may be enough for the next in line.
                        state.wake_next();
                        return Ok(placed);
                    }
                    Err(Some(refused)) if refused.is_for_ever() || !state.is_waiting_worth_it() => {
                        return Err(refused);
                    }
                    Err(refused) => reason = refused,
                }
            }
            // After `serve`, which leaves the lock: nobody is woken for what happened meanwhile.
            state.check(want)?;
            let why = |state: &State<R>, reason: Option<HostError>| {
                Box::new(reason.unwrap_or_else(|| state.full(want)))
            };
            if wait.cancel.is_some_and(|token| token.is_cancelled()) {
                let reason = why(&state, reason);
                return Err(HostError::Cancelled { asked: want.bytes, waited: waited(), reason });
            }
            state = match wait.deadline {
                None => sleeper.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let now = Instant::now();
                    if now >= deadline {
                        let reason = why(&state, reason);
                        return Err(HostError::Timeout { asked: want.bytes, waited: waited(), reason });
                    }
                    sleeper.wait_timeout(state, deadline - now).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Room in a hole, or in a region made for it; `None` where nothing refused but the budget. It leaves the lock while it
    /// makes a region, gives one back, or calls who is to release something, once.
    #[allow(clippy::type_complexity, reason = "a guard and what came of it")]
    fn serve<'a>(
        &'a self,
        shelves: &[Arc<Shelf<R>>],
        mut state: MutexGuard<'a, State<R>>,
        want: Want,
        may_press: &mut bool,
    ) -> (MutexGuard<'a, State<R>>, Result<Placed<R>, Option<HostError>>) {
        let mut refused = None;
        let (mut made, mut cleared) = (0, false);
        loop {
            match state.place(want) {
                Ok(Some(placed)) => return (state, Ok(placed)),
                Ok(None) => {}
                Err(error) => return (state, Err(Some(error))),
            }
            if !core::mem::replace(&mut cleared, true) {
                let gone = self.clear(shelves, &mut state);
                state = self.release_all(state, gone);
                continue;
            }
            // The second where the first told of an atom.
            if let Some(source) = self.source.as_ref().filter(|_| made < 2 && refused.is_none())
                && let Some(growth) = state.growth(want, source.region)
            {
                // Memory that is idle and locked already comes before memory that is not locked.
                let may_page = !state.has_idle();
                drop(state);
                let region = self.grow(source, growth, may_page);
                state = self.lock();
                match region.map(|region| region.settle(&mut state)) {
                    Ok(Ok(())) => made += 1,
                    Ok(Err((error, given_back))) => {
                        drop(state);
                        drop(given_back);
                        state = self.lock();
                        refused = error;
                    }
                    Err(error) if state.has_idle() && !error.is_for_ever() => {
                        // What refuses may want just what lies idle here.
                        let gone = state.take_idle(0);
                        state = self.release_all(state, gone);
                    }
                    Err(error) => refused = Some(error),
                }
                continue;
            }
            if let Some(callback) = self.pressure.as_ref().filter(|_| *may_press && !PRESSED.get()) {
                *may_press = false;
                (made, cleared, refused) = (0, false, None);
                let pressure = state.pressure(want.bytes);
                drop(state);
                press(callback, pressure);
                state = self.lock();
                continue;
            }
            return (state, Err(refused));
        }
    }

    /// Makes a region, after giving back those that must go for it. What is pending stays so until it is settled.
    fn grow(&self, source: &Source<R>, growth: Growth<R>, may_page: bool) -> Result<Made<'_, R>, HostError> {
        let Growth { wished, least, victims, pending } = growth;
        // Settles on every way out, a panic of the locker's included.
        let mut made = Made { shared: self, wished, pending, region: None };
        for victim in victims {
            let (bytes, took) = timed(victim);
            self.lock().count_gone(bytes, took);
        }
        let began = Instant::now();
        let region = source.make(wished, least, may_page)?;
        made.region = Some((Arc::new(region), began.elapsed()));
        Ok(made)
    }

    /// Gives a region back to the system. Not under the lock: it may take long.
    pub(super) fn release(&self, gone: Gone<R>) {
        // Settles also when the region's own drop panics.
        let _settled = Made { shared: self, wished: 0, pending: gone.bytes, region: None };
        let (bytes, took) = timed(gone);
        self.lock().count_gone(bytes, took);
    }

    /// The same for several; leaves the lock if there are any.
    fn release_all<'a>(
        &'a self,
        state: MutexGuard<'a, State<R>>,
        gone: Vec<Gone<R>>,
    ) -> MutexGuard<'a, State<R>> {
        if gone.is_empty() {
            return state;
        }
        drop(state);
        gone.into_iter().for_each(|region| self.release(region));
        self.lock()
    }

    /// Asks who was to be asked to release something.
    pub(super) fn press_for(&self, bytes: u64) {
        if let Some(callback) = self.pressure.as_ref().filter(|_| !PRESSED.get()) {
            let pressure = self.lock().pressure(bytes);
            press(callback, pressure);
        }
    }
}

/// Drops a region; its bytes, and how long that took.
fn timed<R>(gone: Gone<R>) -> (u64, Duration) {
    let began = Instant::now();
    let Gone { region, bytes } = gone;
    drop(region);
    (bytes, began.elapsed())
}

impl<R: HostRegion> Wake for Shared<R> {
    fn wake_all(&self) {
        let state = self.lock();
        state.queue.iter().for_each(|(_, sleeper)| sleeper.notify_one());
    }
}

impl<R: HostRegion> State<R> {
    /// Whether a request can ever be served.
    fn check(&self, want: Want) -> Result<(), HostError> {
        let capacity = self.max_slice();
        match want.bytes {
            0 => Err(HostError::ZeroSize),
            asked if asked > capacity => Err(HostError::TooLarge { asked, capacity }),
            _ => Ok(()),
        }
    }

    fn pressure(&self, asked: u64) -> Pressure {
        Pressure { asked, budget: self.budget, capacity: self.capacity, in_use: self.taken.bytes }
    }

    fn count_gone(&mut self, bytes: u64, took: Duration) {
        self.counts.host_free_time.add(took);
        self.counts.num_host_free += 1;
        self.counts.allocations.fall(1);
        self.counts.allocated_bytes.fall(bytes);
    }
}

impl HostError {
    /// Whether nobody's giving back can change it.
    fn is_for_ever(&self) -> bool {
        match self {
            HostError::LockLimit { limit, asked, .. } | HostError::MemoryLimit { limit, asked, .. } => {
                asked > limit
            }
            _ => false,
        }
    }
}

/// Bytes that are pending, and the region made of them, if it is: settled when dropped, after the region is gone.
struct Made<'a, R: HostRegion> {
    shared: &'a Shared<R>,
    wished: u64,
    pending: u64,
    region: Option<(Arc<R>, Duration)>,
}

impl<R: HostRegion> Made<'_, R> {
    /// Adds the region to the pool; or returns it, to be dropped where no lock is held.
    ///
    /// Without an error where the budget was lowered meanwhile: there is no room now, and that is all there is to say.
    fn settle(mut self, state: &mut State<R>) -> Result<(), (Option<HostError>, Self)> {
        let Some((region, took)) = self.region.take() else { return Ok(()) };
        state.settle(core::mem::take(&mut self.pending));
        let (bytes, asked) = (region.len() as u64, self.wished);
        let room = state.budget.saturating_sub(state.used());
        let added = if bytes > room {
            let too_long = HostError::OverBudget { bytes, asked, budget: state.budget, room };
            Err((bytes > asked).then_some(too_long))
        } else {
            state.add(Arc::clone(&region), bytes).map_err(Some)
        };
        if let Err(error) = added {
            // Until it is gone.
            state.pend(bytes);
            (self.pending, self.region) = (bytes, Some((region, took)));
            return Err((error, self));
        }
        state.counts.host_alloc_time.add(took);
        state.counts.num_host_alloc += 1;
        self.shared.publish(state);
        state.wake_next();
        Ok(())
    }
}

impl<R: HostRegion> Drop for Made<'_, R> {
    fn drop(&mut self) {
        drop(self.region.take());
        if self.pending > 0 {
            let mut state = self.shared.lock();
            state.settle(self.pending);
            self.shared.publish(&state);
            state.wake_next();
        }
    }
}

/// A place in the queue of waiters; given up on every way out, a panic included.
struct Turn<'a, R: HostRegion> {
    shared: &'a Shared<R>,
    number: Option<u64>,
}

impl<R: HostRegion> Drop for Turn<'_, R> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut state = self.shared.lock();
            state.leave(number);
            self.shared.publish(&state);
            state.wake_next();
        }
    }
}

/// Calls the callback, marking the thread.
fn press(callback: &OnPressure, pressure: Pressure) {
    struct Unmark;
    impl Drop for Unmark {
        fn drop(&mut self) {
            PRESSED.set(false);
        }
    }
    PRESSED.set(true);
    let _unmark = Unmark;
    callback(pressure);
}

thread_local! {
    /// Whether this thread is in a pool's callback.
    static PRESSED: Cell<bool> = const { Cell::new(false) };
}
