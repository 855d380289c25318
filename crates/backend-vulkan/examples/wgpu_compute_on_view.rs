//! A compute shader works directly on a block of an arena, before and after a compaction has moved it.
//!
//! `cargo run --example wgpu_compute_on_view -p backend-vulkan --features wgpu [-- ADAPTER]`. Prints what it checked;
//! the exit code is not zero where a value is not the one expected.
//!
//! Nothing waits between the steps: upload, kernel, move, kernel and download are submitted one after the other, and
//! wgpu's one queue runs them in that order.

use allocator_core::{Arena, Handle, Request};
use backend_vulkan::{WgpuBuffer, WgpuDevice, WgpuOptions, WgpuSelect, wgpu};
use pinned_host::{HostPool, PageLocker, Queue, QueuedBuffer, Transfer};
use std::error::Error;
use std::process::ExitCode;

/// Values in the block.
const COUNT: u64 = 1 << 16;
const BYTES: u64 = 4 * COUNT;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let select = std::env::args().nth(1).map_or(WgpuSelect::Best, |arg| WgpuSelect::parse(&arg));
    let device = WgpuOptions::new().select(select).open()?;
    let info = device.native().0.adapter_info();
    println!("{} ({})", info.name, info.backend);
    let align = device.binding_alignment();
    let pool = HostPool::new(vec![device.locker().lock(BYTES as usize)?], 64)?;
    let mut arena = Arena::new(device.buffer(4 * BYTES)?)?;
    let kernel = Kernel::new(device.native().0);

    // A neighbour that will leave, and the block.
    let neighbour = arena.allocate(Request::new(BYTES / 2).align(align))?;
    let block = arena.allocate(Request::new(BYTES).align(align))?;
    let before = arena.range(block)?;

    let mut slice = pool.allocate(BYTES as usize)?;
    for (index, value) in slice.as_mut_slice().chunks_exact_mut(4).enumerate() {
        value.copy_from_slice(&(index as f32).to_le_bytes());
    }
    drop(device.upload(slice, arena.buffer_mut(), before.start)?.wait()?);
    kernel.run(&device, &arena, block)?;
    println!("kernel on the block at {before:?}");

    // Slides down into the neighbour's room, by half its own length.
    arena.release(neighbour)?;
    let moved = arena.compact(u64::MAX)?;
    arena.buffer().queue().record()?;
    let after = arena.range(block)?;
    println!("compaction moved {moved} bytes; kernel on the block at {after:?}");
    kernel.run(&device, &arena, block)?;

    let back = device.download(arena.buffer(), after.start, pool.allocate(BYTES as usize)?)?.wait()?;
    let mut wrong = 0;
    for (index, value) in back.as_slice().chunks_exact(4).enumerate() {
        let found = f32::from_le_bytes([value[0], value[1], value[2], value[3]]);
        // Twice x -> 2x + 1, exact for these values.
        let expected = 4.0 * index as f32 + 3.0;
        if found != expected {
            if wrong == 0 {
                eprintln!("value {index}: {found} instead of {expected}");
            }
            wrong += 1;
        }
    }
    println!("{COUNT} values checked, {wrong} wrong");
    Ok(if wrong == 0 && before != after { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// x becomes 2x + 1.
struct Kernel(wgpu::ComputePipeline);

impl Kernel {
    fn new(device: &wgpu::Device) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("double and increment"),
            source: wgpu::ShaderSource::Wgsl(
                "@group(0) @binding(0) var<storage, read_write> values: array<f32>;
                 @compute @workgroup_size(64)
                 fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                     if id.x < arrayLength(&values) { values[id.x] = 2.0 * values[id.x] + 1.0; }
                 }"
                .into(),
            ),
        });
        Kernel(device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        }))
    }

    /// Binds the block's bytes, wherever they are now, and submits.
    fn run(
        &self,
        device: &WgpuDevice,
        arena: &Arena<WgpuBuffer>,
        block: Handle,
    ) -> Result<(), Box<dyn Error>> {
        let (native, queue) = device.native();
        let view = arena.view(block)?;
        let bindings = native.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.0.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(view.binding()?),
            }],
        });
        let mut encoder = native.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&self.0);
            pass.set_bind_group(0, &bindings, &[]);
            pass.dispatch_workgroups((COUNT / 64) as u32, 1, 1);
        }
        queue.submit([encoder.finish()]);
        Ok(())
    }
}
