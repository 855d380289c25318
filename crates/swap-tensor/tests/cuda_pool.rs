//! A pool inside a program that uses CUDA already, and kernels on its tensors, over the simulated driver.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

#[allow(unexpected_cfgs, reason = "its own crate has a feature that this one has not")]
#[path = "../../backend-cuda/tests/common/mod.rs"]
mod common;

use backend_cuda::cudarc::driver as cu;
use backend_cuda::{CudaOptions, Streams};
use common::{Fault, Sim};
use std::sync::Arc;
use swap_tensor::{DType, Residency, SwapPool, TensorSpec};

#[test]
fn a_pool_lives_in_a_slice_of_the_callers_and_gives_it_back() {
    let _sim = Sim::new(31);
    let context = cu::CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let slice = stream.alloc_zeros::<u8>(64 << 10).unwrap();
    let device = CudaOptions::new().over_streams(Streams::from(Arc::clone(&stream))).unwrap();
    let buffer = device.buffer_over(slice).unwrap();

    let builder = SwapPool::builder(device).device_buffer(buffer.clone()).host_memory(1 << 20);
    assert!(format!("{builder:?}").contains("device_memory: 65536, device_buffer: true"), "{builder:?}");
    let pool = builder.build().unwrap();
    let tensors: Vec<_> = (0..6u8)
        .map(|number| {
            let spec = TensorSpec::new(format!("t{number}"), DType::U8, [24 << 10]).unwrap();
            pool.create(spec, &[number; 24 << 10]).unwrap()
        })
        .collect();
    for tensor in &tensors {
        let mut lease = tensor.write().unwrap();
        let mut bytes = vec![0; 24 << 10];
        lease.read_now(&mut bytes).unwrap();
        bytes.iter_mut().for_each(|byte| *byte += 100);
        lease.write_now(&bytes).unwrap();
    }
    for (number, tensor) in tensors.iter().enumerate() {
        let mut bytes = vec![0; 24 << 10];
        tensor.copy_to(&mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 100 + number as u8));
    }
    assert!(pool.stats().evictions >= 4, "{:?}", pool.stats());

    let buffer = buffer.into_slice::<u8>().unwrap_err();
    drop((tensors, pool));
    let slice = buffer.into_slice::<u8>().unwrap();
    assert_eq!(slice.len(), 64 << 10);
}

/// The example runs on the simulator, which reports at its exit what it did wrong or left behind.
#[cfg(feature = "cuda")]
#[test]
fn compute_on_view_runs() {
    use std::process::Command;

    let program = std::env::current_exe().unwrap();
    let example = program.parent().unwrap().parent().unwrap().join("examples/compute_on_view");
    assert!(example.exists(), "cargo builds {example:?} with the tests of this crate (or `--examples`)");
    for seed in ["0", "1", "2"] {
        let ran = Command::new(&example).arg("cuda").env("CUDA_SIM_SEED", seed).output().unwrap();
        let (said, warned) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "seed {seed}, {}: {said}{warned}", ran.status);
        assert!(said.ends_with("told on cuda\n"), "{said}");
    }
}

/// A wait that the driver refuses once has not waited.
#[test]
fn settling_waits_although_a_wait_is_refused() {
    let mut settled = 0;
    for seed in 0..300 {
        let sim = Sim::new(seed);
        let builder = SwapPool::builder(CudaOptions::new().open().unwrap()).device_memory(1 << 20);
        let pool = builder.host_memory(1 << 20).build().unwrap();
        let spec = TensorSpec::new("t", DType::U8, [64 << 10]).unwrap();
        let tensor = pool.create(spec, &[7; 64 << 10]).unwrap();
        pool.prefetch(&[&tensor]);
        pool.wait_prefetch();
        sim.inject_at(Fault::NotSupported, "cuEventSynchronize", 1);
        let waited = pool.settle();
        assert!(waited.is_err() || tensor.residency() == Residency::Device, "seed {seed}: {waited:?}");
        settled += u32::from(waited.is_ok());
        sim.clear_faults();
        drop((tensor, pool));
    }
    assert!(settled > 0);
}
