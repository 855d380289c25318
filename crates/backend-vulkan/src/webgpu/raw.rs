//! Copies inside one buffer on wgpu's Vulkan backend, through raw handles.
//!
//! Why this is sound beside wgpu's own tracking, point by point:
//! * **Life**: a preceding encoder of the same submission names every buffer to wgpu (`transition_resources`), so wgpu
//!   keeps them until the submission has ended and refuses it if one was destroyed before. While a buffer's handle is
//!   used for recording, wgpu's own guard keeps it from being destroyed.
//! * **Order**: the raw commands begin and end with a barrier against all stages, so that they run after what was
//!   submitted before and before what is submitted after, whatever wgpu believes of the buffer's last use.
//! * **Contents**: wgpu clears what it believes nobody has written when it is first read. Arenas are cleared when
//!   made, so wgpu believes no such thing of them.
//! * **Encoders**: the raw one sees no safe call; mixing the two panics.

use super::encode::Run;
use super::moves::Step;

#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(super) use vulkan::Raw;

/// Elsewhere wgpu has no Vulkan backend that is compiled in without being asked for.
#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub(super) enum Raw {}

#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
impl Raw {
    pub(super) fn new(_device: &wgpu::Device) -> Option<Self> {
        None
    }

    pub(super) fn encode(
        &self,
        _device: &wgpu::Device,
        _runs: &[Run<'_>],
        _steps: &[Step],
        _scratch: Option<&wgpu::Buffer>,
    ) -> Vec<wgpu::CommandBuffer> {
        match *self {}
    }

    pub(super) fn shared_buffer(
        &self,
        _device: &wgpu::Device,
        _bytes: u64,
        _usage: wgpu::BufferUsages,
    ) -> Option<(wgpu::Buffer, super::direct::Direct)> {
        match *self {}
    }
}

#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
mod vulkan {
    use super::{Run, Step};
    use ash::vk;
    use wgpu::hal::api::Vulkan;

    /// Vulkan's functions of the device wgpu runs on.
    pub(in super::super) struct Raw {
        pub(in super::super) functions: ash::Device,
    }

    impl Raw {
        /// `None` where wgpu does not run on Vulkan.
        pub(in super::super) fn new(device: &wgpu::Device) -> Option<Self> {
            // SAFETY: nothing is destroyed through the handle; the functions are used only with the device, which
            // whoever keeps this keeps as well.
            let functions = unsafe { device.as_hal::<Vulkan>() }?.raw_device().clone();
            Some(Raw { functions })
        }

        /// A command buffer that names the buffers to wgpu, and one with the copies.
        pub(in super::super) fn encode(
            &self,
            device: &wgpu::Device,
            runs: &[Run<'_>],
            steps: &[Step],
            scratch: Option<&wgpu::Buffer>,
        ) -> Vec<wgpu::CommandBuffer> {
            // Finished before any guard is taken below: both take wgpu's lock against destruction.
            let named = name_to_wgpu(device, runs, scratch);
            // SAFETY: a handle of a buffer that only this backend knows and that lives as long as its device.
            let scratch = scratch.and_then(|scratch| unsafe { scratch.as_hal::<Vulkan>() }).map(|scratch| {
                // SAFETY: nothing is destroyed through the handle.
                unsafe { scratch.raw_handle() }
            });
            let mut encoder =
                device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("raw moves") });
            // SAFETY: nothing is destroyed or ended through the handle, and the encoder sees no other call but
            // `finish`.
            unsafe {
                encoder.as_hal_mut::<Vulkan, _, _>(|encoder| {
                    // wgpu says why there is none when the encoder is finished or submitted.
                    let Some(encoder) = encoder else { return };
                    let commands = Commands { functions: &self.functions, buffer: encoder.raw_handle() };
                    commands.barrier(vk::PipelineStageFlags::ALL_COMMANDS, vk::PipelineStageFlags::TRANSFER);
                    for run in runs {
                        // Destroyed a moment ago: wgpu refuses the submission that names it.
                        let Some(guard) = run.memory.buffer.as_hal::<Vulkan>() else { continue };
                        commands.copy(guard.raw_handle(), scratch, &steps[run.steps.clone()]);
                        commands.barrier(vk::PipelineStageFlags::TRANSFER, vk::PipelineStageFlags::TRANSFER);
                    }
                    commands.barrier(vk::PipelineStageFlags::TRANSFER, vk::PipelineStageFlags::ALL_COMMANDS);
                });
            }
            vec![named, encoder.finish()]
        }
    }

    fn name_to_wgpu(
        device: &wgpu::Device,
        runs: &[Run<'_>],
        scratch: Option<&wgpu::Buffer>,
    ) -> wgpu::CommandBuffer {
        let mut encoder = device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("before raw moves") });
        let buffers = runs.iter().map(|run| &run.memory.buffer).chain(scratch);
        let transitions =
            buffers.map(|buffer| wgpu::BufferTransition { buffer, state: wgpu::BufferUses::COPY_DST });
        encoder.transition_resources(transitions, std::iter::empty());
        encoder.finish()
    }

    /// A command buffer that is being recorded.
    struct Commands<'a> {
        functions: &'a ash::Device,
        buffer: vk::CommandBuffer,
    }

    impl Commands<'_> {
        /// # Safety
        /// The handles are alive and of the device, the command buffer is being recorded, and the steps lie within
        /// the buffers.
        unsafe fn copy(&self, buffer: vk::Buffer, scratch: Option<vk::Buffer>, steps: &[Step]) {
            // One command for all copies of a kind between two barriers.
            for batch in steps.chunk_by(|one, other| kind(one) == kind(other)) {
                let (from, to) = match (kind(&batch[0]), scratch) {
                    (Kind::Straight, _) => (buffer, buffer),
                    (Kind::Out, Some(scratch)) => (buffer, scratch),
                    (Kind::Back, Some(scratch)) => (scratch, buffer),
                    (Kind::Barrier, _) => {
                        let transfer = vk::PipelineStageFlags::TRANSFER;
                        // SAFETY: the caller's promise.
                        unsafe { self.barrier(transfer, transfer) };
                        continue;
                    }
                    // What needs a scratch buffer was noted with one.
                    (_, None) => continue,
                };
                let regions: Vec<_> = batch.iter().filter_map(region).collect();
                // SAFETY: the caller's promise; the planner put a barrier wherever ranges meet.
                unsafe { self.functions.cmd_copy_buffer(self.buffer, from, to, &regions) };
            }
        }

        /// # Safety
        /// The command buffer is being recorded.
        unsafe fn barrier(&self, from: vk::PipelineStageFlags, to: vk::PipelineStageFlags) {
            let barrier = vk::MemoryBarrier::default()
                .src_access_mask(vk::AccessFlags::MEMORY_WRITE)
                .dst_access_mask(vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE);
            // SAFETY: the caller's promise.
            unsafe {
                self.functions.cmd_pipeline_barrier(
                    self.buffer,
                    from,
                    to,
                    vk::DependencyFlags::empty(),
                    &[barrier],
                    &[],
                    &[],
                );
            }
        }
    }

    #[derive(PartialEq, Eq)]
    enum Kind {
        Straight,
        Out,
        Back,
        Barrier,
    }

    fn kind(step: &Step) -> Kind {
        match step {
            Step::Straight { .. } => Kind::Straight,
            Step::Out { .. } => Kind::Out,
            Step::Back { .. } => Kind::Back,
            Step::Barrier => Kind::Barrier,
        }
    }

    fn region(step: &Step) -> Option<vk::BufferCopy> {
        let (src_offset, dst_offset, size) = match *step {
            Step::Straight { from, to, len } => (from, to, len),
            Step::Out { from, at, len } => (from, at, len),
            Step::Back { at, to, len } => (at, to, len),
            Step::Barrier => return None,
        };
        Some(vk::BufferCopy { src_offset, dst_offset, size })
    }
}
