//! The one place where the pool's code says what it does, whoever listens.

use super::{Name, Timeline, Track};
use crate::{
    DeviceIndex, OpenLease, SwapError, TensorSpec,
    meter::{Meter, TransferTime},
};
use pinned_host::Event;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

#[cfg_attr(not(feature = "metrics"), path = "notes/unmetered.rs")]
#[cfg_attr(feature = "metrics", path = "notes/metered.rs")]
mod metered;
#[cfg_attr(not(feature = "tracing"), path = "notes/no_spans.rs")]
#[cfg_attr(feature = "tracing", path = "notes/spans.rs")]
mod spans;

pub(crate) use metered::Counted;

/// What takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Upload,
    Download,
    /// Inside the arena.
    Move,
    FileRead,
    DiskRead,
    DiskWrite,
    /// A caller blocked in a lease.
    Stall,
}

/// Why a device copy went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// For room; a valid copy lay below.
    Clean,
    /// For room, after it was written back.
    WrittenBack,
    /// The program asked for it.
    Asked,
}

/// A section of the pool's work that a span is put around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Lease,
    SwapIn,
    WriteBack,
    /// Of any number of tensors.
    Move,
    /// A read or a write of this kind.
    Io(Kind),
}

/// Bytes that tensors' copies take now, and device bytes under lease or pin.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Levels {
    pub(crate) device: u64,
    pub(crate) host: u64,
    pub(crate) leased: u64,
}

/// What a pool tells; a clone tells the same listeners.
pub(crate) struct Probe<E: Event> {
    /// `None` iff nobody listens.
    heard: Option<Arc<Heard<E>>>,
}

struct Heard<E: Event> {
    listeners: Arc<Listeners>,
    /// Watches transfers, if somebody wants to know when they end.
    meter: Option<Meter<E>>,
}

/// Those who listen, apart from spans, which find their subscriber themselves.
pub(crate) struct Listeners {
    /// And the pool's number there.
    timeline: Option<(Timeline, u32)>,
    metered: metered::Metered,
    /// Device, host and leased bytes last told.
    levels: [AtomicU64; 3],
}

/// A transfer under way.
pub(crate) struct Passage {
    pub(crate) kind: Kind,
    pub(crate) name: Name,
    pub(crate) bytes: u64,
    pub(crate) started: Instant,
}

impl<E: Event> Probe<E> {
    /// Tells whoever was asked for: `timeline`, a meter if `measure`, and the recorder installed now if metrics are compiled in.
    /// `device` is named to them where a pool has several; `budget` is what the tiers may hold.
    pub(crate) fn new(
        name: &Arc<str>,
        device: Option<DeviceIndex>,
        (timeline, measure): (Option<Timeline>, bool),
        budget: Levels,
    ) -> Self {
        if timeline.is_none() && !measure && !cfg!(feature = "metrics") {
            return Probe { heard: None };
        }
        let watch = timeline.is_some() || measure;
        let timeline = timeline.map(|timeline| {
            let number = timeline.enter_pool(match device {
                None => Arc::clone(name),
                Some(device) => format!("{name}, device {device}").into(),
            });
            (timeline, number)
        });
        let metered = metered::Metered::new(name, device, budget);
        let listeners = Arc::new(Listeners { timeline, metered, levels: Default::default() });
        let meter = watch.then(|| Meter::new(Arc::clone(&listeners)));
        Probe { heard: Some(Arc::new(Heard { listeners, meter })) }
    }

    /// A copy of `spec`'s bytes was enqueued; they began to move at `started`. What is returned is kept until it has ended.
    pub(crate) fn transfer(
        &self,
        kind: Kind,
        spec: &Arc<TensorSpec>,
        bytes: u64,
        (event, started): (&E, Instant),
    ) -> Counted {
        let Some(heard) = &self.heard else { return Counted::none() };
        heard.listeners.metered.enqueued(kind, 1, bytes);
        if let Some(meter) = &heard.meter {
            meter.begin(Passage { kind, name: Name::Tensor(Arc::clone(spec)), bytes, started }, event);
        }
        heard.listeners.metered.flying(kind)
    }

    /// Moves of so many blocks were enqueued in one piece; without an event they have ended.
    pub(crate) fn moved(&self, blocks: usize, bytes: u64, event: Option<&E>, started: Instant) {
        let Some(heard) = &self.heard else { return };
        heard.listeners.metered.enqueued(Kind::Move, blocks as u64, bytes);
        let passage = Passage { kind: Kind::Move, name: Name::Fixed("make room"), bytes, started };
        match (&heard.meter, event) {
            (Some(meter), Some(event)) => meter.begin(passage, event),
            (Some(_), None) => heard.listeners.travelled(passage, Instant::now(), true),
            (None, _) => {}
        }
    }

    /// Reads or writes `bytes` by `work`.
    pub(crate) fn io<R>(
        &self,
        kind: Kind,
        spec: &Arc<TensorSpec>,
        bytes: u64,
        work: impl FnOnce() -> Result<R, SwapError>,
    ) -> Result<R, SwapError> {
        self.begin_io(kind).end(spec, bytes, work)
    }

    /// A read or a write begins, which ends when what is returned does.
    pub(crate) fn begin_io(&self, kind: Kind) -> Io<E> {
        let started = Instant::now();
        let flying = match &self.heard {
            Some(heard) => {
                if let Some(meter) = &heard.meter {
                    meter.io_begin(kind, started);
                }
                heard.listeners.metered.flying(kind)
            }
            None => Counted::none(),
        };
        Io { probe: self.clone(), kind, started, _flying: flying }
    }

    /// A transfer, a read or a write failed.
    pub(crate) fn failed(&self, kind: Kind, spec: &TensorSpec, error: &SwapError) {
        self.failure(kind, Some(spec.name()), error);
    }

    /// The moves of a plan failed, or some of them.
    pub(crate) fn moves_failed(&self, error: &SwapError) {
        self.failure(Kind::Move, None, error);
    }

    fn failure(&self, kind: Kind, tensor: Option<&str>, error: &SwapError) {
        spans::failed(kind, tensor, error);
        if let Some(heard) = &self.heard {
            heard.listeners.metered.failed(kind);
        }
    }

    /// These leases are open, and the last handle of the pool is gone.
    pub(crate) fn leaked(&self, open: &[OpenLease]) {
        spans::leaked(open);
    }

    /// A lease was given; on a hit the tensor was valid on the device.
    pub(crate) fn leased(&self, hit: bool) {
        if let Some(heard) = &self.heard {
            heard.listeners.metered.leased(hit);
        }
    }

    /// A caller was blocked in a lease on `spec` since then, until now.
    pub(crate) fn stalled(&self, spec: &Arc<TensorSpec>, since: Instant) {
        let Some(heard) = &self.heard else { return };
        let now = Instant::now();
        heard.listeners.metered.stalled(now.saturating_duration_since(since));
        heard.listeners.span(Kind::Stall, Name::Tensor(Arc::clone(spec)), spec.bytes(), (since, now), true);
    }

    /// A device copy of `bytes` went.
    pub(crate) fn evicted(&self, spec: &TensorSpec, bytes: u64, reason: Reason) {
        spans::evicted(spec.name(), bytes, reason);
        if let Some(heard) = &self.heard {
            heard.listeners.metered.evicted(bytes, reason);
        }
    }

    /// A tensor was fetched ahead.
    pub(crate) fn prefetched(&self) {
        if let Some(heard) = &self.heard {
            heard.listeners.metered.prefetched();
        }
    }

    /// A tensor is to be fetched ahead. What is returned is kept until its turn has come.
    pub(crate) fn wished(&self) -> Counted {
        self.heard.as_ref().map_or_else(Counted::none, |heard| heard.listeners.metered.wished())
    }

    /// What is held may have changed; `now` is asked only if somebody listens.
    pub(crate) fn levels(&self, now: impl FnOnce() -> Levels) {
        if let Some(heard) = &self.heard {
            heard.listeners.levels(now());
        }
    }

    /// Puts a span around what follows, until what is returned is dropped.
    pub(crate) fn enter(&self, step: Step, tensor: &str, bytes: u64) -> spans::Entered {
        spans::enter(step, tensor, bytes)
    }

    /// Transfers may have ended: sees those that did.
    pub(crate) fn look(&self) {
        if let Some(meter) = self.heard.as_ref().and_then(|heard| heard.meter.as_ref()) {
            meter.look();
        }
    }

    /// How long transfers took, once none is in flight.
    pub(crate) fn transfer_time(&self) -> Option<TransferTime> {
        self.heard.as_ref()?.meter.as_ref().map(Meter::total)
    }
}

impl<E: Event> Clone for Probe<E> {
    fn clone(&self) -> Self {
        Probe { heard: self.heard.clone() }
    }
}

/// A read or a write under way.
pub(crate) struct Io<E: Event> {
    probe: Probe<E>,
    kind: Kind,
    started: Instant,
    _flying: Counted,
}

impl<E: Event> Io<E> {
    /// Waits for it by `wait`, or does it.
    pub(crate) fn end<R>(
        self,
        spec: &Arc<TensorSpec>,
        bytes: u64,
        wait: impl FnOnce() -> Result<R, SwapError>,
    ) -> Result<R, SwapError> {
        let _span = spans::enter(Step::Io(self.kind), spec.name(), bytes);
        let done = wait();
        if let Some(heard) = &self.probe.heard {
            heard.listeners.metered.enqueued(self.kind, 1, if done.is_ok() { bytes } else { 0 });
            let name = Name::Tensor(Arc::clone(spec));
            let passage = Passage { kind: self.kind, name, bytes, started: self.started };
            heard.listeners.travelled(passage, Instant::now(), done.is_ok());
        }
        done.inspect_err(|error| self.probe.failed(self.kind, spec, error))
    }
}

impl<E: Event> Drop for Io<E> {
    fn drop(&mut self) {
        if let Some(meter) = self.probe.heard.as_ref().and_then(|heard| heard.meter.as_ref()) {
            meter.io_end(self.kind, Instant::now());
        }
    }
}

impl Listeners {
    /// A timeline alone.
    #[cfg(test)]
    pub(crate) fn timeline(timeline: &Timeline) -> Self {
        let name: Arc<str> = "pool".into();
        let metered = metered::Metered::new(&name, None, Levels::default());
        let number = timeline.enter_pool(name);
        Listeners { timeline: Some((timeline.clone(), number)), metered, levels: Default::default() }
    }

    /// A transfer, a read or a write ended.
    pub(crate) fn travelled(&self, passage: Passage, ended: Instant, well: bool) {
        let Passage { kind, name, bytes, started } = passage;
        self.metered.took(kind, ended.saturating_duration_since(started));
        self.span(kind, name, bytes, (started, ended), well);
    }

    fn span(&self, kind: Kind, name: Name, bytes: u64, times: (Instant, Instant), well: bool) {
        if let Some((timeline, number)) = &self.timeline {
            timeline.record(Track::Pool(*number, kind), name, bytes, times, !well);
        }
    }

    fn levels(&self, now: Levels) {
        self.metered.levels(now);
        let Some((timeline, number)) = &self.timeline else { return };
        let changed = |of: &AtomicU64, now| of.swap(now, Ordering::Relaxed) != now;
        let [device, host, leased] = &self.levels;
        if changed(device, now.device) | changed(host, now.host) | changed(leased, now.leased) {
            timeline.level(*number, now);
        }
    }
}

impl Reason {
    /// As metrics and events have it.
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Reason::Clean => "clean",
            Reason::WrittenBack => "written_back",
            Reason::Asked => "asked",
        }
    }
}

impl Kind {
    /// Every kind of transfer, read and write; `as usize` is the place in it.
    pub(crate) const TRAVELS: [Kind; 6] =
        [Kind::Upload, Kind::Download, Kind::Move, Kind::FileRead, Kind::DiskRead, Kind::DiskWrite];

    /// What its track is called.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Kind::Upload => "upload",
            Kind::Download => "download",
            Kind::Move => "move",
            Kind::FileRead => "file read",
            Kind::DiskRead => "disk read",
            Kind::DiskWrite => "disk write",
            Kind::Stall => "stall",
        }
    }

    /// The tier that the bytes come to; of storage that was read, the storage.
    pub(crate) const fn tier(self) -> &'static str {
        match self {
            Kind::Upload | Kind::Move | Kind::Stall => "device",
            Kind::Download => "host",
            Kind::FileRead => "file",
            Kind::DiskRead | Kind::DiskWrite => "disk",
        }
    }
}
