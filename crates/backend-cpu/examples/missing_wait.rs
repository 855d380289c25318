//! A pipeline with a wait missing: right on most runs of a real device, found at once on the simulated one.
//!
//! `cargo run --example missing_wait -p backend-cpu`

use backend_cpu::CpuDevice;
use backend_cpu::sim::{SimConfig, SimDevice};
use pinned_host::{HostPool, Lane, PageLocker, Queue, Transfer};
use std::error::Error;

/// Sends bytes up and fetches them. Generic: the same code runs on every device.
fn there_and_back<T: Transfer>(device: &T, wait: bool) -> Result<bool, Box<dyn Error>> {
    let pool = HostPool::new(vec![device.locker().lock(64 << 10)?], 64)?;
    let mut buffer = device.buffer(16 << 10)?;
    let mut slice = pool.allocate(16 << 10)?;
    slice.as_mut_slice().fill(7);
    let sent = device.upload(slice, &mut buffer, 0).map_err(|refused| refused.error)?;
    if wait {
        device.lane(Lane::Download).wait(sent.event())?;
    }
    let back = device.download(&buffer, 0, pool.allocate(16 << 10)?).map_err(|refused| refused.error)?;
    let slice = back.wait().map_err(|failed| failed.error)?;
    Ok(slice.as_slice().iter().all(|&byte| byte == 7))
}

fn main() -> Result<(), Box<dyn Error>> {
    for wait in [true, false] {
        println!("{} the wait:", if wait { "with" } else { "without" });
        let mut right = 0;
        for _ in 0..100 {
            right += u32::from(there_and_back(&CpuDevice::new()?, wait)?);
        }
        println!("  CPU device: right bytes in {right} of 100 runs");
        let mut found = 0;
        let mut report = String::new();
        for seed in 0..100 {
            let device = SimDevice::new(SimConfig::seeded(seed));
            there_and_back(&device, wait)?;
            if let Some(hazard) = device.hazards().first() {
                found += 1;
                report = format!("\n    {hazard}");
            }
        }
        println!("  simulated device: a missing wait found in {found} of 100 runs{report}");
    }
    Ok(())
}
