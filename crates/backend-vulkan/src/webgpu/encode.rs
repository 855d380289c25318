//! Moves as commands of wgpu's: safe ones through the scratch buffer, or raw ones where wgpu runs on Vulkan.

use super::WgpuMoves;
use super::buffer::Memory;
use super::direct::Direct;
use super::moves::{Planner, Rules, Step};
use super::native::{lock, scoped};
use super::options::Settings;
use super::order::Scratch;
use super::raw::Raw;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// A move that was checked and is to be submitted.
pub(super) struct Move {
    pub(super) memory: Arc<Memory>,
    pub(super) src: Range<u64>,
    pub(super) dst: u64,
}

/// Turns moves into command buffers.
pub(super) struct Mover {
    /// `None`: wgpu's own copies.
    raw: Option<Raw>,
    rules: Rules,
    /// Kept for its vectors.
    planner: Mutex<Planner>,
}

impl Mover {
    pub(super) fn new(device: &wgpu::Device, settings: &Settings) -> Self {
        let raw = match settings.moves {
            WgpuMoves::Scratch => None,
            WgpuMoves::Auto | WgpuMoves::Raw => Raw::new(device),
        };
        let software = device.adapter_info().device_type == wgpu::DeviceType::Cpu;
        let enough = if software { STRAIGHT_FROM_IN_SOFTWARE } else { STRAIGHT_FROM };
        let straight_from = raw.is_some().then_some(enough);
        let rules = Rules { scratch: settings.scratch, straight_from };
        Mover { raw, rules, planner: Mutex::default() }
    }

    /// A buffer in memory that the host reaches too, where the device has no other; `None` elsewhere, and where the
    /// driver refuses, which wgpu can say better.
    pub(super) fn shared_buffer(
        &self,
        device: &wgpu::Device,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Option<(wgpu::Buffer, Direct)> {
        self.raw.as_ref()?.shared_buffer(device, bytes, usage)
    }

    pub(super) fn rules(&self) -> Rules {
        self.rules
    }

    /// Command buffers that make `moves` in order; none for none.
    ///
    /// # Errors
    /// wgpu refuses: the user destroyed a buffer.
    pub(super) fn encode(
        &self,
        device: &wgpu::Device,
        moves: &[Move],
        scratch: Option<&Scratch>,
    ) -> Result<Vec<wgpu::CommandBuffer>, wgpu::Error> {
        if moves.is_empty() {
            return Ok(Vec::new());
        }
        let mut planner = lock(&self.planner);
        let mut runs: Vec<Run<'_>> = Vec::new();
        planner.clear();
        for run in moves.chunk_by(|one, other| Arc::ptr_eq(&one.memory, &other.memory)) {
            let first = planner.steps.len();
            for Move { src, dst, .. } in run {
                planner.add(self.rules, src.clone(), *dst);
            }
            planner.finish();
            runs.push(Run { memory: &run[0].memory, steps: first..planner.steps.len() });
        }
        let scratch = scratch.map(|scratch| &scratch.buffer);
        let (buffers, error) = scoped(device, || match &self.raw {
            Some(raw) => raw.encode(device, &runs, &planner.steps, scratch),
            None => vec![safe(device, &runs, &planner.steps, scratch)],
        });
        error.map_or(Ok(buffers), Err)
    }
}

/// Moves of one buffer: which of the steps are its.
pub(super) struct Run<'a> {
    pub(super) memory: &'a Memory,
    pub(super) steps: Range<usize>,
}

/// wgpu puts barriers itself.
fn safe(
    device: &wgpu::Device,
    runs: &[Run<'_>],
    steps: &[Step],
    scratch: Option<&wgpu::Buffer>,
) -> wgpu::CommandBuffer {
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("moves") });
    for run in runs {
        let buffer = &run.memory.buffer;
        for step in &steps[run.steps.clone()] {
            match (*step, scratch) {
                (Step::Out { from, at, len }, Some(scratch)) => {
                    encoder.copy_buffer_to_buffer(buffer, from, scratch, at, Some(len));
                }
                (Step::Back { at, to, len }, Some(scratch)) => {
                    encoder.copy_buffer_to_buffer(scratch, at, buffer, to, Some(len));
                }
                // The rules here plan nothing straight, and what needs a scratch buffer was noted with one.
                (Step::Barrier | Step::Straight { .. }, _) | (_, None) => {}
            }
        }
    }
    encoder.finish()
}

/// Shortest distance in bytes of an overlapping move that goes straight, in pieces as long as it, on a driver in
/// software, where a barrier costs next to nothing. Measured on Mesa's, slides of 64 MiB by 64 KiB: 1.15 of a plain
/// copy of the same bytes, against 0.73 through the scratch.
const STRAIGHT_FROM_IN_SOFTWARE: u64 = 32 << 10;

/// The same on hardware, where a barrier drains the device, which costs it microseconds: about what it copies in
/// them. On an H200 some 4 µs, in which it copies 0.8 MB (through ash; not measured through wgpu).
const STRAIGHT_FROM: u64 = 1 << 20;
