//! Transfers through staging, piece by piece.

use super::WgpuError;
use super::buffer::Memory;
use super::direct::When;
use super::flight::{HostBytes, Work};
use super::native::scoped;
use super::shared::Shared;
use super::staging::Staging;
use pinned_host::Event;
use std::sync::Arc;

/// Copies `src` to `dst` at `at`; returns the last unit. The bytes are read before this returns.
pub(super) fn upload(shared: &Shared, src: &[u8], dst: &Memory, at: u64) -> Result<u64, WgpuError> {
    if let Some(direct) = &dst.direct
        && direct.write(shared, at, src, When::QueueEmpty)?
    {
        return Ok(shared.flight.last());
    }
    let mut number = 0;
    let mut at = at;
    for piece in src.chunks(piece(shared)) {
        let staging = shared.uploads.take(shared)?;
        number = upload_piece(shared, staging, piece, dst, at)?;
        at += piece.len() as u64;
    }
    Ok(number)
}

/// Copies from `src` at `from` to all of `dst`; returns the last unit.
///
/// On an error nothing fills `dst` any more, unless the second of the two says `false`.
pub(super) fn download(
    shared: &Arc<Shared>,
    src: &Memory,
    from: u64,
    mut dst: HostBytes,
) -> Result<u64, (WgpuError, bool)> {
    if let Some(direct) = &src.direct
        && direct.read(shared, from, dst.as_mut_slice(), When::QueueEmpty).map_err(|error| (error, true))?
    {
        return Ok(shared.flight.last());
    }
    let mut last = None;
    let mut done = 0;
    while done < dst.len() {
        let len = piece(shared).min(dst.len() - done);
        let sent = shared.downloads.take(shared).and_then(|staging| {
            download_piece(shared, staging, src, from + done as u64, dst.part(done, len))
        });
        match sent {
            Ok(number) => last = Some(number),
            Err(error) => {
                let settled = last.is_none_or(|number| {
                    let event = super::WgpuEvent::new(shared, number);
                    // What it came to does not matter: only whether it is over.
                    let _ = event.synchronize();
                    event.is_settled()
                });
                return Err((error, settled));
            }
        }
        done += len;
    }
    Ok(last.unwrap_or(0))
}

/// Copies what a download brought into the slice it is for, of the same length.
pub(super) fn fill(dst: &mut [u8], from: &[u8]) {
    for (dst, from) in dst.chunks_mut(AT_ONCE).zip(from.chunks(AT_ONCE)) {
        dst.copy_from_slice(from);
    }
}

fn upload_piece(
    shared: &Shared,
    staging: Staging,
    bytes: &[u8],
    dst: &Memory,
    at: u64,
) -> Result<u64, WgpuError> {
    let len = bytes.len() as u64;
    match staging.buffer.get_mapped_range_mut(..len) {
        Ok(mut view) => {
            for (index, part) in bytes.chunks(AT_ONCE).enumerate() {
                let at = index * AT_ONCE;
                view.slice(at..at + part.len()).copy_from_slice(part);
            }
        }
        Err(_) => return Err(shared.staging_gone()),
    }
    let (buffer, mark) = (staging.buffer.clone(), Arc::clone(&staging.mark));
    let (commands, error) = scoped(&shared.device, || {
        buffer.unmap();
        copy_command(&shared.device, (&buffer, 0), (&dst.buffer, at), len)
    });
    if let Some(source) = error {
        return Err(shared.refusal("an upload", source));
    }
    mark.reset();
    let number = shared.submit(commands, "an upload", &mark, Work::Upload(staging))?;
    shared.map(&buffer, wgpu::MapMode::Write, buffer.size(), &mark)?;
    Ok(number)
}

fn download_piece(
    shared: &Shared,
    staging: Staging,
    src: &Memory,
    from: u64,
    dst: HostBytes,
) -> Result<u64, WgpuError> {
    let len = dst.len() as u64;
    let (buffer, mark) = (staging.buffer.clone(), Arc::clone(&staging.mark));
    let (commands, error) =
        scoped(&shared.device, || copy_command(&shared.device, (&src.buffer, from), (&buffer, 0), len));
    if let Some(source) = error {
        return Err(shared.refusal("a download", source));
    }
    mark.reset();
    let number = shared.submit(commands, "a download", &mark, Work::Download(staging, dst))?;
    shared.map(&buffer, wgpu::MapMode::Read, len, &mark)?;
    Ok(number)
}

fn copy_command(
    device: &wgpu::Device,
    (from, from_at): (&wgpu::Buffer, u64),
    (to, to_at): (&wgpu::Buffer, u64),
    len: u64,
) -> wgpu::CommandBuffer {
    let mut encoder =
        device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("transfer") });
    encoder.copy_buffer_to_buffer(from, from_at, to, to_at, Some(len));
    encoder.finish()
}

/// Bytes of the largest piece; it was checked to be no larger than a buffer can be.
fn piece(shared: &Shared) -> usize {
    usize::try_from(shared.settings.piece).unwrap_or(usize::MAX)
}

/// Bytes that the host copies at once: below the size of a core's cache the C library copies without streaming
/// stores, which keeps staging memory in the caches between the host's copy and the device's. Measured: uploads in
/// pieces of 2 MiB are a tenth faster.
const AT_ONCE: usize = 256 << 10;
