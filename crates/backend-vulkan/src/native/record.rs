//! Operations waiting to be submitted, and how they become commands.

use super::context::Context;
use super::memory::Memory;
use ash::vk;
use core::ops::Range;

/// One operation of a batch.
pub(super) enum Op {
    /// A copy between two buffers, or within one where source and destination do not overlap.
    Copy { src: vk::Buffer, dst: vk::Buffer, region: vk::BufferCopy },
    /// The host reads what was written so far, once the batch has ended.
    ForHost,
    /// Commands of the caller's, recorded and ended.
    Commands(vk::CommandBuffer),
}

impl Op {
    pub(super) fn copy(src: &Memory, from: u64, dst: &Memory, to: u64, bytes: u64) -> Op {
        let region = vk::BufferCopy::default().src_offset(from).dst_offset(to).size(bytes);
        Op::Copy { src: src.buffer(), dst: dst.buffer(), region }
    }
}

/// Writes copies into a command buffer, with a barrier wherever one touches what an earlier one did.
///
/// Copies that do not touch each other are one command of many regions.
#[derive(Default)]
pub(super) struct Recorder {
    /// Regions not yet written, all of one pair of buffers.
    regions: Vec<vk::BufferCopy>,
    pair: (vk::Buffer, vk::Buffer),
    /// What was read, and what was written, since the last barrier.
    reads: Vec<(vk::Buffer, Range<u64>)>,
    writes: Vec<(vk::Buffer, Range<u64>)>,
}

impl Recorder {
    /// The barrier that every batch begins with: after everything submitted to the queue before.
    pub(super) fn begin(&mut self, context: &Context, commands: vk::CommandBuffer) {
        self.reads.clear();
        self.writes.clear();
        self.regions.clear();
        full_barrier(context, commands, vk::PipelineStageFlags::TRANSFER, COPIES);
    }

    pub(super) fn copy(
        &mut self,
        context: &Context,
        commands: vk::CommandBuffer,
        (src, dst): (vk::Buffer, vk::Buffer),
        region: vk::BufferCopy,
    ) {
        let from = region.src_offset..region.src_offset + region.size;
        let to = region.dst_offset..region.dst_offset + region.size;
        let touches = touches(&self.writes, src, &from)
            || touches(&self.writes, dst, &to)
            || touches(&self.reads, dst, &to);
        // Bounds the search; a barrier too many costs less.
        if touches || self.reads.len() == MOST_BETWEEN_BARRIERS {
            self.write(context, commands);
            barrier(
                context,
                commands,
                (vk::PipelineStageFlags::TRANSFER, vk::AccessFlags::TRANSFER_WRITE),
                (vk::PipelineStageFlags::TRANSFER, COPIES),
            );
            self.reads.clear();
            self.writes.clear();
        }
        if self.pair != (src, dst) {
            self.write(context, commands);
            self.pair = (src, dst);
        }
        self.regions.push(region);
        self.reads.push((src, from));
        self.writes.push((dst, to));
    }

    /// What was written so far is for the host to read.
    pub(super) fn for_host(&mut self, context: &Context, commands: vk::CommandBuffer) {
        self.write(context, commands);
        host_barrier(context, commands);
    }

    /// Writes the regions collected so far.
    pub(super) fn write(&mut self, context: &Context, commands: vk::CommandBuffer) {
        if !self.regions.is_empty() {
            // SAFETY: the command buffer is being recorded; ranges were checked against their buffers, which the batch
            // keeps alive, and regions that overlap were parted by a barrier.
            unsafe { context.device.cmd_copy_buffer(commands, self.pair.0, self.pair.1, &self.regions) };
            self.regions.clear();
        }
    }
}

/// A barrier against everything submitted to the queue before.
pub(super) fn full_barrier(
    context: &Context,
    commands: vk::CommandBuffer,
    stage: vk::PipelineStageFlags,
    access: vk::AccessFlags,
) {
    let before = (vk::PipelineStageFlags::ALL_COMMANDS, vk::AccessFlags::MEMORY_WRITE);
    barrier(context, commands, before, (stage, access));
}

/// What was written so far is for the host to read, once the submission has ended.
pub(super) fn host_barrier(context: &Context, commands: vk::CommandBuffer) {
    let before = (vk::PipelineStageFlags::ALL_COMMANDS, vk::AccessFlags::MEMORY_WRITE);
    barrier(context, commands, before, (vk::PipelineStageFlags::HOST, vk::AccessFlags::HOST_READ));
}

fn barrier(
    context: &Context,
    commands: vk::CommandBuffer,
    (before, written): (vk::PipelineStageFlags, vk::AccessFlags),
    (after, used): (vk::PipelineStageFlags, vk::AccessFlags),
) {
    let memory = vk::MemoryBarrier::default().src_access_mask(written).dst_access_mask(used);
    let none = vk::DependencyFlags::empty();
    // SAFETY: the command buffer is being recorded, and the stages exist on every queue.
    unsafe { context.device.cmd_pipeline_barrier(commands, before, after, none, &[memory], &[], &[]) };
}

fn touches(used: &[(vk::Buffer, Range<u64>)], buffer: vk::Buffer, range: &Range<u64>) -> bool {
    used.iter().any(|(other, used)| *other == buffer && used.start < range.end && range.start < used.end)
}

const COPIES: vk::AccessFlags = vk::AccessFlags::from_raw(
    vk::AccessFlags::TRANSFER_READ.as_raw() | vk::AccessFlags::TRANSFER_WRITE.as_raw(),
);
const MOST_BETWEEN_BARRIERS: usize = 64;
