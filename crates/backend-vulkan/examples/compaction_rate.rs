//! How fast blocks move within a Vulkan buffer, against one raw `vkCmdCopyBuffer` of the same bytes in the same run.
//!
//! `cargo run --release -p backend-vulkan --features vulkan --example compaction_rate -- [--quick] [DEVICE]`, where DEVICE is
//! an index, a name or a UUID. Each row moves 128 MiB in blocks of one size by one distance, as a compaction does: every
//! block into what the one before it left. Rounds alternate; the median of seven counts. `ours` is the way that the library
//! chose; the rates of both ways are shown, so that the choice can be judged. `--quick` moves a 16th of it: that shows that
//! it works, and no figure means anything.

use allocator_core::DeviceBuffer;
use ash::vk;
use backend_vulkan::{Select, VulkanBuffer, VulkanDevice, VulkanOptions};
use pinned_host::{Event, Queue, QueuedBuffer, Transfer};
use std::error::Error;
use std::time::Instant;

const BYTES: u64 = 128 << 20;
const ROUNDS: usize = 7;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let (flags, names): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
    let bytes = if flags.iter().any(|flag| flag == "--quick") { BYTES / 16 } else { BYTES };
    let select = names.first().map_or(Select::Best, |text| Select::parse(text));
    let open = |barrier: Option<u64>| {
        let options = VulkanOptions::new().select(select.clone());
        barrier.map_or(options.clone(), |bytes| options.barrier_cost(bytes)).open()
    };
    // A barrier that costs nothing makes every overlapping move in steps, one that costs a terabyte through scratch.
    let devices = [open(None)?, open(Some(0))?, open(Some(1 << 40))?];
    let info = devices[0].info();
    println!("{} ({}), {} MiB per row", info.name, info.driver, bytes / MIB);
    println!(
        "{:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8}",
        "block", "distance", "raw GB/s", "ours", "steps", "bounce", "ours/raw"
    );
    let mut buffers: Vec<VulkanBuffer> =
        devices.iter().map(|device| device.buffer(2 * bytes)).collect::<Result<_, _>>()?;
    let cases = [
        (4 * KIB, bytes),
        (64 * KIB, bytes),
        (2 * MIB, bytes),
        (64 * MIB, bytes),
        (2 * MIB, 2 * MIB),
        (2 * MIB, MIB),
        (2 * MIB, 256 * KIB),
        (2 * MIB, 64 * KIB),
        (2 * MIB, 16 * KIB),
        (2 * MIB, 4 * KIB),
        (64 * MIB, MIB),
        (64 * MIB, 64 * KIB),
        // Last, because steps of 64 bytes take minutes where a barrier takes long.
        (2 * MIB, 64),
    ];
    for (block, distance) in cases.into_iter().filter(|(block, _)| *block <= bytes) {
        let mut rates: [Vec<f64>; 4] = Default::default();
        for _ in 0..ROUNDS {
            rates[0].push(raw(&devices[0], &buffers[0], bytes, block)?);
            for (buffer, rates) in buffers.iter_mut().zip(&mut rates[1..]) {
                rates.push(moves(buffer, bytes, block, distance)?);
            }
        }
        let [raw, ours, steps, bounce] = rates.map(median);
        println!(
            "{:>7}K {:>8}{} {raw:>9.2} {ours:>9.2} {steps:>9.2} {bounce:>9.2} {:>8.2}",
            block / KIB,
            if distance < KIB { distance } else { distance / KIB },
            if distance < KIB { " " } else { "K" },
            ours / raw
        );
    }
    Ok(())
}

/// One command with a region for each block, to a place far from all of them.
fn raw(device: &VulkanDevice, buffer: &VulkanBuffer, bytes: u64, block: u64) -> Result<f64, Box<dyn Error>> {
    let regions: Vec<_> = (0..bytes / block)
        .map(|number| {
            vk::BufferCopy::default()
                .src_offset(bytes + number * block)
                .dst_offset(number * block)
                .size(block)
        })
        .collect();
    let start = Instant::now();
    // SAFETY: the regions lie in the buffer, which is among the uses, and do not overlap.
    unsafe {
        device.queue().commands(&[buffer], |device, commands| {
            device.cmd_copy_buffer(commands, buffer.native(), buffer.native(), &regions);
        })?;
    }
    device.queue().record()?.synchronize()?;
    Ok(rate(bytes, start))
}

/// Every block down by `distance`, in one submission.
fn moves(buffer: &mut VulkanBuffer, bytes: u64, block: u64, distance: u64) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    for number in 0..bytes / block {
        let src = distance + number * block;
        buffer.copy_within(src..src + block, number * block)?;
    }
    buffer.queue().record()?.synchronize()?;
    Ok(rate(bytes, start))
}

fn rate(bytes: u64, start: Instant) -> f64 {
    bytes as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
