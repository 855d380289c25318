//! A kernel on a block of an arena, before and after the block has moved.
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
const PTX: &str = "
.version 6.0
.target sm_70
.address_size 64

.visible .entry add_u32(
    .param .u64 numbers,
    .param .u64 count,
    .param .u32 value)
{
    .reg .pred %p1;
    .reg .b32 %r<6>;
    .reg .b64 %rd<6>;

    ld.param.u64 %rd1, [numbers];
    ld.param.u64 %rd2, [count];
    ld.param.u32 %r1, [value];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mul.wide.u32 %rd3, %r2, %r3;
    cvt.u64.u32 %rd4, %r4;
    add.u64 %rd3, %rd3, %rd4;
    setp.ge.u64 %p1, %rd3, %rd2;
    @%p1 bra DONE;
    shl.b64 %rd3, %rd3, 2;
    cvta.to.global.u64 %rd5, %rd1;
    add.u64 %rd5, %rd5, %rd3;
    ld.global.u32 %r5, [%rd5];
    add.u32 %r5, %r5, %r1;
    st.global.u32 [%rd5], %r5;
DONE:
    ret;
}
";
