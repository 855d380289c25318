//! Spans in a bounded list: who did what from when to when.

use super::{Kind, Levels, chrome};
use crate::TensorSpec;
use std::{
    collections::VecDeque,
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// What pools and the program did when, for [Perfetto](https://ui.perfetto.dev) to show.
///
/// Cloning is cheap and names the same timeline; several pools may share one. Times count from when it was made. It holds a
/// bounded number of spans, [`BYTES_PER_SPAN`](Self::BYTES_PER_SPAN) each; past that the oldest go, and
/// [`dropped`](Self::dropped) says how many. Names are shared with their tensors, not copied.
///
/// ```
/// use backend_cpu::CpuDevice;
/// use swap_tensor::{DType, SwapPool, TensorSpec, Timeline};
///
/// let timeline = Timeline::new();
/// let pool = SwapPool::builder(CpuDevice::new()?)
///     .device_memory(1 << 16)
///     .host_memory(1 << 20)
///     .timeline(timeline.clone())
///     .build()?;
/// let tensor = pool.create(TensorSpec::new("weights", DType::U8, [5000])?, &[1; 5000])?;
/// let lease = tensor.read()?;
/// {
///     let _step = timeline.span("weights", "compute"); // what the program does with it
///     lease.wait()?;
/// }
/// drop((lease, tensor, pool)); // the last handle waits for the transfers
///
/// let mut json = Vec::new(); // or a file
/// timeline.write_chrome_json(&mut json)?;
/// let json: serde_json::Value = serde_json::from_slice(&json)?;
/// let spans = json["traceEvents"].as_array().ok_or("no events")?;
/// assert!(spans.iter().any(|e| e["name"] == "weights" && e["cat"] == "upload" && e["args"]["bytes"] == 5000));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Timeline {
    shared: Arc<Shared>,
}

struct Shared {
    zero: Instant,
    /// Entries held at most.
    most: usize,
    kept: Mutex<Kept>,
}

/// What a timeline holds now.
#[derive(Clone, Default)]
pub(super) struct Kept {
    /// In the order in which they ended.
    pub(super) entries: VecDeque<Entry>,
    pub(super) dropped: u64,
    /// The pools' names; a pool's number is its place here.
    pub(super) pools: Vec<Arc<str>>,
}

#[derive(Clone)]
pub(super) enum Entry {
    Span(Span),
    /// What a pool holds from `at` on.
    Level {
        pool: u32,
        at: u64,
        now: Levels,
    },
}

/// Something that took time. Times in nanoseconds since the timeline was made.
#[derive(Clone)]
pub(super) struct Span {
    pub(super) track: Track,
    pub(super) name: Name,
    pub(super) bytes: u64,
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) failed: bool,
}

/// Whose a span is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Track {
    /// Work of one kind by the pool of this number.
    Pool(u32, Kind),
    /// The program's, under a name of its choice.
    Program(Arc<str>),
}

/// What a span is called. Cloning copies no text.
#[derive(Debug, Clone)]
pub(crate) enum Name {
    Tensor(Arc<TensorSpec>),
    Text(Arc<str>),
    Fixed(&'static str),
}

impl Name {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Name::Tensor(spec) => spec.name(),
            Name::Text(text) => text,
            Name::Fixed(text) => text,
        }
    }
}

impl Timeline {
    /// The most bytes that one span takes, beside its name where only the timeline has it.
    pub const BYTES_PER_SPAN: usize = 80;

    /// Room for 2^20 spans: 80 MiB, taken as they come.
    pub fn new() -> Self {
        Self::with_capacity(1 << 20)
    }

    /// Room for `spans` spans, one at least; counts of bytes per tier take the room of spans.
    pub fn with_capacity(spans: usize) -> Self {
        let kept = Mutex::new(Kept::default());
        Timeline { shared: Arc::new(Shared { zero: Instant::now(), most: spans.max(1), kept }) }
    }

    /// Begins a span of the program's own on the track called `track`; it ends when it is dropped.
    ///
    /// Spans of one track may overlap and nest. A name that is used often is best kept as an `Arc<str>`: that is not copied.
    pub fn span(&self, name: impl Into<Arc<str>>, track: impl Into<Arc<str>>) -> TimelineSpan {
        TimelineSpan {
            timeline: self.clone(),
            name: name.into(),
            track: track.into(),
            bytes: 0,
            begin: Instant::now(),
        }
    }

    /// Spans held now, counts of bytes per tier among them.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many spans had to go because there was no room for more.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Writes what it holds as a Chrome trace, the JSON that <https://ui.perfetto.dev> and `chrome://tracing` open.
    ///
    /// Each pool is a process; its tracks are the threads, listed in [`observe`](crate::observe). Counters say how many bytes
    /// were under way, and what tensors took on the device and in host memory. Transfers that have not ended are not in it.
    /// O(spans × log spans), and a copy of the list; pools go on recording meanwhile.
    ///
    /// # Errors
    /// `out` does not take the bytes.
    pub fn write_chrome_json(&self, out: impl Write) -> io::Result<()> {
        let kept = self.lock().clone();
        chrome::write(&kept, out)
    }

    /// Gives a pool its number.
    pub(crate) fn enter_pool(&self, name: Arc<str>) -> u32 {
        let mut kept = self.lock();
        kept.pools.push(name);
        (kept.pools.len() - 1) as u32
    }

    pub(crate) fn record(
        &self,
        track: Track,
        name: Name,
        bytes: u64,
        (begin, end): (Instant, Instant),
        failed: bool,
    ) {
        let begin = self.since_zero(begin);
        let end = self.since_zero(end).max(begin);
        self.keep(Entry::Span(Span { track, name, bytes, begin, end, failed }));
    }

    pub(crate) fn level(&self, pool: u32, now: Levels) {
        let at = self.since_zero(Instant::now());
        self.keep(Entry::Level { pool, at, now });
    }

    fn keep(&self, entry: Entry) {
        let mut kept = self.lock();
        let gone = if kept.entries.len() < self.shared.most {
            None
        } else {
            kept.dropped += 1;
            kept.entries.pop_front()
        };
        kept.entries.push_back(entry);
        drop(kept);
        drop(gone); // it may be the last to know its name
    }

    fn since_zero(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.shared.zero).as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.lock();
        f.debug_struct("Timeline")
            .field("len", &kept.entries.len())
            .field("dropped", &kept.dropped)
            .finish_non_exhaustive()
    }
}

/// A span that the program began with [`Timeline::span`]; it is recorded when it is dropped.
#[derive(Debug)]
#[must_use = "a span ends when dropped"]
pub struct TimelineSpan {
    timeline: Timeline,
    name: Arc<str>,
    track: Arc<str>,
    bytes: u64,
    begin: Instant,
}

impl TimelineSpan {
    /// Says how many bytes it is about.
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }
}

impl Drop for TimelineSpan {
    fn drop(&mut self) {
        let (track, name) = (Track::Program(Arc::clone(&self.track)), Name::Text(Arc::clone(&self.name)));
        self.timeline.record(track, name, self.bytes, (self.begin, Instant::now()), false);
    }
}

const _: () = assert!(size_of::<Entry>() <= Timeline::BYTES_PER_SPAN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_are_counted() {
        let timeline = Timeline::with_capacity(3);
        for i in 0..5 {
            drop(timeline.span(format!("s{i}"), "t"));
        }
        assert_eq!((timeline.len(), timeline.dropped()), (3, 2));
        let kept = timeline.lock().clone();
        let names: Vec<_> = kept
            .entries
            .iter()
            .map(|entry| match entry {
                Entry::Span(span) => span.name.as_str(),
                Entry::Level { .. } => "level",
            })
            .collect();
        assert_eq!(names, ["s2", "s3", "s4"]);
    }

    #[test]
    fn a_long_run_takes_no_more_room_than_it_was_given() {
        let timeline = Timeline::with_capacity(1000);
        for _ in 0..10_000 {
            timeline.level(0, Levels::default());
        }
        assert_eq!((timeline.len(), timeline.dropped()), (1000, 9000));
        assert!(timeline.lock().entries.capacity() <= 2048);
    }

    #[test]
    fn a_name_is_shared_and_goes_with_its_span() {
        let timeline = Timeline::with_capacity(1);
        let name: Arc<str> = "layer".into();
        drop(timeline.span(Arc::clone(&name), "t"));
        assert_eq!(Arc::strong_count(&name), 2);
        drop(timeline.span("other", "t"));
        assert_eq!(Arc::strong_count(&name), 1);
    }

    #[test]
    fn what_began_before_the_timeline_begins_with_it() {
        let begin = Instant::now();
        let timeline = Timeline::new();
        timeline.record(Track::Program("t".into()), Name::Fixed("x"), 0, (begin, begin), false);
        let kept = timeline.lock();
        let Some(Entry::Span(span)) = kept.entries.front() else { panic!("no span") };
        assert_eq!((span.begin, span.end), (0, 0));
    }
}
