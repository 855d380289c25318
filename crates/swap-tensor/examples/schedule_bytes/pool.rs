//! The same programs on a real pool: the CPU device, real copies, its own threads, every size divided.

use crate::{
    simulator::{Bytes, STEPS},
    trace::{Op, Trace},
};
use backend_cpu::CpuDevice;
use core::mem::take;
use pinned_host::Queue;
use std::error::Error;
use swap_tensor::{DType, SwapPool, Tensor, TensorSpec, policy::Use};

/// Runs all steps but the last, one lease at a time, and tells what each moved; whether the pool follows a schedule.
///
/// # Errors
/// What the pool says; a trace that uses what it has dropped.
pub(crate) fn run(trace: &Trace, scheduled: bool) -> Result<Vec<Bytes>, Box<dyn Error>> {
    let pool = SwapPool::builder(CpuDevice::new()?)
        .device_memory(trace.device_bytes())
        .host_memory(3 * trace.peak)
        .staging(STAGING)
        .schedule(scheduled)
        .build()?;
    let mut tensors: Vec<Option<Tensor<CpuDevice>>> = vec![None; trace.bytes.len()];
    let mut before = Bytes::default();
    (0..STEPS - 1)
        .map(|step| {
            if scheduled {
                pool.mark_step();
            }
            for op in if step == 0 { &trace.first } else { &trace.again } {
                apply(trace, &pool, &mut tensors, op)?;
            }
            let stats = pool.stats();
            let now = Bytes {
                up: stats.uploaded_bytes,
                down: stats.downloaded_bytes,
                waits: stats.leases - stats.hits,
            };
            let past = core::mem::replace(&mut before, now);
            Ok(Bytes { up: now.up - past.up, down: now.down - past.down, waits: now.waits - past.waits })
        })
        .collect()
}

/// The same with all sizes divided, so that a quarter of a GiB is alive at most; whole units of 64 bytes, which a pool rounds to.
pub(crate) fn divided(mut trace: Trace) -> Trace {
    let by = trace.peak.div_ceil(256 << 20);
    trace.bytes.iter_mut().for_each(|bytes| *bytes = (*bytes / by).next_multiple_of(64).max(64));
    let mut alive: u64 = 0;
    trace.peak = 0;
    for op in &trace.first {
        match *op {
            Op::Create { tensor } => alive += trace.bytes[tensor],
            Op::Drop { tensor } => alive -= trace.bytes[tensor],
            Op::Lease { .. } => {}
        }
        trace.peak = trace.peak.max(alive);
    }
    trace
}

fn apply(
    trace: &Trace,
    pool: &SwapPool<CpuDevice>,
    tensors: &mut [Option<Tensor<CpuDevice>>],
    op: &Op,
) -> Result<(), Box<dyn Error>> {
    match *op {
        Op::Create { tensor } => {
            let bytes = trace.bytes[tensor];
            let spec = TensorSpec::new(format!("tensor.{tensor}"), DType::U8, [bytes])?;
            tensors[tensor] = Some(pool.create(spec, &vec![0; bytes as usize])?);
        }
        Op::Lease { tensor, how } => {
            let tensor = tensors[tensor].as_ref().ok_or("a tensor is used that is not there")?;
            match how {
                Use::Read => drop(tensor.read()?),
                // As a kernel that writes all of it would end.
                Use::Overwrite => tensor.overwrite()?.finish(pool.queue().record()?)?,
                _ => drop(tensor.write()?),
            }
        }
        Op::Drop { tensor } => drop(take(&mut tensors[tensor])),
    }
    Ok(())
}

/// Bytes of staging, which bound what is fetched ahead.
const STAGING: u64 = 16 << 20;
