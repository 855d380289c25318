//! What a pool records in a timeline, read back from the trace it writes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::CpuDevice;
use serde_json::Value;
use std::{collections::BTreeSet, thread};
use swap_tensor::{DType, DeviceIndex, PoolBuilder, SwapPool, Tensor, TensorSpec, Timeline};

const KIB: u64 = 1 << 10;

fn builder(device: u64) -> PoolBuilder<CpuDevice> {
    SwapPool::builder(CpuDevice::new().unwrap()).device_memory(device).host_memory(4 << 20)
}

fn tensor(pool: &SwapPool<CpuDevice>, name: &str, bytes: u64) -> Tensor<CpuDevice> {
    let spec = TensorSpec::new(name, DType::U8, [bytes]).unwrap();
    pool.create(spec, &vec![1; bytes as usize]).unwrap()
}

fn events(timeline: &Timeline) -> Vec<Value> {
    let mut json = Vec::new();
    timeline.write_chrome_json(&mut json).unwrap();
    let mut trace: Value = serde_json::from_slice(&json).unwrap();
    trace["traceEvents"].take().as_array().unwrap().clone()
}

/// Spans of one category: name and bytes.
fn spans(events: &[Value], category: &str) -> Vec<(String, u64)> {
    let of = events.iter().filter(|e| e["ph"] == "X" && e["cat"] == category);
    of.map(|e| (e["name"].as_str().unwrap().to_owned(), e["args"]["bytes"].as_u64().unwrap())).collect()
}

fn sum(spans: &[(String, u64)]) -> u64 {
    spans.iter().map(|(_, bytes)| bytes).sum()
}

#[test]
fn the_spans_carry_the_bytes_that_the_statistics_count() {
    let timeline = Timeline::new();
    let pool = builder(64 * KIB).timeline(timeline.clone()).build().unwrap();
    let sizes = [20, 7, 33, 12, 25].map(|kib| kib * KIB);
    let tensors: Vec<_> =
        sizes.iter().enumerate().map(|(i, &b)| tensor(&pool, &format!("t{i}"), b)).collect();
    for round in 0..12 {
        for i in 0..tensors.len() {
            let tensor = &tensors[(i * (round + 1)) % tensors.len()];
            let mut now = vec![0; tensor.spec().bytes() as usize];
            let mut lease = tensor.write().unwrap();
            lease.read_now(&mut now).unwrap();
            lease.write_now(&now).unwrap();
        }
    }
    pool.settle().unwrap();
    let (stats, time) = (pool.stats(), pool.transfer_time().unwrap());
    assert!(stats.moved_bytes > 0 && stats.downloaded_bytes > 0, "{stats:?}");
    let events = events(&timeline);
    assert_eq!(sum(&spans(&events, "upload")), stats.uploaded_bytes);
    assert_eq!(sum(&spans(&events, "download")), stats.downloaded_bytes);
    assert_eq!(sum(&spans(&events, "move")), stats.moved_bytes);
    assert_eq!(time.bytes, stats.uploaded_bytes + stats.downloaded_bytes);
    assert!(
        time.fill <= time.busy && time.write_back <= time.busy && time.busy <= time.fill + time.write_back
    );
    let named: BTreeSet<_> = spans(&events, "download").into_iter().map(|(name, _)| name).collect();
    assert!(named.iter().all(|name| name.starts_with('t')) && !named.is_empty(), "{named:?}");
    assert!(!spans(&events, "stall").is_empty());
    let held = events.iter().filter(|e| e["ph"] == "C" && e["name"] == "bytes held");
    let most = held.filter_map(|e| e["args"]["device"].as_u64()).max().unwrap();
    assert!((33 * KIB..=64 * KIB).contains(&most), "{most}");
}

#[test]
fn reads_of_a_file_and_the_programs_own_spans() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let bytes = vec![3; 50_000];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![50_000], &bytes).unwrap();
    safetensors::serialize_to_file([("w", view)], None, &path).unwrap();

    let timeline = Timeline::new();
    let pool = builder(64 * KIB).timeline(timeline.clone()).name("a \"pool\"").build().unwrap();
    let tensors = pool.attach_safetensors(&path).unwrap();
    let lease = tensors[0].read().unwrap();
    lease.wait().unwrap();
    drop(timeline.span("w", "compute").bytes(50_000));
    drop(lease);
    let mut into = vec![0; 50_000];
    assert!(tensors[0].evict());
    tensors[0].copy_to(&mut into).unwrap();
    assert!(pool.transfer_time().is_some());

    let events = events(&timeline);
    let read = spans(&events, "file read");
    assert_eq!((sum(&read), read[0].0.as_str()), (100_000, "w"));
    assert_eq!(spans(&events, "program"), [("w".to_owned(), 50_000)]);
    let titles: BTreeSet<_> = events
        .iter()
        .filter(|e| e["name"] == "thread_name" || e["name"] == "process_name")
        .filter_map(|e| e["args"]["name"].as_str())
        .collect();
    for title in ["program", "compute", "a \"pool\"", "upload", "file read", "stall"] {
        assert!(titles.contains(title), "{title} in {titles:?}");
    }
}

#[test]
fn each_device_of_a_pool_has_its_tracks() {
    let timeline = Timeline::new();
    let builder = builder(64 * KIB).name("p").timeline(timeline.clone());
    let pool = builder.add_device(CpuDevice::new().unwrap(), 64 * KIB).build().unwrap();
    let (first, second) = (DeviceIndex::FIRST, DeviceIndex::new(1));
    let spec = TensorSpec::new("t", DType::U8, [9000]).unwrap();
    let tensor = pool.create(spec, &[1; 9000]).unwrap();
    drop(tensor.write_at(second).unwrap());
    drop(tensor.read().unwrap());
    pool.settle().unwrap();
    let time = [first, second].map(|on| pool.transfer_time_at(on).unwrap().unwrap().bytes);
    assert_eq!(time, [9000, 18_000], "up to the second, down from it, up to the first");
    let events = events(&timeline);
    let process = |name: &str| {
        let named = events.iter().find(|e| e["name"] == "process_name" && e["args"]["name"] == name);
        named.unwrap_or_else(|| panic!("no {name}"))["pid"].clone()
    };
    let travels = |process: serde_json::Value, kind: &str| {
        events.iter().filter(|e| e["ph"] == "X" && e["cat"] == kind && e["pid"] == process).count()
    };
    let (a, b) = (process("p, device 0"), process("p, device 1"));
    assert_eq!((travels(a.clone(), "upload"), travels(a, "download")), (1, 0));
    assert_eq!((travels(b.clone(), "upload"), travels(b, "download")), (1, 1));
}

#[test]
fn pools_and_threads_share_a_timeline() {
    let timeline = Timeline::new();
    let pools =
        ["one", "two"].map(|name| builder(64 * KIB).name(name).timeline(timeline.clone()).build().unwrap());
    thread::scope(|scope| {
        for pool in &pools {
            for thread in 0..3 {
                let timeline = timeline.clone();
                scope.spawn(move || {
                    let tensor = tensor(pool, &format!("t{thread}"), 30 * KIB);
                    for _ in 0..20 {
                        let lease = tensor.read().unwrap();
                        let _step = timeline.span("step", "compute");
                        lease.wait().unwrap();
                    }
                });
            }
        }
    });
    drop(pools); // waits for the transfers
    let events = events(&timeline);
    assert_eq!(spans(&events, "program").len(), 2 * 3 * 20);
    // What shares a thread of the trace nests, whoever recorded it.
    let mut threads = std::collections::BTreeMap::<_, Vec<(u64, u64)>>::new();
    for e in events.iter().filter(|e| e["ph"] == "X") {
        let nanos = |field: &str| (e[field].as_f64().unwrap() * 1000.0).round() as u64;
        let begin = nanos("ts");
        let thread = threads.entry((e["pid"].as_u64().unwrap(), e["tid"].as_u64().unwrap())).or_default();
        thread.push((begin, begin + nanos("dur")));
    }
    for spans in threads.values() {
        for (i, a) in spans.iter().enumerate() {
            for b in &spans[i + 1..] {
                let apart = a.1 <= b.0 || b.1 <= a.0;
                let nests = (a.0 <= b.0 && b.1 <= a.1) || (b.0 <= a.0 && a.1 <= b.1);
                assert!(apart || nests, "{a:?} and {b:?}");
            }
        }
    }
}

#[test]
fn without_a_listener_nothing_is_measured() {
    let pool = builder(64 * KIB).build().unwrap();
    drop(tensor(&pool, "t", 100).read().unwrap());
    assert!(pool.transfer_time().is_none());
}
