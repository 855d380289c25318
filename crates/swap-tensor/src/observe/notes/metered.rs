//! Metrics through the facade: handles taken when a pool is built, from the recorder that is installed then.

use super::{Kind, Levels, Reason};
use crate::DeviceIndex;
use metrics::{Counter, Gauge, Histogram, Label, Unit, counter, gauge, histogram};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Something that counts in a gauge while it lasts.
#[must_use]
pub(crate) struct Counted(Option<Gauge>);

impl Counted {
    /// Nobody counts.
    pub(super) fn none() -> Self {
        Counted(None)
    }

    fn on(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Counted(Some(gauge.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(gauge) = &self.0 {
            gauge.decrement(1.0);
        }
    }
}

/// The handles of one pool. Gauges are told differences, so that pools of one name add up.
pub(crate) struct Metered {
    /// By [`Kind::TRAVELS`].
    travels: [Travels; Kind::TRAVELS.len()],
    hits: Counter,
    misses: Counter,
    wait: Histogram,
    /// By [`REASONS`]: evictions, and their bytes.
    evicted: [(Counter, Counter); REASONS.len()],
    prefetches: Counter,
    wishes: Gauge,
    /// Device, host, leased.
    levels: [Level; 3],
    /// Device, host.
    budgets: [(Gauge, u64); 2],
}

struct Travels {
    count: Counter,
    bytes: Counter,
    failures: Counter,
    flying: Gauge,
    seconds: Histogram,
}

/// A gauge, and what this pool has in it.
struct Level {
    gauge: Gauge,
    now: AtomicU64,
}

impl Metered {
    /// `device` is a label only in a pool of several.
    pub(super) fn new(pool: &Arc<str>, device: Option<DeviceIndex>, budget: Levels) -> Self {
        describe();
        let labels = |more: &[(&'static str, &'static str)]| {
            let pool = core::iter::once(Label::new("pool", Arc::clone(pool)));
            let device = device.map(|device| Label::new("device", device.to_string()));
            let more = more.iter().map(|&(key, value)| Label::from_static_parts(key, value));
            pool.chain(more).chain(device).collect::<Vec<_>>()
        };
        let level = |gauge| Level { gauge, now: AtomicU64::new(0) };
        let held = |tier| gauge!(HELD, labels(&[("tier", tier)]));
        let budgets = [("device", budget.device), ("host", budget.host)].map(|(tier, bytes)| {
            let gauge = gauge!(BUDGET, labels(&[("tier", tier)]));
            gauge.increment(bytes as f64);
            (gauge, bytes)
        });
        let leases = |found| counter!(LEASES, labels(&[("found", found)]));
        Metered {
            travels: Kind::TRAVELS.map(|kind| Travels::new(kind, &labels)),
            hits: leases("hit"),
            misses: leases("miss"),
            wait: histogram!(LEASE_WAIT, labels(&[])),
            evicted: REASONS.map(|reason| {
                let labels = || labels(&[("reason", reason.as_str())]);
                (counter!(EVICTIONS, labels()), counter!(EVICTED_BYTES, labels()))
            }),
            prefetches: counter!(PREFETCHES, labels(&[])),
            wishes: gauge!(PREFETCH_QUEUE, labels(&[])),
            levels: [level(held("device")), level(held("host")), level(gauge!(LEASED, labels(&[])))],
            budgets,
        }
    }

    pub(super) fn enqueued(&self, kind: Kind, count: u64, bytes: u64) {
        if let Some(of) = self.travels.get(kind as usize) {
            of.count.increment(count);
            of.bytes.increment(bytes);
        }
    }

    pub(super) fn flying(&self, kind: Kind) -> Counted {
        self.travels.get(kind as usize).map_or_else(Counted::none, |of| Counted::on(&of.flying))
    }

    pub(super) fn took(&self, kind: Kind, time: Duration) {
        if let Some(of) = self.travels.get(kind as usize) {
            of.seconds.record(time);
        }
    }

    pub(super) fn failed(&self, kind: Kind) {
        if let Some(of) = self.travels.get(kind as usize) {
            of.failures.increment(1);
        }
    }

    pub(super) fn leased(&self, hit: bool) {
        if hit { &self.hits } else { &self.misses }.increment(1);
    }

    pub(super) fn stalled(&self, time: Duration) {
        self.wait.record(time);
    }

    pub(super) fn evicted(&self, bytes: u64, reason: Reason) {
        if let Some((count, sum)) = self.evicted.get(reason as usize) {
            count.increment(1);
            sum.increment(bytes);
        }
    }

    pub(super) fn prefetched(&self) {
        self.prefetches.increment(1);
    }

    pub(super) fn wished(&self) -> Counted {
        Counted::on(&self.wishes)
    }

    pub(super) fn levels(&self, now: Levels) {
        let told = [now.device, now.host, now.leased];
        self.levels.iter().zip(told).for_each(|(level, now)| level.set(now));
    }
}

impl Drop for Metered {
    /// A pool that is gone holds nothing.
    fn drop(&mut self) {
        self.levels(Levels::default());
        for (gauge, bytes) in &self.budgets {
            gauge.decrement(*bytes as f64);
        }
    }
}

impl Travels {
    fn new(kind: Kind, labels: &impl Fn(&[(&'static str, &'static str)]) -> Vec<Label>) -> Self {
        let (tier, direction) = match kind {
            Kind::Upload => ("device", "upload"),
            Kind::Download => ("device", "download"),
            Kind::Move | Kind::Stall => ("device", "move"),
            Kind::FileRead => ("file", "read"),
            Kind::DiskRead => ("disk", "read"),
            Kind::DiskWrite => ("disk", "write"),
        };
        let labels = || labels(&[("tier", tier), ("direction", direction)]);
        Travels {
            count: counter!(TRANSFERS, labels()),
            bytes: counter!(TRANSFER_BYTES, labels()),
            failures: counter!(TRANSFER_FAILURES, labels()),
            // Moves have no owner who would say that they ended.
            flying: if kind == Kind::Move { Gauge::noop() } else { gauge!(IN_FLIGHT, labels()) },
            seconds: histogram!(TRANSFER_TIME, labels()),
        }
    }
}

impl Level {
    fn set(&self, now: u64) {
        let before = self.now.swap(now, Ordering::Relaxed);
        if now >= before {
            self.gauge.increment((now - before) as f64);
        } else {
            self.gauge.decrement((before - now) as f64);
        }
    }
}

/// Tells the recorder what the names mean. Each is in the table of [`observe`](crate::observe).
fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!(TRANSFER_BYTES, Unit::Bytes, "Bytes copied, moved, read or written");
    describe_counter!(TRANSFERS, Unit::Count, "Copies, moves of a block, reads and writes");
    describe_counter!(TRANSFER_FAILURES, Unit::Count, "Copies, moves, reads and writes that failed");
    describe_gauge!(IN_FLIGHT, Unit::Count, "Copies, reads and writes that have not ended");
    describe_histogram!(TRANSFER_TIME, Unit::Seconds, "Time from enqueue to event, of a read or a write");
    describe_counter!(LEASES, Unit::Count, "Leases given, by whether the tensor was on the device");
    describe_histogram!(LEASE_WAIT, Unit::Seconds, "Time that a caller was blocked in a lease");
    describe_counter!(EVICTIONS, Unit::Count, "Device copies given up");
    describe_counter!(EVICTED_BYTES, Unit::Bytes, "Bytes of device copies given up");
    describe_counter!(PREFETCHES, Unit::Count, "Tensors fetched ahead of a lease");
    describe_gauge!(PREFETCH_QUEUE, Unit::Count, "Tensors that wait to be fetched ahead");
    describe_gauge!(HELD, Unit::Bytes, "Bytes that tensors' copies take");
    describe_gauge!(BUDGET, Unit::Bytes, "Bytes that a tier may hold");
    describe_gauge!(LEASED, Unit::Bytes, "Device bytes under lease or pin");
}

/// `as usize` is the place in it.
const REASONS: [Reason; 3] = [Reason::Clean, Reason::WrittenBack, Reason::Asked];

const TRANSFER_BYTES: &str = "swap_tensor_transfer_bytes_total";
const TRANSFERS: &str = "swap_tensor_transfers_total";
const TRANSFER_FAILURES: &str = "swap_tensor_transfer_failures_total";
const IN_FLIGHT: &str = "swap_tensor_transfers_in_flight";
const TRANSFER_TIME: &str = "swap_tensor_transfer_seconds";
const LEASES: &str = "swap_tensor_leases_total";
const LEASE_WAIT: &str = "swap_tensor_lease_wait_seconds";
const EVICTIONS: &str = "swap_tensor_evictions_total";
const EVICTED_BYTES: &str = "swap_tensor_evicted_bytes_total";
const PREFETCHES: &str = "swap_tensor_prefetches_total";
const PREFETCH_QUEUE: &str = "swap_tensor_prefetch_queue";
const HELD: &str = "swap_tensor_held_bytes";
const BUDGET: &str = "swap_tensor_budget_bytes";
const LEASED: &str = "swap_tensor_leased_bytes";

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
    use std::collections::{BTreeMap, BTreeSet};

    /// What has moved since the last look, and by how much: of histograms, how many values.
    fn moved(recorder: &Snapshotter) -> BTreeMap<String, f64> {
        let entries = recorder.snapshot().into_vec().into_iter().map(|(key, unit, help, value)| {
            let key = key.key();
            assert!(unit.is_some() && help.is_some_and(|help| !help.is_empty()), "{key} is not described");
            let labels = key.labels().filter(|label| label.key() != "pool");
            let labels: Vec<_> = labels.map(|label| label.value()).collect();
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(level) => level.0,
                DebugValue::Histogram(values) => values.len() as f64,
            };
            let name = key.name().strip_prefix("swap_tensor_").unwrap_or(key.name());
            (format!("{name} {}", labels.join(" ")).trim_end().to_owned(), value)
        });
        entries.filter(|(_, value)| *value != 0.0).collect()
    }

    fn expect(recorder: &Snapshotter, expected: &[(&str, f64)]) {
        let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        assert_eq!(moved(recorder), expected);
    }

    fn with(check: impl FnOnce(Metered, &Snapshotter)) {
        let recorder = DebuggingRecorder::new();
        let snapshots = recorder.snapshotter();
        let budget = Levels { device: 100, host: 200, leased: 0 };
        let metered = metrics::with_local_recorder(&recorder, || Metered::new(&"p".into(), None, budget));
        expect(&snapshots, &[("budget_bytes device", 100.0), ("budget_bytes host", 200.0)]);
        check(metered, &snapshots);
    }

    #[test]
    fn each_kind_moves_its_own_metrics_and_no_others() {
        let names = [
            (Kind::Upload, "device upload"),
            (Kind::Download, "device download"),
            (Kind::Move, "device move"),
            (Kind::FileRead, "file read"),
            (Kind::DiskRead, "disk read"),
            (Kind::DiskWrite, "disk write"),
        ];
        assert_eq!(names.map(|(kind, _)| kind), Kind::TRAVELS);
        with(|metered, recorder| {
            for (kind, labels) in names {
                metered.enqueued(kind, 2, 30);
                let (count, bytes) =
                    (format!("transfers_total {labels}"), format!("transfer_bytes_total {labels}"));
                expect(recorder, &[(&count, 2.0), (&bytes, 30.0)]);
                metered.failed(kind);
                expect(recorder, &[(&format!("transfer_failures_total {labels}"), 1.0)]);
                metered.took(kind, Duration::from_millis(3));
                expect(recorder, &[(&format!("transfer_seconds {labels}"), 1.0)]);
                let flying = metered.flying(kind);
                let name = format!("transfers_in_flight {labels}");
                let in_flight =
                    |change: f64| if kind == Kind::Move { vec![] } else { vec![(&*name, change)] };
                expect(recorder, &in_flight(1.0));
                drop(flying);
                expect(recorder, &in_flight(-1.0));
            }
            metered.enqueued(Kind::Stall, 1, 1);
            metered.failed(Kind::Stall);
            metered.took(Kind::Stall, Duration::ZERO);
            drop(metered.flying(Kind::Stall));
            expect(recorder, &[]);
        });
    }

    #[test]
    fn leases_evictions_and_prefetches() {
        with(|metered, recorder| {
            metered.leased(true);
            expect(recorder, &[("leases_total hit", 1.0)]);
            metered.leased(false);
            expect(recorder, &[("leases_total miss", 1.0)]);
            metered.stalled(Duration::from_millis(1));
            expect(recorder, &[("lease_wait_seconds", 1.0)]);
            for reason in REASONS {
                metered.evicted(5, reason);
                let reason = reason.as_str();
                let names = (format!("evictions_total {reason}"), format!("evicted_bytes_total {reason}"));
                expect(recorder, &[(&names.0, 1.0), (&names.1, 5.0)]);
            }
            metered.prefetched();
            expect(recorder, &[("prefetches_total", 1.0)]);
            let wish = metered.wished();
            expect(recorder, &[("prefetch_queue", 1.0)]);
            drop(wish);
            expect(recorder, &[("prefetch_queue", -1.0)]);
        });
    }

    #[test]
    fn levels_are_what_is_held_and_go_with_the_pool() {
        with(|metered, recorder| {
            metered.levels(Levels { device: 10, host: 20, leased: 5 });
            let names = ["held_bytes device", "held_bytes host", "leased_bytes"];
            expect(recorder, &[(names[0], 10.0), (names[1], 20.0), (names[2], 5.0)]);
            metered.levels(Levels { device: 4, host: 20, leased: 6 });
            expect(recorder, &[(names[0], -6.0), (names[2], 1.0)]);
            drop(metered);
            let budgets = [("budget_bytes device", -100.0), ("budget_bytes host", -200.0)];
            expect(
                recorder,
                &[(names[0], -4.0), (names[1], -20.0), (names[2], -6.0), budgets[0], budgets[1]],
            );
        });
    }

    #[test]
    fn the_table_has_every_metric_and_no_other() {
        let recorder = DebuggingRecorder::new();
        let metered =
            metrics::with_local_recorder(&recorder, || Metered::new(&"p".into(), None, Levels::default()));
        let entries = recorder.snapshotter().snapshot().into_vec();
        let names: BTreeSet<_> = entries.iter().map(|(key, ..)| key.key().name().to_owned()).collect();
        let rows = include_str!("../../observe.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `swap_tensor_"));
        let table: BTreeSet<_> =
            rows.filter_map(|row| Some(format!("swap_tensor_{}", row.split('`').next()?))).collect();
        assert_eq!(table, names);
        drop(metered);
    }
}
