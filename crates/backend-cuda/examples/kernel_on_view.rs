//! A kernel on a block of an arena, before and after the block has moved.
//!
//! `cargo run -p backend-cuda --example kernel_on_view [DEVICE]`, where `DEVICE` is an ordinal, a name or a UUID. Needs a
//! CUDA driver and device; says so where there is none.

use allocator_core::{Arena, Request};
use backend_cuda::cudarc::driver::{result, sys};
use backend_cuda::{CudaDevice, CudaOptions, CudaView, Select};
use pinned_host::{HostPool, Lane, PageLocker, Queue, Transfer};
use std::error::Error;
use std::ffi::c_void;
use std::process::ExitCode;
use std::sync::Arc;

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
    let kernel = Kernel::load(device, "add_u32")?;
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
    kernel.add(device, &arena.view(block)?.cast()?, 1000)?;
    println!("at {at:?}: 1000 added to {COUNT} numbers");

    // Room that is there only in two pieces: the block moves, and its handle stays.
    arena.release(first)?;
    let large = arena.allocate(Request::new((1 << 20) - 4 * COUNT))?;
    let now = arena.range(block)?;
    kernel.add(device, &arena.view(block)?.cast()?, 24)?;
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

/// A kernel of the module below.
struct Kernel {
    /// Keeps the context.
    context: Arc<backend_cuda::cudarc::driver::CudaContext>,
    module: sys::CUmodule,
    function: sys::CUfunction,
}

impl Kernel {
    fn load(device: &CudaDevice, name: &str) -> Result<Self, Box<dyn Error>> {
        let context = Arc::clone(device.cuda());
        context.bind_to_thread()?;
        // SAFETY: PTX as text that ends in a NUL.
        let module = unsafe { result::module::load_data(PTX.as_ptr().cast()) }?;
        let mut kernel = Kernel { context, module, function: core::ptr::null_mut() };
        let name = std::ffi::CString::new(name)?;
        // SAFETY: the module is loaded.
        kernel.function = unsafe { result::module::get_function(module, name) }?;
        Ok(kernel)
    }

    /// Adds `value` to each number, in order with everything else on the device's compute queue.
    fn add(
        &self,
        device: &CudaDevice,
        numbers: &CudaView<'_, u32>,
        value: u32,
    ) -> Result<(), Box<dyn Error>> {
        let (mut address, mut count, mut value) = (numbers.address(), numbers.size() / 4, value);
        let mut arguments: [*mut c_void; 3] =
            [(&raw mut address).cast(), (&raw mut count).cast(), (&raw mut value).cast()];
        let blocks = u32::try_from(count.div_ceil(u64::from(THREADS)))?;
        let stream = device.queue().stream();
        self.context.bind_to_thread()?;
        // SAFETY: the arguments are those of the kernel, which touches `numbers` alone; the buffer outlives the launch,
        // because its memory waits for this stream.
        unsafe {
            result::launch_kernel(
                self.function,
                (blocks, 1, 1),
                (THREADS, 1, 1),
                0,
                stream.cu_stream(),
                &mut arguments,
            )
        }?;
        Ok(())
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: loaded above; the driver ends launches of its functions first.
        let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::module::unload(self.module) });
    }
}

/// How many numbers.
const COUNT: u64 = 10_000;
const THREADS: u32 = 256;

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
\0";
