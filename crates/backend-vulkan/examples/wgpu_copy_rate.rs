//! How fast the wgpu device copies, against plain `memcpy` of the same blocks, and how fast it moves, against one raw
//! `vkCmdCopyBuffer` of the same bytes to another buffer, in the same run.
//!
//! `cargo run --release --example wgpu_copy_rate -p backend-vulkan --features wgpu -- [ADAPTER] [--piece BYTES]
//! [--scratch BYTES] [--quick] [--no-small]`. Buffers are larger than four times a usual last-level cache and touched
//! beforehand. Rounds alternate and the median counts, so that a slow minute of the machine strikes both sides. `deep`
//! keeps eight transfers in flight, `alone` waits for each; `write_buffer` is wgpu's own way up, which makes a buffer each
//! time. `--quick` is one round of a 64th of the transfers: that shows that it works, and no figure means anything.
//! `--no-small` leaves out blocks of 4 KiB, which take minutes where a submission takes long.

use allocator_core::DeviceBuffer;
use backend_vulkan::{WgpuBuffer, WgpuDevice, WgpuMoves, WgpuOptions, WgpuSelect, wgpu};
use pinned_host::{
    Event, HostPool, HostRegion, Lane, OsRegion, PageLocker, Queue, QueuedBuffer, SliceOf, Ticket, Transfer,
};
use std::collections::VecDeque;
use std::error::Error;
use std::time::Instant;

const WORKING_SET: usize = 256 << 20;

/// How much is measured.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    /// Bytes that one walk copies.
    set: usize,
    /// Bytes of the smallest blocks.
    least: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut select, mut piece, mut scratch) = (WgpuSelect::Best, None, None);
    let mut effort = Effort { rounds: 9, set: WORKING_SET, least: 4 << 10 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--piece" => piece = Some(args.next().ok_or("--piece BYTES")?.parse()?),
            "--scratch" => scratch = Some(args.next().ok_or("--scratch BYTES")?.parse()?),
            "--quick" => effort = Effort { rounds: 1, set: WORKING_SET / 64, ..effort },
            "--no-small" => effort.least = 64 << 10,
            _ => select = WgpuSelect::parse(&arg),
        }
    }
    let mut options = WgpuOptions::new().select(select);
    if let Some(piece) = piece {
        options = options.piece(piece).staging(8 * piece);
    }
    if let Some(scratch) = scratch {
        options = options.scratch(scratch);
    }
    let device = options.clone().open()?;
    let info = device.native().0.adapter_info();
    println!("{} ({}), {} {}", info.name, info.backend, info.driver, info.driver_info);
    println!("arenas that the host reaches, if this device can have them");
    transfers(&device, effort)?;
    println!("through staging");
    transfers(&options.clone().direct(false).open()?, effort)?;
    // One device each, so that they differ in how they move and in nothing else.
    let ways =
        [("raw", options.clone().moves(WgpuMoves::Raw)), ("scratch", options.moves(WgpuMoves::Scratch))];
    moves(&ways, effort.rounds)
}

fn transfers(device: &WgpuDevice, effort: Effort) -> Result<(), Box<dyn Error>> {
    let mut buffer = device.buffer(WORKING_SET as u64)?;
    let (from, to) = (touched(device)?, touched(device)?);
    println!("{:>8} {:>12} {:>7} {:>12} {:>9}", "block", "direction", "depth", "GB/s", "/ memcpy");
    let blocks = [4 << 10, 64 << 10, 2 << 20, 64 << 20].into_iter();
    for block in blocks.filter(|block| (effort.least..=effort.set).contains(block)) {
        let pool = HostPool::new(vec![touched(device)?], 4096)?;
        // Blocks of 4 KiB walk a part of the memory that still exceeds the caches.
        let count = (effort.set / block).min(16 << 10);
        let mut slices: VecDeque<SliceOf<WgpuDevice>> =
            (0..count).map(|_| pool.allocate(block)).collect::<Result<_, _>>()?;
        let mut rates: [Vec<f64>; 6] = Default::default();
        for _ in 0..effort.rounds {
            rates[0].push(memcpy(&from, &to, block, count));
            rates[5].push(write_buffer(device, &buffer, &from, block, count)?);
            for (index, (up, depth)) in [(true, 8), (true, 1), (false, 8), (false, 1)].into_iter().enumerate()
            {
                let start = Instant::now();
                walk(count, depth, &mut slices, |number, slice| {
                    let at = (number * block) as u64;
                    let sent = if up {
                        device.upload(slice, &mut buffer, at)
                    } else {
                        device.download(&buffer, at, slice)
                    };
                    sent.map_err(|refused| refused.error.into())
                })?;
                rates[index + 1].push(gigabytes_per_second(count * block, start));
            }
        }
        let [plain, transfers @ ..] = rates.map(median);
        for (rate, (direction, depth)) in transfers.into_iter().zip([
            ("upload", "deep"),
            ("upload", "alone"),
            ("download", "deep"),
            ("download", "alone"),
            ("write_buffer", "deep"),
        ]) {
            println!("{:>7}K {direction:>12} {depth:>7} {rate:>12.2} {:>9.2}", block >> 10, rate / plain);
        }
        println!("{:>7}K {:>12} {:>7} {plain:>12.2} {:>9.2}", block >> 10, "memcpy", "", 1.0);
    }
    Ok(())
}

/// A compaction: its name, the length of a block, how far blocks lie apart, and how far each moves down.
const COMPACTIONS: [(&str, u64, u64, u64); 6] = [
    ("apart, 64 MiB", 64 << 20, 0, 96 << 20),
    ("apart, 64 KiB x 512", 64 << 10, 128 << 10, 128 << 20),
    ("slide by 1/2, 64 MiB", 64 << 20, 0, 32 << 20),
    ("slide by 2 MiB, 64 MiB", 64 << 20, 0, 2 << 20),
    ("slide by 64 KiB, 64 MiB", 64 << 20, 0, 64 << 10),
    ("slide by 8 KiB, 64 KiB x 512", 64 << 10, 128 << 10, 8 << 10),
];

/// Times compactions on each device, and beside each one plain copy of the same regions to another buffer.
fn moves(devices: &[(&str, WgpuOptions)], rounds: usize) -> Result<(), Box<dyn Error>> {
    println!("{:>29} {:>8} {:>12} {:>12} {:>8}", "compaction", "moves", "GB/s", "plain GB/s", "/ plain");
    for (name, options) in devices {
        let device = options.clone().open()?;
        let mut buffer = device.buffer(WORKING_SET as u64)?;
        let other = device.buffer(WORKING_SET as u64)?;
        for (what, len, pitch, down) in COMPACTIONS {
            let count = if pitch == 0 { 1 } else { 512 };
            let regions: Vec<_> =
                (0..count).map(|number| (down + number * pitch, number * pitch, len)).collect();
            let mut rates: [Vec<f64>; 2] = Default::default();
            for _ in 0..rounds {
                let start = Instant::now();
                plain_copy(&device, &buffer, &other, &regions)?;
                rates[0].push(gigabytes_per_second((len * count) as usize, start));
                let start = Instant::now();
                for &(from, to, len) in &regions {
                    buffer.copy_within(from..from + len, to)?;
                }
                buffer.queue().record()?.synchronize()?;
                rates[1].push(gigabytes_per_second((len * count) as usize, start));
            }
            let [plain, moved] = rates.map(median);
            println!("{what:>29} {name:>8} {moved:>12.2} {plain:>12.2} {:>8.2}", moved / plain);
        }
    }
    Ok(())
}

/// The same regions to the same places of another buffer: one raw `vkCmdCopyBuffer` where wgpu runs on Vulkan.
fn plain_copy(
    device: &WgpuDevice,
    from: &WgpuBuffer,
    to: &WgpuBuffer,
    regions: &[(u64, u64, u64)],
) -> Result<(), Box<dyn Error>> {
    let (native, queue) = device.native();
    let (from, to) = (from.view(0..from.size())?, to.view(0..to.size())?);
    let mut encoder = native.create_command_encoder(&Default::default());
    if !raw_copy(native, &mut encoder, from.buffer(), to.buffer(), regions) {
        for &(src, dst, len) in regions {
            encoder.copy_buffer_to_buffer(from.buffer(), src, to.buffer(), dst, Some(len));
        }
    }
    let index = queue.submit([encoder.finish()]);
    native.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None })?;
    Ok(())
}

#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn raw_copy(
    device: &wgpu::Device,
    encoder: &mut wgpu::CommandEncoder,
    from: &wgpu::Buffer,
    to: &wgpu::Buffer,
    regions: &[(u64, u64, u64)],
) -> bool {
    use ash::vk;
    use wgpu::hal::api::Vulkan;
    let region = |&(src_offset, dst_offset, size)| vk::BufferCopy { src_offset, dst_offset, size };
    let regions: Vec<_> = regions.iter().map(region).collect();
    // SAFETY: nothing is destroyed through the handles; both buffers live until the caller has waited, and nothing else
    // is in flight.
    unsafe {
        let Some(functions) = device.as_hal::<Vulkan>().map(|device| device.raw_device().clone()) else {
            return false;
        };
        let handle = |buffer: &wgpu::Buffer| buffer.as_hal::<Vulkan>().map(|buffer| buffer.raw_handle());
        let (Some(from), Some(to)) = (handle(from), handle(to)) else { return false };
        encoder.as_hal_mut::<Vulkan, _, _>(|encoder| match encoder {
            Some(encoder) => {
                functions.cmd_copy_buffer(encoder.raw_handle(), from, to, &regions);
                true
            }
            None => false,
        })
    }
}

#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn raw_copy(
    _device: &wgpu::Device,
    _encoder: &mut wgpu::CommandEncoder,
    _from: &wgpu::Buffer,
    _to: &wgpu::Buffer,
    _regions: &[(u64, u64, u64)],
) -> bool {
    false
}

/// wgpu's own way, each block submitted, eight in flight.
fn write_buffer(
    device: &WgpuDevice,
    buffer: &WgpuBuffer,
    from: &OsRegion,
    block: usize,
    count: usize,
) -> Result<f64, Box<dyn Error>> {
    let (native, queue) = device.native();
    let view = buffer.view(0..WORKING_SET as u64)?;
    let mut flying = VecDeque::new();
    let start = Instant::now();
    for at in (0..count).map(|number| number * block) {
        // SAFETY: the region holds the working set, blocks divide it, and nobody writes it.
        let bytes = unsafe { std::slice::from_raw_parts(from.base().as_ptr().add(at), block) };
        queue.write_buffer(view.buffer(), at as u64, bytes);
        flying.push_back(queue.submit([]));
        if flying.len() > 8
            && let Some(oldest) = flying.pop_front()
        {
            native.poll(wgpu::PollType::Wait { submission_index: Some(oldest), timeout: None })?;
        }
    }
    device.lane(Lane::Upload).drain()?;
    Ok(gigabytes_per_second(count * block, start))
}

/// Runs `count` transfers, at most `depth` at once; every slice is used in turn.
fn walk(
    count: usize,
    depth: usize,
    slices: &mut VecDeque<SliceOf<WgpuDevice>>,
    mut start: impl FnMut(usize, SliceOf<WgpuDevice>) -> Result<Ticket<WgpuDevice>, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut flying: VecDeque<Ticket<WgpuDevice>> = VecDeque::with_capacity(depth);
    for number in 0..count {
        if flying.len() == depth.min(slices.len() + flying.len()) {
            slices.extend(flying.pop_front().map(Ticket::wait).transpose()?);
        }
        let Some(slice) = slices.pop_front() else { continue };
        flying.push_back(start(number, slice)?);
    }
    for ticket in flying {
        slices.push_back(ticket.wait()?);
    }
    Ok(())
}

/// Copies `count` blocks one by one on this thread.
fn memcpy(from: &OsRegion, to: &OsRegion, block: usize, count: usize) -> f64 {
    let start = Instant::now();
    for at in (0..count).map(|number| number * block) {
        // SAFETY: both regions hold the working set, blocks divide it, and no reference into either exists.
        unsafe {
            std::ptr::copy_nonoverlapping(from.base().as_ptr().add(at), to.base().as_ptr().add(at), block);
        }
    }
    gigabytes_per_second(count * block, start)
}

fn touched(device: &WgpuDevice) -> Result<OsRegion, Box<dyn Error>> {
    let region = device.locker().pageable(WORKING_SET).ok_or("no pageable memory")??;
    region.prepare(0, WORKING_SET);
    Ok(region)
}

fn gigabytes_per_second(bytes: usize, start: Instant) -> f64 {
    bytes as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
