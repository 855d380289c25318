//! How long transfers take: the union of the intervals from enqueue to event.

use pinned_host::Event;
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What the transfers of a pool came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransferTime {
    /// Payload bytes, up and down.
    pub bytes: u64,
    /// Time during which at least one transfer was in flight.
    pub busy: Duration,
}

impl TransferTime {
    /// Bytes per second, in units of 10^9; zero if nothing was transferred.
    pub fn gb_per_s(&self) -> f64 {
        if self.busy.is_zero() { 0.0 } else { self.bytes as f64 / self.busy.as_secs_f64() / 1e9 }
    }
}

/// Watches transfers from a thread of its own.
///
/// Events are waited for in the order they came. One that fires before an older one is noticed late, but the older
/// one was in flight all that time, so the union is exact up to the thread's wake-up.
pub(crate) struct Meter<E: Event> {
    shared: Arc<Shared<E>>,
    watcher: Option<JoinHandle<()>>,
}

struct Shared<E> {
    state: Mutex<State<E>>,
    changed: Condvar,
}

struct State<E> {
    /// Not yet seen to fire.
    flying: VecDeque<E>,
    /// `Some` iff a transfer is in flight: when the current busy interval began.
    since: Option<Instant>,
    /// When the last busy interval ended.
    until: Option<Instant>,
    total: TransferTime,
    closed: bool,
}

impl<E: Event> Meter<E> {
    pub(crate) fn new() -> Self {
        let state = State {
            flying: VecDeque::new(),
            since: None,
            until: None,
            total: TransferTime::default(),
            closed: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let watched = Arc::clone(&shared);
        let watcher =
            std::thread::Builder::new().name("transfer-meter".into()).spawn(move || watched.watch()).ok();
        Meter { shared, watcher }
    }

    /// A transfer of `bytes` was enqueued; its bytes began to move at `started`.
    pub(crate) fn begin(&self, event: &E, bytes: u64, started: Instant) {
        let mut state = self.shared.lock();
        state.total.bytes += bytes;
        if state.since.is_none() {
            let since = state.until.map_or(started, |until| started.max(until));
            if matches!(event.query(), Ok(true)) {
                // It is over already: nobody needs to watch.
                let now = Instant::now();
                state.total.busy += now.saturating_duration_since(since);
                state.until = Some(now);
                return;
            }
            state.since = Some(since);
        }
        state.flying.push_back(event.clone());
        drop(state);
        self.shared.changed.notify_all();
    }

    /// The sum so far, once nothing is in flight.
    pub(crate) fn total(&self) -> TransferTime {
        let mut state = self.shared.lock();
        while state.since.is_some() && self.watcher.is_some() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.total
    }
}

impl<E: Event> Shared<E> {
    fn watch(&self) {
        let mut state = self.lock();
        loop {
            if let Some(event) = state.flying.front().cloned() {
                drop(state);
                let _ = event.synchronize();
                state = self.lock();
                state.flying.pop_front();
                if state.flying.is_empty() {
                    let now = Instant::now();
                    if let Some(since) = state.since.take() {
                        state.total.busy += now.saturating_duration_since(since);
                    }
                    state.until = Some(now);
                    self.changed.notify_all();
                }
            } else if state.closed {
                return;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Event> Drop for Meter<E> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}
