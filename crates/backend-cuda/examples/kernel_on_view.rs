//! A kernel on a block of an arena, before and after the block has moved. The same on a tensor just swapped in is the
//! example `compute_on_view` of `swap-tensor`.
//!
//! `cargo run -p backend-cuda --example kernel_on_view [DEVICE]`, where `DEVICE` is an ordinal, a name or a UUID. Needs a
//! CUDA driver and device; says so where there is none.

use allocator_core::{Arena, Request};
use backend_cuda::{CudaDevice, CudaOptions, CudaView, Select};
use cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use pinned_host::{HostPool, Lane, PageLocker, Queue, Transfer};
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let select = std::env::args().nth(1).map_or_else(Select::default, |text| Select::parse(&text));
    let device = match CudaOptions::new().select(select).open() {
        Ok(device) => device,
        Err(error) => {
            eprintln!("kernel_on_view: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&device) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kernel_on_view: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(device: &CudaDevice) -> Result<(), Box<dyn Error>> {
    let kernel = device.cuda().load_module(Ptx::from_src(PTX))?.load_function("add_u32")?;
    let pool = HostPool::new(vec![device.locker().lock(1 << 20)?], 64)?;
    let mut arena = Arena::new(device.buffer(1 << 20)?)?;

    // A block behind one that will go.
    let first = arena.allocate(Request::new(256 << 10).align(256))?;
    let block = arena.allocate(Request::new(4 * COUNT).align(256))?;
    let mut slice = pool.allocate(4 * COUNT as usize)?;
    for (number, four) in slice.as_mut_slice().chunks_exact_mut(4).enumerate() {
        four.copy_from_slice(&(number as u32).to_le_bytes());
    }
    let at = arena.range(block)?;
    let sent = device.upload(slice, arena.buffer_mut(), at.start)?;
    device.queue().wait(sent.event())?;
    add(device, &kernel, &arena.view(block)?.cast()?, 1000)?;
    println!("at {at:?}: 1000 added to {COUNT} numbers");

    // Room that is there only in two pieces: the block moves, and its handle stays.
    arena.release(first)?;
    let large = arena.allocate(Request::new((1 << 20) - 4 * COUNT))?;
    let now = arena.range(block)?;
    add(device, &kernel, &arena.view(block)?.cast()?, 24)?;
    println!("at {now:?}, having made room at {:?}: 24 added", arena.range(large)?);

    device.lane(Lane::Download).wait(&device.queue().record()?)?;
    let back = device.download(arena.buffer(), now.start, sent.wait()?)?.wait()?;
    let found =
        back.as_slice().chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    if now == at || !found.eq((0..COUNT as u32).map(|number| number + 1024)) {
        return Err("the numbers are not what they should be".into());
    }
    println!("all {COUNT} numbers are right");
    Ok(())
}

/// Adds `value` to each number, in order with everything else on the device's compute queue.
fn add(
    device: &CudaDevice,
    kernel: &CudaFunction,
    numbers: &CudaView<'_, u32>,
    value: u32,
) -> Result<(), Box<dyn Error>> {
    let count = numbers.size() / 4;
    let grid = LaunchConfig::for_num_elems(u32::try_from(count)?);
    let mut launch = device.queue().stream().launch_builder(kernel);
    // SAFETY: the arguments are those of the kernel, which touches `numbers` alone; their buffer outlives the launch, because
    // its memory is waited for before it goes.
    unsafe { launch.arg(numbers).arg(&count).arg(&value).launch(grid) }?;
    Ok(())
}

/// How many numbers.
const COUNT: u64 = 10_000;

/// `numbers[i] += value` for `i < count`, for whatever device: the driver compiles it.
const PTX: &str = include_str!("add_u32.ptx");
