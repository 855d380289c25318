//! The witness: plain synchronous access that shares nothing with the path under test, neither its staging nor its
//! timeline.

use super::WgpuError;
use super::buffer::{GRAIN, Memory};
use super::native::{Polled, poll, scoped};
use super::shared::Shared;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

/// Reads `dst.len()` bytes from byte `from`, which were checked.
pub(super) fn read(shared: &Shared, src: &Memory, from: u64, dst: &mut [u8]) -> Result<(), WgpuError> {
    for (index, part) in dst.chunks_mut(PART).enumerate() {
        let (at, len) = (from + (index * PART) as u64, part.len() as u64);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let _held = shared.usage.hold_scratch(len);
        let buffer = shared.make_buffer("plain read", len, usage, false)?;
        copy(shared, (&src.buffer, at), (&buffer, 0), len)?;
        let outcome = Arc::new(AtomicU8::new(0));
        let told = Arc::clone(&outcome);
        let ((), error) = scoped(&shared.device, || {
            buffer.map_async(wgpu::MapMode::Read, .., move |mapped| {
                told.store(1 + u8::from(mapped.is_ok()), SeqCst)
            });
        });
        if let Some(source) = error {
            return Err(shared.refusal("a plain read", source));
        }
        while outcome.load(SeqCst) == 0 {
            wait(shared, None)?;
        }
        if outcome.load(SeqCst) == 1 {
            return Err(shared.lose("it refused to map a buffer"));
        }
        let view = buffer.get_mapped_range(..).map_err(|_| shared.staging_gone())?;
        part.copy_from_slice(&view);
    }
    Ok(())
}

/// Writes `src` at byte `at`; the range was checked.
pub(super) fn write(shared: &Shared, dst: &Memory, at: u64, src: &[u8]) -> Result<(), WgpuError> {
    for (index, part) in src.chunks(PART).enumerate() {
        let (at, len) = (at + (index * PART) as u64, part.len() as u64);
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let _held = shared.usage.hold_scratch(len);
        let buffer = shared.make_buffer("plain write", len, usage, true)?;
        match buffer.get_mapped_range_mut(..) {
            Ok(mut view) => view.copy_from_slice(part),
            Err(_) => return Err(shared.staging_gone()),
        }
        let ((), error) = scoped(&shared.device, || buffer.unmap());
        if let Some(source) = error {
            return Err(shared.refusal("a plain write", source));
        }
        copy(shared, (&buffer, 0), (&dst.buffer, at), len)?;
    }
    Ok(())
}

/// Copies and waits for it.
fn copy(
    shared: &Shared,
    (from, from_at): (&wgpu::Buffer, u64),
    (to, to_at): (&wgpu::Buffer, u64),
    len: u64,
) -> Result<(), WgpuError> {
    debug_assert!(len.is_multiple_of(GRAIN));
    let (index, error) = scoped(&shared.device, || {
        let mut encoder =
            shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("plain") });
        encoder.copy_buffer_to_buffer(from, from_at, to, to_at, Some(len));
        shared.queue.submit([encoder.finish()])
    });
    match error {
        Some(source) => Err(shared.refusal("a plain copy", source)),
        None => wait(shared, Some(index)),
    }
}

fn wait(shared: &Shared, index: Option<wgpu::SubmissionIndex>) -> Result<(), WgpuError> {
    match poll(&shared.device, wgpu::PollType::Wait { submission_index: index, timeout: None }) {
        Polled::Ended | Polled::NotYet => Ok(()),
        Polled::NeverSubmitted => Err(shared.lose("it did not take a submission")),
        Polled::Lost => Err(shared.lose("the driver failed while it was waited for")),
    }
}

/// Bytes copied at once.
const PART: usize = 4 << 20;
