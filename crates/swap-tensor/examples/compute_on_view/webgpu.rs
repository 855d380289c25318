//! The kernel through wgpu: the view is a binding, the number a uniform.

use crate::{AddKernel, Done};
use allocator_core::DeviceBuffer;
use backend_vulkan::wgpu;
use backend_vulkan::{WgpuBuffer, WgpuDevice, WgpuQueue};
use core::ops::Range;
use pinned_host::Queue;
use std::error::Error;

/// Opens a device and makes the pipeline on it.
pub(crate) fn open() -> Result<(WgpuDevice, Add), Box<dyn Error>> {
    let ours = WgpuDevice::open()?;
    let (device, queue) = ours.native();
    let (device, queue) = (device.clone(), queue.clone());
    let info = device.adapter_info();
    println!("{:?} through wgpu ({})", info.name, info.backend);
    let module = device.create_shader_module(wgpu::include_wgsl!("add.wgsl"));
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("add"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let align = ours.binding_alignment();
    Ok((ours, Add { device, queue, pipeline, align }))
}

/// The pipeline, and the program's own device and queue.
pub(crate) struct Add {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipeline: wgpu::ComputePipeline,
    align: u64,
}

impl AddKernel<WgpuDevice> for Add {
    fn align(&self) -> u64 {
        self.align
    }

    fn add(&self, queue: &WgpuQueue, buffer: &WgpuBuffer, range: Range<u64>, addend: u32) -> Done {
        let count = (range.end - range.start) / 4;
        let view = buffer.view(range)?;
        let uniform = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("addend"),
            size: 4,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&uniform, 0, &addend.to_le_bytes());
        let entry = |binding, resource| wgpu::BindGroupEntry { binding, resource };
        let bindings = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &[
                entry(0, wgpu::BindingResource::Buffer(view.binding()?)),
                entry(1, uniform.as_entire_binding()),
            ],
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &bindings, &[]);
        pass.dispatch_workgroups(count.div_ceil(64) as u32, 1, 1);
        drop(pass);
        // Moves that were only noted so far come first: wgpu's one queue runs what is submitted in order.
        queue.record()?;
        self.queue.submit([encoder.finish()]);
        Ok(())
    }
}
