//! Pools in which a hazard can be met, and how a test waits for what other threads do.

use backend_cpu::{
    CpuDevice,
    sim::{SimConfig, SimDevice, SimQueue},
};
use pinned_host::Transfer;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use swap_tensor::{
    DType, PoolBuilder, Residency, SwapError, SwapPool, Tensor, TensorSpec, WriteLease,
    disk::{DiskConfig, DiskStore, Fault, FaultPlan, IoChoice},
};

/// Size of most tensors here, in bytes: four pieces of staging.
pub(crate) const UNIT: u64 = 64 << 10;
/// Orders of the simulated device that are tried. In a few of them its host happens to look at the right moment, and hides what
/// is missing.
pub(crate) const SEEDS: u64 = 16;
/// Longer than anything takes that ends at all.
pub(crate) const AGES: Duration = Duration::from_secs(30);
/// How long a call waits for what the test makes hang.
pub(crate) const SHORT: Duration = Duration::from_millis(50);

/// A pool over the simulated device.
pub(crate) fn sim(seed: u64, device: u64, host: u64) -> SwapPool<SimDevice> {
    let builder = SwapPool::builder(SimDevice::new(SimConfig::seeded(seed)));
    sized(builder, device, host).deadline(Duration::ZERO).build().unwrap()
}

/// A pool over the simulated device and a disk tier.
pub(crate) fn sim_over_disk(seed: u64, device: u64, host: u64) -> SwapPool<SimDevice> {
    let builder = SwapPool::builder(SimDevice::new(SimConfig::seeded(seed)));
    let store = store(FaultPlan::default());
    sized(builder, device, host).deadline(Duration::ZERO).disk(store).build().unwrap()
}

/// A pool over host memory as a device, whose work runs by itself.
pub(crate) fn cpu(device: u64, host: u64) -> SwapPool<CpuDevice> {
    sized(SwapPool::builder(CpuDevice::new().unwrap()), device, host).deadline(AGES).build().unwrap()
}

/// The same over a disk tier, for which calls wait so long.
pub(crate) fn cpu_over_disk(
    device: u64,
    host: u64,
    store: &DiskStore,
    patience: Duration,
) -> SwapPool<CpuDevice> {
    let builder = sized(SwapPool::builder(CpuDevice::new().unwrap()), device, host);
    builder.deadline(patience).disk_deadline(patience).disk(store.clone()).build().unwrap()
}

fn sized<T: Transfer>(builder: PoolBuilder<T>, device: u64, host: u64) -> PoolBuilder<T> {
    builder.device_memory(device * UNIT).host_memory(host * UNIT).staging(2 * UNIT)
}

/// A disk store in memory, with threads for its I/O: what hangs has not reached the file then.
pub(crate) fn store(faults: FaultPlan) -> DiskStore {
    store_in(&memory(), faults).open().unwrap()
}

pub(crate) fn store_in(folder: &Path, faults: FaultPlan) -> DiskConfig {
    DiskConfig::new(folder, 64 * UNIT).io(IoChoice::Threads).faults(faults)
}

/// A file system in memory, if there is one: a real disk has other users.
pub(crate) fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// Contents that tell tensors, versions and places apart.
pub(crate) fn contents(value: u64, units: u64) -> Vec<u8> {
    (0..units * UNIT).map(|i| ((i * 31 + i / 251) as u8).wrapping_add(value as u8)).collect()
}

pub(crate) fn tensor<T: Transfer>(pool: &SwapPool<T>, name: &str, value: u64, units: u64) -> Tensor<T> {
    let spec = TensorSpec::new(name, DType::U8, [units * UNIT]).unwrap();
    pool.create(spec, &contents(value, units)).unwrap()
}

/// A tensor whose only copy is on disk. The pool is to have no host memory.
pub(crate) fn tensor_on_disk<T: Transfer>(
    pool: &SwapPool<T>,
    name: &str,
    value: u64,
    units: u64,
) -> Tensor<T> {
    let tensor = tensor(pool, name, value, units);
    // The pool may be one that has little patience.
    until(|| tensor.swap_out().is_ok());
    assert_eq!(tensor.residency(), Residency::Disk);
    tensor
}

/// Writes a safetensors file of tensors of these lengths, in units, called `f0`, `f1` and so on; tensor `i` contains
/// [`contents(i)`](contents).
pub(crate) fn model(path: &Path, units: &[u64]) -> fs::File {
    let mut at = 0;
    let fields = units.iter().enumerate().map(|(i, units)| {
        let (from, bytes) = (at, units * UNIT);
        at += bytes;
        format!(r#""f{i}":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[{from},{at}]}}"#)
    });
    let header = format!("{{{}}}", fields.collect::<Vec<_>>().join(","));
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    (0..).zip(units).for_each(|(i, &units)| file.write_all(&contents(i, units)).unwrap());
    file
}

/// What a tensor contains, read under a lease.
pub(crate) fn leased<T: Transfer>(tensor: &Tensor<T>) -> Result<Vec<u8>, SwapError> {
    let mut bytes = vec![0; tensor.spec().bytes() as usize];
    tensor.read()?.read_now(&mut bytes)?;
    Ok(bytes)
}

/// What it contains, read from wherever it is.
pub(crate) fn copied<T: Transfer>(tensor: &Tensor<T>) -> Result<Vec<u8>, SwapError> {
    let mut bytes = vec![0; tensor.spec().bytes() as usize];
    tensor.copy_to(&mut bytes)?;
    Ok(bytes)
}

/// Fails without printing two buffers.
#[track_caller]
pub(crate) fn same(found: Result<Vec<u8>, SwapError>, expected: &[u8]) {
    assert!(found.unwrap() == expected, "wrong bytes");
}

/// A kernel that inverts a leased tensor. It runs when the host waits, and not before.
pub(crate) fn invert(lease: &WriteLease<SimDevice>) {
    let view = lease.view().unwrap();
    let kernel = |bytes: &mut [Vec<u8>]| bytes[1] = bytes[0].iter().map(|byte| !byte).collect();
    lease.queue().launch(&[view.read(), view.write()], kernel).unwrap();
}

/// A kernel that reads a tensor on `queue`, under a lease that is given back at once.
pub(crate) fn read_by_kernel(tensor: &Tensor<SimDevice>, queue: &SimQueue) {
    let lease = tensor.read_on(queue).unwrap();
    let view = lease.view().unwrap();
    queue.launch(&[view.read()], |_| {}).unwrap();
}

pub(crate) fn inverted(value: u64, units: u64) -> Vec<u8> {
    contents(value, units).iter().map(|byte| !byte).collect()
}

/// Makes `tensor` dirty on the device.
pub(crate) fn rewrite<T: Transfer>(tensor: &Tensor<T>, value: u64) {
    let units = tensor.spec().bytes() / UNIT;
    tensor.write().unwrap().write_now(&contents(value, units)).unwrap();
}

/// Returns once `what` holds, which other threads see to.
#[track_caller]
pub(crate) fn until(what: impl Fn() -> bool) {
    let end = Instant::now() + AGES;
    while !what() {
        assert!(Instant::now() < end, "it never came to that");
        thread::yield_now();
    }
}

/// Whether `call` returns although something else hangs: made on a thread of its own, for it may not.
pub(crate) fn returns(call: impl FnOnce() + Send + 'static) -> bool {
    let (done, heard) = mpsc::channel();
    thread::spawn(move || {
        call();
        let _ = done.send(());
    });
    heard.recv_timeout(AGES / 3).is_ok()
}

/// Whether an operation hangs by now: releasing earlier ones does not let it go on.
pub(crate) fn hangs(store: &DiskStore) -> bool {
    store.faults_struck().iter().any(|(_, fault, _)| *fault == Fault::Hang)
}

/// Bytes of staging in use, both ways.
pub(crate) fn staged<T: Transfer>(pool: &SwapPool<T>) -> u64 {
    let staging = pool.staging();
    staging.read.in_use + staging.write.in_use
}
