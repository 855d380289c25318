//! The metrics of a pool: what each thing it does moves, and that it moves nothing else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::CpuDevice;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use std::collections::BTreeMap;
use swap_tensor::{DType, DeviceIndex, PoolBuilder, SwapPool, Tensor, TensorSpec};

const KIB: u64 = 1 << 10;

/// A pool, and the recorder that only it knows.
fn pool(
    device: u64,
    also: impl FnOnce(PoolBuilder<CpuDevice>) -> PoolBuilder<CpuDevice>,
) -> (SwapPool<CpuDevice>, Snapshotter) {
    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(device).host_memory(1 << 20);
    let pool = metrics::with_local_recorder(&recorder, || also(builder).name("p").build().unwrap());
    moved(&snapshots);
    (pool, snapshots)
}

fn tensor(pool: &SwapPool<CpuDevice>, name: &str, bytes: u64) -> Tensor<CpuDevice> {
    let spec = TensorSpec::new(name, DType::U8, [bytes]).unwrap();
    pool.create(spec, &vec![1; bytes as usize]).unwrap()
}

/// What has moved since the last look, levels apart: of histograms, how many values.
fn moved(recorder: &Snapshotter) -> BTreeMap<String, f64> {
    let entries = recorder.snapshot().into_vec().into_iter().map(|(key, _, _, value)| {
        let key = key.key();
        assert!(key.labels().any(|label| (label.key(), label.value()) == ("pool", "p")), "{key}");
        let labels: Vec<_> = key.labels().filter(|l| l.key() != "pool").map(|label| label.value()).collect();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(level) => level.0,
            DebugValue::Histogram(values) => values.len() as f64,
        };
        let name = key.name().strip_prefix("swap_tensor_").unwrap();
        (format!("{name} {}", labels.join(" ")).trim_end().to_owned(), value)
    });
    entries.filter(|(_, value)| *value != 0.0).collect()
}

fn expect(pool: &SwapPool<CpuDevice>, recorder: &Snapshotter, expected: &[(&str, f64)]) {
    pool.settle().unwrap();
    let mut moved = moved(recorder);
    moved.retain(|name, _| !name.ends_with("_bytes device") && !name.ends_with("_bytes host"));
    let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    assert_eq!(moved, expected);
}

const MISS: [(&str, f64); 2] = [("leases_total miss", 1.0), ("lease_wait_seconds", 1.0)];

#[test]
fn an_upload_a_hit_and_a_write_back() {
    let (pool, recorder) = pool(64 * KIB, |builder| builder);
    let a = tensor(&pool, "a", 40 * KIB);
    expect(&pool, &recorder, &[]);
    drop(a.read().unwrap());
    let upload = [("transfers_total device upload", 1.0), ("transfer_bytes_total device upload", 40960.0)];
    expect(&pool, &recorder, &[&MISS[..], &upload].concat());
    drop(a.write().unwrap());
    expect(&pool, &recorder, &[("leases_total hit", 1.0)]);
    a.swap_out().unwrap();
    let download = [
        ("transfers_total device download", 1.0),
        ("transfer_bytes_total device download", 40960.0),
        ("evictions_total asked", 1.0),
        ("evicted_bytes_total asked", 40960.0),
    ];
    expect(&pool, &recorder, &download);
}

#[test]
fn evictions_by_reason() {
    let (pool, recorder) = pool(64 * KIB, |builder| builder);
    let (a, b) = (tensor(&pool, "a", 40 * KIB), tensor(&pool, "b", 40 * KIB));
    drop(a.read().unwrap());
    pool.settle().unwrap();
    moved(&recorder);
    drop(b.write().unwrap());
    let upload = [("transfers_total device upload", 1.0), ("transfer_bytes_total device upload", 40960.0)];
    let clean = [("evictions_total clean", 1.0), ("evicted_bytes_total clean", 40960.0)];
    expect(&pool, &recorder, &[&MISS[..], &upload, &clean].concat());
    drop(a.read().unwrap());
    let written_back = [
        ("transfers_total device download", 1.0),
        ("transfer_bytes_total device download", 40960.0),
        ("evictions_total written_back", 1.0),
        ("evicted_bytes_total written_back", 40960.0),
    ];
    expect(&pool, &recorder, &[&MISS[..], &upload, &written_back].concat());
}

#[test]
fn moves_and_how_long_transfers_take() {
    let (pool, recorder) = pool(64 * KIB, |builder| builder.measure_transfers(true));
    let tensors = ["a", "b", "c"].map(|name| tensor(&pool, name, 20 * KIB));
    tensors.iter().for_each(|tensor| drop(tensor.read().unwrap()));
    pool.settle().unwrap();
    assert!(tensors[0].evict() && tensors[2].evict());
    let wide = tensor(&pool, "wide", 40 * KIB);
    pool.settle().unwrap();
    pool.transfer_time();
    moved(&recorder);
    drop(wide.read().unwrap());
    pool.transfer_time();
    let moves = [
        ("transfers_total device move", 1.0),
        ("transfer_bytes_total device move", 20480.0),
        ("transfer_seconds device move", 1.0),
    ];
    let upload = [
        ("transfers_total device upload", 1.0),
        ("transfer_bytes_total device upload", 40960.0),
        ("transfer_seconds device upload", 1.0),
    ];
    expect(&pool, &recorder, &[&MISS[..], &moves, &upload].concat());
}

#[test]
fn a_file_that_is_read_and_fetched_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let bytes = vec![3; 40960];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![40960], &bytes).unwrap();
    safetensors::serialize_to_file([("w", view)], None, &path).unwrap();
    let (pool, recorder) = pool(64 * KIB, |builder| builder);
    let tensors = pool.attach_safetensors(&path).unwrap();
    expect(&pool, &recorder, &[]);
    pool.prefetch(&[&tensors[0]]);
    let read = [
        ("prefetches_total", 1.0),
        ("transfers_total file read", 1.0),
        ("transfer_bytes_total file read", 40960.0),
        ("transfer_seconds file read", 1.0),
        ("transfers_total device upload", 1.0),
        ("transfer_bytes_total device upload", 40960.0),
    ];
    expect(&pool, &recorder, &read);
    std::fs::write(&path, "another file").unwrap();
    assert!(tensors[0].evict());
    moved(&recorder);
    tensors[0].read().unwrap_err();
    assert_eq!(moved(&recorder).get("transfers_in_flight file read"), None);
}

#[test]
fn levels_follow_what_is_held() {
    let (pool, recorder) = pool(64 * KIB, |builder| builder);
    let a = tensor(&pool, "a", 40 * KIB);
    let lease = a.read().unwrap();
    let now = moved(&recorder);
    assert_eq!((now["held_bytes device"], now["leased_bytes"]), (40960.0, 40960.0));
    drop(lease);
    assert_eq!(moved(&recorder)["leased_bytes"], -40960.0);
    drop((a, pool));
    let gone = moved(&recorder);
    assert_eq!((gone["held_bytes device"], gone["budget_bytes device"]), (-40960.0, -65536.0));
}

/// In a pool of several devices each metric says which one it is about, and only the others' own move with it.
#[test]
fn the_devices_of_a_pool_are_told_apart() {
    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(64 * KIB).host_memory(1 << 20);
    let builder = builder.add_device(CpuDevice::new().unwrap(), 96 * KIB).name("p");
    let pool = metrics::with_local_recorder(&recorder, || builder.build().unwrap());
    let budgets = moved(&snapshots);
    assert_eq!((budgets["budget_bytes device 0"], budgets["budget_bytes device 1"]), (65536.0, 98304.0));
    assert_eq!(budgets["budget_bytes host 0"], 1048576.0);
    let a = tensor(&pool, "a", 40 * KIB);
    moved(&snapshots);
    drop(a.write_at(DeviceIndex::new(1)).unwrap());
    pool.settle().unwrap();
    let told = moved(&snapshots);
    assert!(told.keys().filter(|name| !name.contains("host")).all(|name| name.ends_with(" 1")), "{told:?}");
    assert_eq!((told["transfers_total device upload 1"], told["held_bytes device 1"]), (1.0, 40960.0));
    drop(a.read().unwrap());
    pool.settle().unwrap();
    let told = moved(&snapshots);
    assert_eq!(
        (told["transfers_total device download 1"], told["transfers_total device upload 0"]),
        (1.0, 1.0)
    );
}
