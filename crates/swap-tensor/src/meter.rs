//! When transfers end, and how long they take: a thread for each lane in use, which waits for its events in order.

use crate::{
    DeviceIndex, SwapError, SwapPool,
    observe::{Kind, Listeners, Passage},
};
use pinned_host::{Event, Transfer};
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use union::Union;

mod union;

/// What the transfers of a pool came to, on one of its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TransferTime {
    /// Payload bytes, up and down.
    pub bytes: u64,
    /// Time during which at least one transfer, up or down, was in flight.
    pub busy: Duration,
    /// Time during which bytes of at least one tensor were on their way to the device: read from a file, or uploaded.
    pub fill: Duration,
    /// Time during which bytes of at least one tensor were on their way from the device: downloaded, or written.
    pub write_back: Duration,
}

impl TransferTime {
    /// Bytes per second, in units of 10^9; zero if nothing was transferred.
    pub fn gb_per_s(&self) -> f64 {
        if self.busy.is_zero() { 0.0 } else { self.bytes as f64 / self.busy.as_secs_f64() / 1e9 }
    }
}

impl<T: Transfer> SwapPool<T> {
    /// How long transfers took, if the pool was built with [`PoolBuilder::measure_transfers`](crate::PoolBuilder::measure_transfers)
    /// or [`PoolBuilder::timeline`](crate::PoolBuilder::timeline): those of the first device.
    ///
    /// Blocks until its transfers in flight have ended; a timeline has them then.
    pub fn transfer_time(&self) -> Option<TransferTime> {
        self.inner.probe().transfer_time()
    }

    /// [`transfer_time`](Self::transfer_time) of another device. Links of different devices are busy at a time: their figures do
    /// not add up.
    ///
    /// # Errors
    /// [`SwapError::NoDevice`].
    pub fn transfer_time_at(&self, device: DeviceIndex) -> Result<Option<TransferTime>, SwapError> {
        self.inner.check_device(device)?;
        Ok(self.inner.on(device).probe.transfer_time())
    }
}

/// Watches transfers, and tells the listeners of each that ended.
///
/// Work on a lane ends in its order, so a thread that waits for one event after the other sees each as it fires. Where lanes
/// alias one another, as on a device of one queue, that holds as well. A thread that the system keeps from running sees it
/// late: so whoever comes by looks too.
pub(crate) struct Meter<E: Event> {
    shared: Arc<Shared<E>>,
}

struct Shared<E> {
    listeners: Arc<Listeners>,
    state: Mutex<State<E>>,
    /// Something to watch, or nothing more to come. By lane.
    wanted: [Condvar; LANES],
    /// Nothing is in flight any more.
    idle: Condvar,
}

struct State<E> {
    lanes: [Lane<E>; LANES],
    /// Transfers that have not been seen to end.
    flying: usize,
    bytes: u64,
    busy: Union,
    fill: Union,
    write_back: Union,
    closed: bool,
}

struct Lane<E> {
    flying: VecDeque<(Passage, E)>,
    /// How many have ended: the number of the one in front.
    ended: u64,
    /// Started with the first transfer that is not over at once.
    watcher: Option<JoinHandle<()>>,
}

impl<E: Event> Meter<E> {
    pub(crate) fn new(listeners: Arc<Listeners>) -> Self {
        let lane = || Lane { flying: VecDeque::new(), ended: 0, watcher: None };
        let state = State {
            lanes: [lane(), lane(), lane()],
            flying: 0,
            bytes: 0,
            busy: Union::default(),
            fill: Union::default(),
            write_back: Union::default(),
            closed: false,
        };
        let (wanted, idle) = (Default::default(), Condvar::new());
        Meter { shared: Arc::new(Shared { listeners, state: Mutex::new(state), wanted, idle }) }
    }

    /// A transfer was enqueued.
    pub(crate) fn begin(&self, passage: Passage, event: &E) {
        let number = lane_of(passage.kind);
        let mut state = self.shared.lock();
        self.shared.look(&mut state, number);
        state.begin(&passage);
        // Nobody needs to watch what is over already; nobody can where no thread is to be had.
        let over = state.lanes[number].flying.is_empty() && matches!(event.query(), Ok(true));
        if over || !self.watched(&mut state, number) {
            self.shared.ended(&mut state, passage, true);
            return;
        }
        state.lanes[number].flying.push_back((passage, event.clone()));
        drop(state);
        self.shared.wanted[number].notify_one();
    }

    /// Takes note of what has ended by now. Blocks nobody.
    pub(crate) fn look(&self) {
        let mut state = self.shared.lock();
        (0..LANES).for_each(|number| self.shared.look(&mut state, number));
    }

    /// A read or a write began.
    pub(crate) fn io_begin(&self, kind: Kind, at: Instant) {
        self.shared.lock().way(kind).begin(at);
    }

    /// It ended.
    pub(crate) fn io_end(&self, kind: Kind, at: Instant) {
        self.shared.lock().way(kind).end(at);
    }

    /// The sums so far, once nothing is in flight; the listeners have been told then.
    pub(crate) fn total(&self) -> TransferTime {
        let mut state = self.shared.lock();
        while state.flying > 0 {
            state = self.shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        TransferTime {
            bytes: state.bytes,
            busy: state.busy.total,
            fill: state.fill.total,
            write_back: state.write_back.total,
        }
    }

    /// Whether the lane has its thread, which is started if it has none yet.
    fn watched(&self, state: &mut State<E>, number: usize) -> bool {
        let lane = &mut state.lanes[number];
        if lane.watcher.is_none() {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name(NAMES[number].into());
            lane.watcher = thread.spawn(move || shared.watch(number)).ok();
        }
        lane.watcher.is_some()
    }
}

impl<E: Event> Shared<E> {
    fn watch(&self, number: usize) {
        let mut state = self.lock();
        loop {
            let lane = &state.lanes[number];
            if let Some((_, event)) = lane.flying.front() {
                let (event, ended) = (event.clone(), lane.ended);
                drop(state);
                let well = event.synchronize().is_ok();
                state = self.lock();
                // Unless somebody who looked was first.
                if state.lanes[number].ended == ended {
                    self.front_ended(&mut state, number, well);
                }
            } else if state.closed {
                return;
            } else {
                state = self.wanted[number].wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Takes what has ended off the lane's front.
    fn look(&self, state: &mut State<E>, number: usize) {
        while let Some((_, event)) = state.lanes[number].flying.front() {
            match event.query() {
                Ok(false) => return,
                done => self.front_ended(state, number, done.is_ok()),
            }
        }
    }

    fn front_ended(&self, state: &mut State<E>, number: usize, well: bool) {
        let lane = &mut state.lanes[number];
        if let Some((passage, _)) = lane.flying.pop_front() {
            lane.ended += 1;
            self.ended(state, passage, well);
        }
    }

    fn ended(&self, state: &mut State<E>, passage: Passage, well: bool) {
        let (kind, now) = (passage.kind, Instant::now());
        self.listeners.travelled(passage, now, well);
        if kind != Kind::Move {
            state.busy.end(now);
            state.way(kind).end(now);
        }
        state.flying -= 1;
        if state.flying == 0 {
            self.idle.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E> State<E> {
    fn begin(&mut self, passage: &Passage) {
        self.flying += 1;
        if passage.kind != Kind::Move {
            self.bytes += passage.bytes;
            self.busy.begin(passage.started);
            self.way(passage.kind).begin(passage.started);
        }
    }

    fn way(&mut self, kind: Kind) -> &mut Union {
        match kind {
            Kind::Download | Kind::DiskWrite => &mut self.write_back,
            _ => &mut self.fill,
        }
    }
}

impl<E: Event> Drop for Meter<E> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let watchers = state.lanes.each_mut().map(|lane| lane.watcher.take());
        drop(state);
        self.shared.wanted.iter().for_each(Condvar::notify_all);
        for watcher in watchers.into_iter().flatten() {
            let _ = watcher.join();
        }
    }
}

fn lane_of(kind: Kind) -> usize {
    match kind {
        Kind::Upload => 0,
        Kind::Download => 1,
        _ => 2,
    }
}

const LANES: usize = 3;
const NAMES: [&str; LANES] = ["watch-uploads", "watch-downloads", "watch-moves"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Name, Timeline};
    use pinned_host::{DeviceError, ErrorKind};

    /// Fires when it is told to.
    #[derive(Clone, Default)]
    struct Signal(Arc<(Mutex<Option<bool>>, Condvar)>);

    #[derive(Debug, thiserror::Error)]
    #[error("it failed")]
    struct Failed;

    impl DeviceError for Failed {
        fn kind(&self) -> ErrorKind {
            ErrorKind::Failed
        }
    }

    impl Event for Signal {
        type Error = Failed;

        fn query(&self) -> Result<bool, Failed> {
            self.0.0.lock().unwrap().map_or(Ok(false), |well| if well { Ok(true) } else { Err(Failed) })
        }

        fn synchronize(&self) -> Result<(), Failed> {
            let fired = self.0.1.wait_while(self.0.0.lock().unwrap(), |fired| fired.is_none());
            if *fired.unwrap() == Some(true) { Ok(()) } else { Err(Failed) }
        }
    }

    impl Signal {
        fn fire(&self, well: bool) {
            *self.0.0.lock().unwrap() = Some(well);
            self.0.1.notify_all();
        }
    }

    fn begin(meter: &Meter<Signal>, kind: Kind, bytes: u64) -> Signal {
        let signal = Signal::default();
        let passage = Passage { kind, name: Name::Fixed("x"), bytes, started: Instant::now() };
        meter.begin(passage, &signal);
        signal
    }

    /// The kinds in the timeline, in the order in which they ended, and whether each failed.
    fn ended(timeline: &Timeline, spans: usize) -> Vec<String> {
        while timeline.len() < spans {
            std::thread::yield_now();
        }
        let mut json = Vec::new();
        timeline.write_chrome_json(&mut json).unwrap();
        let trace: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let spans = trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == "X");
        let mut spans: Vec<_> = spans
            .map(|e| {
                let failed = if e["args"]["failed"] == true { " failed" } else { "" };
                let end = e["ts"].as_f64().unwrap() + e["dur"].as_f64().unwrap();
                (end, format!("{}{failed}", e["cat"].as_str().unwrap()))
            })
            .collect();
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        spans.into_iter().map(|(_, said)| said).collect()
    }

    #[test]
    fn a_lane_does_not_wait_for_another() {
        let timeline = Timeline::new();
        let meter = Meter::new(Arc::new(Listeners::timeline(&timeline)));
        let up = begin(&meter, Kind::Upload, 10);
        let down = begin(&meter, Kind::Download, 20);
        let moved = begin(&meter, Kind::Move, 40);
        moved.fire(true);
        assert_eq!(ended(&timeline, 1), ["move"]);
        down.fire(false);
        assert_eq!(ended(&timeline, 2), ["move", "download failed"]);
        up.fire(true);
        let total = meter.total();
        assert_eq!(ended(&timeline, 3), ["move", "download failed", "upload"]);
        assert_eq!(total.bytes, 30, "moves are no transfers");
        assert!(total.busy >= total.fill && total.fill >= total.write_back, "{total:?}");
    }

    #[test]
    fn what_is_over_at_once_needs_no_thread_and_what_is_not_is_waited_for() {
        let timeline = Timeline::new();
        let meter = Meter::new(Arc::new(Listeners::timeline(&timeline)));
        let over = Signal::default();
        over.fire(true);
        let passage =
            || Passage { kind: Kind::Upload, name: Name::Fixed("x"), bytes: 1, started: Instant::now() };
        meter.begin(passage(), &over);
        assert!(meter.shared.lock().lanes.iter().all(|lane| lane.watcher.is_none()));
        assert_eq!((meter.total().bytes, timeline.len()), (1, 1));
        let last = begin(&meter, Kind::Upload, 2);
        meter.begin(passage(), &over); // behind one that is not over: seen after it
        assert_eq!(timeline.len(), 1);
        std::thread::scope(|scope| {
            scope.spawn(|| last.fire(true));
            drop(meter);
        });
        assert_eq!(timeline.len(), 3);
    }

    #[test]
    fn whoever_looks_sees_what_the_thread_has_not_seen_yet() {
        let timeline = Timeline::new();
        let meter = Meter::new(Arc::new(Listeners::timeline(&timeline)));
        let signals = [1, 2, 3].map(|bytes| begin(&meter, Kind::Upload, bytes));
        // Fired without a word to the thread, which sleeps on.
        signals[..2].iter().for_each(|signal| *signal.0.0.lock().unwrap() = Some(true));
        meter.look();
        assert_eq!(timeline.len(), 2);
        signals[0].fire(true); // wakes it: it leaves alone what was seen, and goes on to the third
        signals[2].fire(true);
        assert_eq!((meter.total().bytes, timeline.len()), (6, 3));
    }
}
