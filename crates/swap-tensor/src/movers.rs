//! The pool's own threads: some bring tensors in, one writes them out, one keeps the time for tasks.
//!
//! Threads start with their first work, and end with the pool. What brings in never waits behind what writes out.
//! Lock order: the books, then this.

use crate::{
    device::DeviceIndex,
    hints::{Hint, Hints},
    pool::Inner,
    prefetch::Wish,
    spill::Batch,
    tensor::Token,
};
use pinned_host::Transfer;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Work a thread does for somebody else, to its end.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// The threads and what they have to do.
pub(crate) struct Movers<T: Transfer> {
    shared: Arc<Shared<T>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared<T: Transfer> {
    state: Mutex<State<T>>,
    /// There is work, or no more will come.
    work: Condvar,
    /// A piece of work is done.
    done: Condvar,
}

struct State<T: Transfer> {
    /// Leases and calls of tasks: somebody waits for them.
    demands: VecDeque<Work>,
    /// What to fetch ahead.
    hints: Hints<T>,
    /// Tensors to write to a lower tier.
    spills: VecDeque<(Arc<Inner<T>>, Batch)>,
    /// When tasks whose deadline passes must look again, in whole ticks: however many wait, few moments are kept.
    alarms: BTreeMap<Instant, Weak<Inner<T>>>,
    /// What ticks count from.
    epoch: Instant,
    /// Threads of each role, and how many of them are at work.
    threads: [usize; 3],
    busy: [usize; 3],
    closed: bool,
}

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Serves demands, then wishes.
    In,
    /// Writes to lower tiers.
    Out,
    /// Wakes tasks at their deadlines.
    Clock,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Role::In => "swap-in",
            Role::Out => "swap-out",
            Role::Clock => "swap-clock",
        }
    }
}

impl<T: Transfer> Movers<T> {
    pub(crate) fn new() -> Self {
        let state = State {
            demands: VecDeque::new(),
            hints: Hints::new(),
            spills: VecDeque::new(),
            alarms: BTreeMap::new(),
            epoch: Instant::now(),
            threads: [0; 3],
            busy: [0; 3],
            closed: false,
        };
        let shared = Shared { state: Mutex::new(state), work: Condvar::new(), done: Condvar::new() };
        Movers { shared: Arc::new(shared), threads: Mutex::new(Vec::new()) }
    }

    /// Does `work` on a thread that brings in. `Err` gives it back: no thread could be had.
    pub(crate) fn demand(&self, work: Work) -> Result<(), Work> {
        let mut state = self.shared.lock();
        state.demands.push_back(work);
        // A demand may wait for hints: one thread more serves those.
        let wanted = state.demand_threads() + usize::from(state.hints.any());
        let there = self.start(&mut state, Role::In, wanted);
        let back = if there { None } else { state.demands.pop_back() };
        drop(state);
        self.shared.work.notify_all();
        back.map_or(Ok(()), Err)
    }

    /// Adds wishes for a device; one that is waiting already is not added again. At most `threads` serve them at a time.
    pub(crate) fn wish<'a>(
        &self,
        tokens: impl Iterator<Item = &'a Arc<Token<T>>>,
        on: DeviceIndex,
        threads: usize,
    ) where
        T: 'a,
    {
        for token in tokens {
            // Looks into the books, whose lock comes before this one.
            if let Some(wish) = Wish::new(token, on) {
                self.shared.lock().hints.wish(wish);
            }
        }
        let mut state = self.shared.lock();
        if state.hints.wishes() == 0 {
            return;
        }
        let wanted = state.demand_threads() + threads.min(state.hints.wishes());
        // A wish is a hint: without a thread nobody serves it.
        let forgotten = match self.start(&mut state, Role::In, wanted) {
            true => Vec::new(),
            false => state.hints.take_wishes(|_| true),
        };
        drop(state);
        forgotten.iter().for_each(Wish::forget);
        if !forgotten.is_empty() {
            self.shared.done.notify_all();
        }
        drop(forgotten);
        self.shared.work.notify_all();
    }

    /// Has a thread look at what the schedule wants.
    pub(crate) fn poke(&self, inner: &Arc<Inner<T>>) {
        let mut state = self.shared.lock();
        if state.hints.poke(inner) {
            let wanted = state.demand_threads() + inner.fetchers().min(state.hints.wishes() + 1);
            if !self.start(&mut state, Role::In, wanted) {
                state.hints.unpoke(); // as with a wish
            }
            drop(state);
            self.shared.work.notify_all();
        }
    }

    /// Takes back the wishes for `tokens` that nobody has begun to serve; how many those were.
    pub(crate) fn unwish(&self, wanted: impl Fn(&Arc<Token<T>>) -> bool) -> usize {
        let mut state = self.shared.lock();
        let taken = state.hints.take_wishes(|wish| wanted(wish.token()));
        taken.iter().for_each(Wish::forget);
        drop(state);
        self.shared.done.notify_all();
        taken.len()
    }

    /// Writes tensors to the lower tier, on a thread that does so. `Err` gives them back: no thread could be had.
    pub(crate) fn spill(&self, inner: &Arc<Inner<T>>, batch: Batch) -> Result<(), Batch> {
        let mut state = self.shared.lock();
        let wanted = (state.busy[Role::Out as usize] + state.spills.len() + 1).min(MOST_OUT);
        if !self.start(&mut state, Role::Out, wanted) {
            return Err(batch);
        }
        state.spills.push_back((Arc::clone(inner), batch));
        drop(state);
        self.shared.work.notify_all();
        Ok(())
    }

    /// Wakes the tasks that wait for the books of `inner` at `at`, or a tick later at most.
    pub(crate) fn alarm(&self, inner: &Arc<Inner<T>>, at: Instant) {
        let mut state = self.shared.lock();
        let at = state.next_tick(at);
        let first = state.alarms.first_key_value().is_none_or(|(first, _)| at < *first);
        state.alarms.entry(at).or_insert_with(|| Arc::downgrade(inner));
        self.start(&mut state, Role::Clock, 1);
        drop(state);
        if first {
            self.shared.work.notify_all();
        }
    }

    /// Blocks until every hint there is now has been served or given up: not for those that others give meanwhile.
    pub(crate) fn wait_hints(&self) {
        let end = self.shared.lock().hints.end();
        self.wait_hints_before(end);
    }

    fn wait_hints_before(&self, end: u64) {
        let mut state = self.shared.lock();
        while state.hints.any_before(end) {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes sure `wanted` threads of a role run; `false` if not even one does.
    fn start(&self, state: &mut State<T>, role: Role, wanted: usize) -> bool {
        while state.threads[role as usize] < wanted && !state.closed {
            let shared = Arc::clone(&self.shared);
            let thread =
                std::thread::Builder::new().name(role.name().into()).spawn(move || shared.serve(role));
            let Ok(thread) = thread else { break };
            state.threads[role as usize] += 1;
            self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        state.threads[role as usize] > 0
    }
}

impl<T: Transfer> State<T> {
    /// Threads that demands take, those included that wait for one: they are served before all else.
    fn demand_threads(&self) -> usize {
        (self.demanding() + self.demands.len()).min(MOST_DEMANDS)
    }

    /// The first tick that is not before `at`.
    fn next_tick(&self, at: Instant) -> Instant {
        let since = at.saturating_duration_since(self.epoch).as_nanos();
        let ticks = u32::try_from(since.div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX);
        self.epoch.checked_add(TICK.saturating_mul(ticks)).map_or(at, |tick| tick.max(at))
    }

    /// Demands at work.
    fn demanding(&self) -> usize {
        self.busy[Role::In as usize] - self.hints.serving()
    }
}

impl<T: Transfer> Shared<T> {
    fn serve(&self, role: Role) {
        let mut state = self.lock();
        while !state.closed {
            state = match role {
                Role::In => self.bring_in(state),
                Role::Out => self.write_out(state),
                Role::Clock => self.ring(state),
            };
        }
    }

    fn bring_in<'a>(&'a self, mut state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        let work = if state.demanding() < MOST_DEMANDS { state.demands.pop_front() } else { None };
        if let Some(work) = work {
            let _busy = self.begin(state, Role::In, None);
            work();
        } else if let Some((number, hint)) = state.hints.begin() {
            let _busy = self.begin(state, Role::In, Some(number));
            match hint {
                Hint::Wish(wish) => wish.serve(),
                Hint::Schedule(inner) => drop(inner.upgrade().inspect(|inner| inner.fetch_scheduled())),
            }
        } else {
            return self.wait(state);
        }
        self.lock()
    }

    fn write_out<'a>(&'a self, mut state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        let Some((inner, batch)) = state.spills.pop_front() else { return self.wait(state) };
        let busy = self.begin(state, Role::Out, None);
        inner.spill_now(batch);
        drop(inner);
        drop(busy); // takes the lock
        self.lock()
    }

    fn ring<'a>(&'a self, mut state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        let Some(next) = state.alarms.first_entry() else { return self.wait(state) };
        let left = next.key().saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let inner = next.remove().upgrade();
        drop(state);
        if let Some(inner) = inner {
            let books = inner.lock();
            inner.wake(&books);
        }
        self.lock()
    }

    /// The calling thread is at work, for a hint or not, until what is returned goes.
    fn begin<'a>(
        &'a self,
        mut state: MutexGuard<'_, State<T>>,
        role: Role,
        hint: Option<u64>,
    ) -> Busy<'a, T> {
        state.busy[role as usize] += 1;
        Busy { shared: self, role, hint }
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.work.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread at work; ends with it, also when it panics.
struct Busy<'a, T: Transfer> {
    shared: &'a Shared<T>,
    role: Role,
    hint: Option<u64>,
}

impl<T: Transfer> Drop for Busy<'_, T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.busy[self.role as usize] -= 1;
        if let Some(number) = self.hint {
            state.hints.served(number);
        }
        drop(state);
        self.shared.done.notify_all();
        self.shared.work.notify_one();
    }
}

impl<T: Transfer> Drop for Movers<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let left = (core::mem::take(&mut state.demands), state.hints.take_wishes(|_| true));
        drop(state);
        drop(left);
        self.shared.work.notify_all();
        let threads = core::mem::take(self.threads.get_mut().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // The last handle of a pool may be dropped by one of its own threads, which ends by itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// Demands served at a time: each beyond the first waits for leases or I/O of others.
const MOST_DEMANDS: usize = 8;
/// Threads that write to lower tiers: while one waits for its last pieces, another sends its first.
const MOST_OUT: usize = 2;
/// How exactly deadlines of tasks are kept.
const TICK: Duration = Duration::from_millis(10);

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::SwapPool;
    use backend_cpu::CpuDevice;

    #[test]
    fn many_deadlines_are_few_alarms_and_none_is_early() {
        let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(1 << 16);
        let pool = builder.host_memory(1 << 16).build().unwrap();
        let movers = &pool.inner.movers;
        let late = Instant::now() + Duration::from_secs(3600);
        for i in 0..1000 {
            movers.alarm(&pool.inner, late + Duration::from_micros(i));
        }
        let state = movers.shared.lock();
        assert!((1..=2).contains(&state.alarms.len()), "{} alarms", state.alarms.len());
        for at in [0, 1, 9_999_999, 10_000_000, 10_000_001].map(|ns| state.epoch + Duration::from_nanos(ns)) {
            let tick = state.next_tick(at);
            assert!(tick >= at && tick - at < TICK && state.next_tick(tick) == tick);
        }
    }

    /// One hint is being served, another comes: who waited for the first goes on when that has ended.
    #[test]
    fn who_waits_for_hints_does_not_wait_for_later_ones() {
        let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(1 << 16);
        let pool = builder.host_memory(1 << 16).build().unwrap();
        let shared = Arc::clone(&pool.inner.movers.shared);
        shared.lock().hints.poke(&pool.inner);
        let (number, _) = shared.lock().hints.begin().unwrap();
        let end = shared.lock().hints.end();
        let (done, ended) = std::sync::mpsc::channel();
        let waiting = SwapPool::clone(&pool);
        let thread = std::thread::spawn(move || {
            waiting.inner.movers.wait_hints_before(end);
            done.send(()).unwrap();
        });
        assert!(ended.recv_timeout(Duration::from_millis(50)).is_err(), "it is being served");
        let mut state = shared.lock();
        state.hints.poke(&pool.inner); // no thread is there to serve it
        state.hints.served(number);
        drop(state);
        shared.done.notify_all();
        ended.recv_timeout(Duration::from_secs(20)).expect("it does not wait for the second");
        thread.join().unwrap();
        shared.lock().hints.unpoke();
    }
}
