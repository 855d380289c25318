//! Work that was submitted and is not known to have ended.

use super::native::lock;
use super::staging::Staging;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The device's timeline: units of work in the order they were submitted, which is the order they end in.
///
/// A unit's *mark* is set by a callback of wgpu's, on whatever thread polls. The rest, copying what was downloaded,
/// giving staging memory back and moving the timeline on, is done by [`collect`](Self::collect), one unit at a time
/// and by one thread at a time: never inside a callback.
pub(super) struct Flight {
    line: Mutex<Line>,
    /// Number of units that have ended; the first is number 1.
    done: AtomicU64,
    news: Arc<News>,
}

struct Line {
    /// Ascending by number, without gaps.
    units: VecDeque<Unit>,
    /// Number of the last unit ever added.
    last: u64,
    /// Somebody has taken the oldest unit off and finishes it.
    busy: bool,
    /// The device is lost: nothing is added, and nothing ends any more.
    cancelled: bool,
}

/// Something submitted, with what is left to do once the device has done its part.
pub(super) struct Unit {
    pub(super) number: u64,
    /// The submission to wait for; `None`: the latest there is, or more than one, the user's among them.
    pub(super) index: Option<wgpu::SubmissionIndex>,
    pub(super) mark: Arc<Mark>,
    pub(super) work: Work,
}

/// What is left to do for a unit.
pub(super) enum Work {
    /// Nothing.
    Nothing,
    /// The staging memory is free again.
    Upload(Staging),
    /// The bytes go from staging to the host's slice.
    Download(Staging, HostBytes),
}

impl Flight {
    pub(super) fn new() -> Self {
        let line = Line { units: VecDeque::new(), last: 0, busy: false, cancelled: false };
        Flight { line: Mutex::new(line), done: AtomicU64::new(0), news: Arc::new(News::default()) }
    }

    /// Whether unit `number` and all before it have ended.
    pub(super) fn ended(&self, number: u64) -> bool {
        self.done.load(SeqCst) >= number
    }

    /// Number of the last unit added, 0 before the first.
    pub(super) fn last(&self) -> u64 {
        lock(&self.line).last
    }

    /// Whether unit `number` touches host memory no more: it has ended, or never will.
    pub(super) fn settled(&self, number: u64) -> bool {
        if self.ended(number) {
            return true;
        }
        let line = lock(&self.line);
        line.cancelled && !line.busy
    }

    /// A fresh mark, and one whose callback is still to be told of.
    pub(super) fn mark(&self) -> Arc<Mark> {
        Arc::new(Mark { state: AtomicU8::new(WAITING), news: Arc::clone(&self.news) })
    }

    /// Adds a unit and returns its number. On a lost device its work is dropped.
    pub(super) fn add(&self, index: Option<wgpu::SubmissionIndex>, mark: Arc<Mark>, work: Work) -> u64 {
        let mut line = lock(&self.line);
        line.last += 1;
        let number = line.last;
        if !line.cancelled {
            line.units.push_back(Unit { number, index, mark, work });
        }
        number
    }

    /// What the oldest unit waits for; `None` while somebody is finishing one, and where there is none.
    pub(super) fn oldest(&self) -> Option<Oldest> {
        let line = lock(&self.line);
        let unit = line.units.front().filter(|_| !line.busy)?;
        let alone = !matches!(unit.work, Work::Nothing);
        Some(Oldest { index: unit.index.clone(), mark: Arc::clone(&unit.mark), alone })
    }

    /// Finishes the units that the device is done with. Blocks for no device and no other thread; copies what
    /// downloads brought. Returns `false` if one of them failed, which is a lost device.
    pub(super) fn collect(&self, mut finish: impl FnMut(Work) -> bool) -> bool {
        loop {
            let mut line = lock(&self.line);
            if line.busy || line.cancelled {
                return true;
            }
            match line.units.front().map(|unit| unit.mark.state()) {
                None | Some(WAITING) => return true,
                Some(ENDED) => {}
                Some(_) => return false,
            }
            let Some(unit) = line.units.pop_front() else { return true };
            line.busy = true;
            drop(line);
            let sound = finish(unit.work);
            let mut line = lock(&self.line);
            line.busy = false;
            if sound {
                self.done.store(unit.number, SeqCst);
            }
            drop(line);
            self.news.tell();
            if !sound {
                return false;
            }
        }
    }

    /// Ends everything unfinished in failure. Afterwards no host memory is touched for it any more.
    pub(super) fn cancel(&self) {
        let mut line = lock(&self.line);
        line.cancelled = true;
        while line.busy {
            drop(line);
            self.news.wait(MOMENT, || !lock(&self.line).busy);
            line = lock(&self.line);
        }
        let units = std::mem::take(&mut line.units);
        drop(line);
        drop(units);
        self.news.tell();
    }

    /// Sleeps until `told`, by a callback or by who finished a unit, or until the time is over.
    pub(super) fn wait(&self, most: Duration, told: impl Fn() -> bool) {
        self.news.wait(most, told);
    }
}

/// What the oldest unit waits for.
pub(super) struct Oldest {
    /// A submission that has ended when the unit has, or before.
    pub(super) index: Option<wgpu::SubmissionIndex>,
    pub(super) mark: Arc<Mark>,
    /// Nothing but that submission: not what the user submitted after it.
    pub(super) alone: bool,
}

/// Where wgpu's callback leaves word that the device has done its part of a unit.
pub(super) struct Mark {
    state: AtomicU8,
    news: Arc<News>,
}

impl Mark {
    /// Makes an old mark a fresh one.
    pub(super) fn reset(&self) {
        self.state.store(WAITING, SeqCst);
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.state() == WAITING
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state() == FAILED
    }

    /// For callbacks.
    pub(super) fn set(&self, well: bool) {
        self.state.store(if well { ENDED } else { FAILED }, SeqCst);
        self.news.tell();
    }

    fn state(&self) -> u8 {
        self.state.load(SeqCst)
    }
}

/// Wakes threads that wait for what another thread does.
#[derive(Default)]
struct News {
    /// How many threads sleep, or are about to.
    sleepers: AtomicUsize,
    gate: Mutex<()>,
    arrived: Condvar,
}

impl News {
    fn tell(&self) {
        // Either this load sees the sleeper, or the sleeper's look sees what is told: both are SeqCst.
        if self.sleepers.load(SeqCst) > 0 {
            drop(lock(&self.gate));
            self.arrived.notify_all();
        }
    }

    fn wait(&self, most: Duration, told: impl Fn() -> bool) {
        self.sleepers.fetch_add(1, SeqCst);
        let gate = lock(&self.gate);
        if !told() {
            drop(self.arrived.wait_timeout(gate, most).unwrap_or_else(PoisonError::into_inner));
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }
}

/// Bytes of a pinned slice that a download fills.
pub(super) struct HostBytes {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: the bytes belong to a slice that nobody else touches while the download is in flight (see `new`), and the
// regions slices come from may be used on any thread.
unsafe impl Send for HostBytes {}

impl HostBytes {
    /// # Safety
    /// `ptr..ptr + len` stays valid, initialised and untouched by others until the unit it goes into is settled.
    pub(super) unsafe fn new(ptr: *mut u8, len: usize) -> Self {
        HostBytes { ptr, len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The bytes from `at`, `len` of them, which lie within these.
    pub(super) fn part(&self, at: usize, len: usize) -> Self {
        debug_assert!(at + len <= self.len);
        HostBytes { ptr: self.ptr.wrapping_add(at), len }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: by `new`; and `&mut self` is the only way to the bytes, since parts of one slice do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }
}

const WAITING: u8 = 0;
const ENDED: u8 = 1;
const FAILED: u8 = 2;

/// The longest anybody sleeps without looking again.
pub(super) const MOMENT: Duration = Duration::from_millis(1);
