//! The witness: plain synchronous access that shares nothing with the path under test, neither its staging nor its
//! timeline nor its order.

use super::WgpuError;
use super::buffer::{GRAIN, Held, Memory};
use super::direct::When;
use super::native::{Polled, lock, poll, scoped};
use super::shared::Shared;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// The witness's own buffers, made when first needed. Who reads or writes holds them.
#[derive(Default)]
pub(super) struct Plain {
    read: Mutex<Option<Buffer>>,
    write: Mutex<Option<Buffer>>,
}

struct Buffer {
    buffer: wgpu::Buffer,
    _held: Held,
}

impl Plain {
    /// Reads `dst.len()` bytes from byte `from`, which were checked.
    pub(super) fn read(
        &self,
        shared: &Shared,
        src: &Memory,
        from: u64,
        dst: &mut [u8],
    ) -> Result<(), WgpuError> {
        if let Some(direct) = &src.direct
            && direct.read(shared, from, dst, When::Now)?
        {
            return Ok(());
        }
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let mut own = lock(&self.read);
        for (index, part) in dst.chunks_mut(PART).enumerate() {
            let (at, len) = (from + (index * PART) as u64, part.len() as u64);
            let buffer = made(&mut own, shared, "plain read", usage)?;
            copy(shared, (&src.buffer, at), (buffer, 0), len)?;
            map(shared, buffer, wgpu::MapMode::Read)?;
            match buffer.get_mapped_range(..len) {
                Ok(view) => part.copy_from_slice(&view),
                Err(_) => return Err(shared.staging_gone()),
            }
            unmap(shared, buffer)?;
        }
        Ok(())
    }

    /// Writes `src` at byte `at`; the range was checked.
    pub(super) fn write(&self, shared: &Shared, dst: &Memory, at: u64, src: &[u8]) -> Result<(), WgpuError> {
        if let Some(direct) = &dst.direct
            && direct.write(shared, at, src, When::Now)?
        {
            return Ok(());
        }
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let mut own = lock(&self.write);
        for (index, part) in src.chunks(PART).enumerate() {
            let (at, len) = (at + (index * PART) as u64, part.len() as u64);
            let buffer = made(&mut own, shared, "plain write", usage)?;
            map(shared, buffer, wgpu::MapMode::Write)?;
            match buffer.get_mapped_range_mut(..len) {
                Ok(mut view) => view.copy_from_slice(part),
                Err(_) => return Err(shared.staging_gone()),
            }
            unmap(shared, buffer)?;
            copy(shared, (buffer, 0), (&dst.buffer, at), len)?;
        }
        Ok(())
    }
}

fn made<'a>(
    own: &'a mut Option<Buffer>,
    shared: &Shared,
    what: &'static str,
    usage: wgpu::BufferUsages,
) -> Result<&'a wgpu::Buffer, WgpuError> {
    let buffer = match own.take() {
        Some(buffer) => buffer,
        None => {
            let buffer = shared.make_buffer(what, PART as u64, usage, false)?;
            Buffer { buffer, _held: shared.usage.hold_scratch(PART as u64) }
        }
    };
    Ok(&own.insert(buffer).buffer)
}

/// Maps and waits for it.
fn map(shared: &Shared, buffer: &wgpu::Buffer, mode: wgpu::MapMode) -> Result<(), WgpuError> {
    let outcome = Arc::new(AtomicU8::new(WAITING));
    let told = Arc::clone(&outcome);
    let callback = move |mapped: Result<(), wgpu::BufferAsyncError>| {
        told.store(if mapped.is_ok() { MAPPED } else { REFUSED }, SeqCst);
    };
    let ((), error) = scoped(&shared.device, || buffer.map_async(mode, .., callback));
    if let Some(source) = error {
        return Err(shared.refusal("a plain access", source));
    }
    while outcome.load(SeqCst) == WAITING {
        wait(shared, None)?;
    }
    if outcome.load(SeqCst) == MAPPED { Ok(()) } else { Err(shared.staging_gone()) }
}

fn unmap(shared: &Shared, buffer: &wgpu::Buffer) -> Result<(), WgpuError> {
    let ((), error) = scoped(&shared.device, || buffer.unmap());
    error.map_or(Ok(()), |source| Err(shared.refusal("a plain access", source)))
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
        Some(source) => Err(shared.refusal("a plain access", source)),
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

const WAITING: u8 = 0;
const MAPPED: u8 = 1;
const REFUSED: u8 = 2;

/// Bytes copied at once.
const PART: usize = 2 << 20;
