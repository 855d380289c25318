//! Pools of two devices.

use backend_cpu::{
    CpuDevice,
    sim::{SimConfig, SimDevice},
};
use pinned_host::Transfer;
use std::time::Duration;
use swap_tensor::{DType, DeviceIndex, PoolBuilder, SlotState, SwapPool, Tensor, TensorSpec, WriteLease};

pub(crate) const UNIT: u64 = 64 << 10;
pub(crate) const A: DeviceIndex = DeviceIndex::FIRST;
pub(crate) const B: DeviceIndex = DeviceIndex::new(1);
/// Orders of the simulated devices that are tried.
pub(crate) const SEEDS: u64 = 16;

/// Two simulated devices in one host; sizes are units.
pub(crate) fn sim_with(seed: u64, (a, b): (u64, u64), host: u64) -> PoolBuilder<SimDevice> {
    let first = SimDevice::new(SimConfig::seeded(seed));
    let second = first.beside(SimConfig::seeded(!seed));
    let builder = SwapPool::builder(first).device_memory(a * UNIT).add_device(second, b * UNIT);
    builder.host_memory(host * UNIT).staging(2 * UNIT).deadline(Duration::ZERO)
}

pub(crate) fn sim(seed: u64, devices: (u64, u64), host: u64) -> SwapPool<SimDevice> {
    sim_with(seed, devices, host).build().unwrap()
}

pub(crate) fn cpu(devices: (u64, u64), host: u64) -> PoolBuilder<CpuDevice> {
    let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(devices.0 * UNIT);
    let builder = builder.add_device(CpuDevice::new().unwrap(), devices.1 * UNIT);
    builder.host_memory(host * UNIT).deadline(Duration::from_secs(20))
}

pub(crate) fn tensor<T: Transfer>(pool: &SwapPool<T>, name: &str, value: u8) -> Tensor<T> {
    let spec = TensorSpec::new(name, DType::U8, [UNIT]).unwrap();
    pool.create(spec, &[value; UNIT as usize]).unwrap()
}

/// The value that every byte of the tensor has, read on a device.
#[track_caller]
pub(crate) fn value<T: Transfer>(tensor: &Tensor<T>, on: DeviceIndex) -> u8 {
    let mut bytes = vec![0; UNIT as usize];
    tensor.read_at(on).unwrap().read_now(&mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == bytes[0]), "bytes of several versions");
    bytes[0]
}

#[track_caller]
pub(crate) fn write<T: Transfer>(tensor: &Tensor<T>, on: DeviceIndex, value: u8) {
    tensor.write_at(on).unwrap().upload(&[value; UNIT as usize]).unwrap();
}

pub(crate) fn states<T: Transfer>(tensor: &Tensor<T>) -> [SlotState; 2] {
    [A, B].map(|on| tensor.state_at(on).unwrap())
}

/// A kernel that adds one to every byte. It runs when the host waits, and not before.
pub(crate) fn add_one(lease: &WriteLease<SimDevice>) {
    let view = lease.view().unwrap();
    let kernel = |bytes: &mut [Vec<u8>]| bytes[1] = bytes[0].iter().map(|byte| byte + 1).collect();
    lease.queue().launch(&[view.read(), view.write()], kernel).unwrap();
}

/// The invariants hold, and no device saw a missing wait or a read of poison.
#[track_caller]
pub(crate) fn well(pool: &SwapPool<SimDevice>) {
    pool.check().unwrap();
    pool.devices().for_each(|(_, device)| device.assert_no_hazards());
}
