//! How a request comes by its room: a hole, a new region, or a place in the queue.

use super::config::{OnPressure, Pressure, Source};
use super::shelf::Shelf;
use super::state::{Growth, Place, Placed, State, Want};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, lock};
use crate::wait::Wake;
use crate::{HostError, HostRegion, Wait};
use core::cell::Cell;
use std::time::Instant;

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

    /// Makes holes of what is on shelves.
    pub(super) fn clear(&self, shelves: &[Arc<Shelf<R>>]) {
        let mut idle = Vec::new();
        for shelf in shelves {
            let mut blocks = shelf.clear().peekable();
            if blocks.peek().is_some() {
                let mut state = self.lock();
                idle.extend(blocks.filter_map(|place| state.free(place)));
                state.wake_next();
            }
        }
        idle.into_iter().for_each(|region| self.release(region));
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
        if !state.queue.is_empty() {
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
        if state.queue.is_empty() {
            if let Some(placed) = state.place(want)? {
                return Ok(placed);
            }
            let (after, served) = self.serve(shelves, state, want, &mut may_press);
            state = after;
            match served {
                Ok(placed) => return Ok(placed),
                Err(Some(refused)) if !state.is_waiting_worth_it() => return Err(refused),
                Err(_) => {}
            }
        }
        let began = Instant::now();
        let waited = || Instant::now() - began;
        let me: Arc<dyn Wake> = Arc::<Self>::clone(self);
        let _watch = wait.cancel.map(|token| token.watch(Arc::downgrade(&me)));
        let (number, sleeper) = state.join();
        turn.number = Some(number);
        // From now on nothing is put on shelves, and what is there is looked at before anybody sleeps.
        self.publish(&state);
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
                    Err(Some(refused)) if !state.is_waiting_worth_it() => return Err(refused),
                    Err(_) => {}
                }
            }
            // After `serve`, which leaves the lock: nobody is woken for what happened meanwhile.
            state.check(want)?;
            if wait.cancel.is_some_and(|token| token.is_cancelled()) {
                return Err(HostError::Cancelled { asked: want.bytes, waited: waited() });
            }
            state = match wait.deadline {
                None => sleeper.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let now = Instant::now();
                    if now >= deadline {
                        return Err(HostError::Timeout { asked: want.bytes, waited: waited() });
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
                drop(state);
                self.clear(shelves);
                state = self.lock();
                continue;
            }
            // The second where the first told of an atom.
            if let Some(source) = self.source.as_ref().filter(|_| made < 2 && refused.is_none())
                && let Some(growth) = state.growth(want, source.region)
            {
                drop(state);
                let region = self.grow(source, growth);
                state = self.lock();
                made += 1;
                match region.map(|region| region.settle(&mut state)) {
                    Ok(Ok(())) => {}
                    Ok(Err((error, region))) => {
                        drop(state);
                        drop(region);
                        state = self.lock();
                        refused = error;
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
    fn grow(&self, source: &Source<R>, growth: Growth<R>) -> Result<Made<'_, R>, HostError> {
        let Growth { wished, least, victims } = growth;
        // Settles on every way out, a panic of the locker's included.
        let mut made = Made { shared: self, pending: wished, region: None };
        victims.into_iter().for_each(|victim| self.release(victim));
        let began = Instant::now();
        made.region = Some((source.make(wished, least)?, began.elapsed()));
        Ok(made)
    }

    /// Gives a region back to the system. Not under the lock: it may take long.
    pub(super) fn release(&self, (region, bytes): (Arc<R>, u64)) {
        let began = Instant::now();
        drop(region);
        let took = began.elapsed();
        let mut state = self.lock();
        state.settle(bytes);
        state.counts.host_free_time.add(took);
        state.counts.num_host_free += 1;
        state.counts.allocations.fall(1);
        state.counts.allocated_bytes.fall(bytes);
        self.publish(&state);
        state.wake_next();
    }

    /// Asks who was to be asked to release something.
    pub(super) fn press_for(&self, bytes: u64) {
        if let Some(callback) = self.pressure.as_ref().filter(|_| !PRESSED.get()) {
            let pressure = self.lock().pressure(bytes);
            press(callback, pressure);
        }
    }
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

    /// The longest slice there can be when nothing is in use.
    pub(super) fn max_slice(&self) -> u64 {
        self.longest.min(self.budget)
    }

    fn pressure(&self, asked: u64) -> Pressure {
        Pressure { asked, budget: self.budget, capacity: self.capacity(), in_use: self.taken.bytes }
    }
}

/// A region that is made, or being made: its bytes are pending until it is settled.
struct Made<'a, R: HostRegion> {
    shared: &'a Shared<R>,
    pending: u64,
    region: Option<(R, std::time::Duration)>,
}

impl<R: HostRegion> Made<'_, R> {
    /// Adds the region to the pool; or gives it back, to be dropped where no lock is held.
    ///
    /// Without an error where the budget was lowered meanwhile: there is no room now, and that is all there is to say.
    fn settle(mut self, state: &mut State<R>) -> Result<(), (Option<HostError>, Arc<R>)> {
        let wished = core::mem::take(&mut self.pending);
        state.settle(wished);
        let Some((region, took)) = self.region.take() else { return Ok(()) };
        let (bytes, region) = (region.len() as u64, Arc::new(region));
        let room = state.budget.saturating_sub(state.used());
        let added = if bytes > room {
            let too_long = HostError::OverBudget { bytes, asked: wished, budget: state.budget, room };
            Err((bytes > wished).then_some(too_long))
        } else {
            state.add(Arc::clone(&region)).map_err(Some)
        };
        self.shared.publish(state);
        state.wake_next();
        added.map_err(|error| (error, region))?;
        state.counts.host_alloc_time.add(took);
        state.counts.num_host_alloc += 1;
        Ok(())
    }
}

impl<R: HostRegion> Drop for Made<'_, R> {
    fn drop(&mut self) {
        if self.pending > 0 {
            let mut state = self.shared.lock();
            state.settle(self.pending);
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
