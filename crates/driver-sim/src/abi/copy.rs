//! Copies and fills.

use crate::clock::Access;
use crate::copy::{Copy, End, Source, When};
use crate::fault::Class;
use crate::lane::Touch;
use crate::result::{CuError, CuResult};
use crate::run::Work;
use crate::session::{Session, call};
use crate::types::{Context, DevicePtr, MemcpyAttributes, Out, Stream};
use std::ffi::c_void;

/// Copies to the device and waits. From pageable memory it may return when the source is read.
///
/// # Safety
/// `src` is readable for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(dst: DevicePtr, src: *const c_void, bytes: usize) -> CuResult {
    // SAFETY: by the contract of this function.
    unsafe { copy("cuMemcpyHtoD_v2", (dst, End::Device), (host(src), End::Host), bytes, None) }
}

/// Copies to the host and waits.
///
/// # Safety
/// `dst` is writable for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(dst: *mut c_void, src: DevicePtr, bytes: usize) -> CuResult {
    // SAFETY: by the contract of this function.
    unsafe { copy("cuMemcpyDtoH_v2", (host(dst), End::Host), (src, End::Device), bytes, None) }
}

/// Copies within the device, in the default stream, without waiting.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(dst: DevicePtr, src: DevicePtr, bytes: usize) -> CuResult {
    // SAFETY: no end is pageable memory.
    unsafe { copy("cuMemcpyDtoD_v2", (dst, End::Device), (src, End::Device), bytes, None) }
}

/// Copies between any two addresses; waits unless both are the device's.
///
/// # Safety
/// Pageable memory at either end is readable or writable for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy(dst: DevicePtr, src: DevicePtr, bytes: usize) -> CuResult {
    // SAFETY: by the contract of this function.
    unsafe { copy("cuMemcpy", (dst, End::Any), (src, End::Any), bytes, None) }
}

/// Copies to the device, in a stream.
///
/// # Safety
/// `src` is readable for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    dst: DevicePtr,
    src: *const c_void,
    bytes: usize,
    stream: Stream,
) -> CuResult {
    // SAFETY: by the contract of this function.
    unsafe { copy("cuMemcpyHtoDAsync_v2", (dst, End::Device), (host(src), End::Host), bytes, Some(stream)) }
}

/// Copies to the host, in a stream.
///
/// # Safety
/// `dst` is writable for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    dst: *mut c_void,
    src: DevicePtr,
    bytes: usize,
    stream: Stream,
) -> CuResult {
    // SAFETY: by the contract of this function.
    unsafe { copy("cuMemcpyDtoHAsync_v2", (host(dst), End::Host), (src, End::Device), bytes, Some(stream)) }
}

/// Copies within the device, in a stream. Ranges that overlap are undefined.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(
    dst: DevicePtr,
    src: DevicePtr,
    bytes: usize,
    stream: Stream,
) -> CuResult {
    // SAFETY: no end is pageable memory.
    unsafe { copy("cuMemcpyDtoDAsync_v2", (dst, End::Device), (src, End::Device), bytes, Some(stream)) }
}

/// Copies between contexts, which are all on one device.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    dst: DevicePtr,
    _dst_context: Context,
    src: DevicePtr,
    _src_context: Context,
    bytes: usize,
    stream: Stream,
) -> CuResult {
    // SAFETY: no end is pageable memory.
    unsafe { copy("cuMemcpyPeerAsync", (dst, End::Device), (src, End::Device), bytes, Some(stream)) }
}

/// Copies between any two addresses, in a stream.
///
/// # Safety
/// Pageable memory at either end is readable or writable for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyAsync(
    dst: DevicePtr,
    src: DevicePtr,
    bytes: usize,
    stream: Stream,
) -> CuResult {
    // SAFETY: by the contract of this function.
    unsafe { copy("cuMemcpyAsync", (dst, End::Any), (src, End::Any), bytes, Some(stream)) }
}

/// Makes many copies in any order, in a stream that is not the default one. The form of CUDA 12.8.
///
/// # Safety
/// The arrays have `count` elements, those of attributes `attr_count`; pageable memory is readable or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyBatchAsync(
    dsts: *const DevicePtr,
    srcs: *const DevicePtr,
    sizes: *const usize,
    count: usize,
    attrs: *const MemcpyAttributes,
    attr_indices: *const usize,
    attr_count: usize,
    failed: Out<'_, usize>,
    stream: Stream,
) -> CuResult {
    let mut culprit = usize::MAX;
    let answer = call("cuMemcpyBatchAsync", Class::Enqueue, |sim| {
        // SAFETY: by the contract of this function.
        let batch = unsafe { Batch::read(dsts, srcs, sizes, count, attrs, attr_indices, attr_count)? };
        // SAFETY: by the contract of this function.
        unsafe { batch.enqueue(sim, stream, &mut culprit) }
    });
    if let Some(failed) = failed {
        failed.write(culprit);
    }
    answer
}

/// The same, as CUDA 13.0 has it: without the index of the copy that was refused.
///
/// # Safety
/// As for [`cuMemcpyBatchAsync`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyBatchAsync_v2(
    dsts: *const DevicePtr,
    srcs: *const DevicePtr,
    sizes: *const usize,
    count: usize,
    attrs: *const MemcpyAttributes,
    attr_indices: *const usize,
    attr_count: usize,
    stream: Stream,
) -> CuResult {
    call("cuMemcpyBatchAsync_v2", Class::Enqueue, |sim| {
        // SAFETY: by the contract of this function.
        let batch = unsafe { Batch::read(dsts, srcs, sizes, count, attrs, attr_indices, attr_count)? };
        // SAFETY: by the contract of this function.
        unsafe { batch.enqueue(sim, stream, &mut 0) }
    })
}

/// Fills bytes, in the default stream, without waiting.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(dst: DevicePtr, value: u8, count: usize) -> CuResult {
    fill("cuMemsetD8_v2", dst, u32::from(value), 1, count, 0)
}

/// Fills 32-bit words, in the default stream, without waiting.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(dst: DevicePtr, value: u32, count: usize) -> CuResult {
    fill("cuMemsetD32_v2", dst, value, 4, count, 0)
}

/// Fills bytes, in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(dst: DevicePtr, value: u8, count: usize, stream: Stream) -> CuResult {
    fill("cuMemsetD8Async", dst, u32::from(value), 1, count, stream)
}

/// Fills 16-bit words, in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(dst: DevicePtr, value: u16, count: usize, stream: Stream) -> CuResult {
    fill("cuMemsetD16Async", dst, u32::from(value), 2, count, stream)
}

/// Fills 32-bit words, in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(dst: DevicePtr, value: u32, count: usize, stream: Stream) -> CuResult {
    fill("cuMemsetD32Async", dst, value, 4, count, stream)
}

fn fill(name: &'static str, at: u64, value: u32, width: u64, count: usize, stream: Stream) -> CuResult {
    call(name, Class::Enqueue, |sim| {
        let (lane, count) = (sim.lane_of(name, stream)?, count as u64);
        let len = count.checked_mul(width).ok_or(CuError::INVALID_VALUE)?;
        if len == 0 {
            return Ok(());
        }
        if !at.is_multiple_of(width) {
            return Err(CuError::INVALID_VALUE);
        }
        let parts = sim.find_device(name, at, len, Access::Write)?;
        let touches = parts.iter().map(|part| Touch { part: part.clone(), access: Access::Write }).collect();
        sim.submit(lane, name, Vec::new(), touches, Work::Fill { at, parts, value, width, count });
        Ok(())
    })
}

/// One copy, in a stream or, with `None`, as the plain functions make it.
///
/// # Safety
/// Pageable memory at either end is readable or writable for `bytes`.
unsafe fn copy(
    name: &'static str,
    dst: (u64, End),
    src: (u64, End),
    bytes: usize,
    stream: Option<Stream>,
) -> CuResult {
    call(name, Class::Enqueue, |sim| {
        let lane = sim.lane_of(name, stream.unwrap_or(0))?;
        if bytes == 0 {
            return Ok(());
        }
        let when = if stream.is_some() { When::Later } else { When::Now };
        // SAFETY: by the contract of this function.
        let copy = unsafe { sim.plan_copy(name, dst, src, bytes as u64, when)? };
        let staged = matches!(copy.source, Source::Staged { .. }) && !copy.is_to_pageable();
        let waits = match stream {
            // Between two places of the host nothing is asynchronous.
            _ if staged && copy.direction == TO_HOST => true,
            Some(_) => copy.is_to_pageable(),
            None => copy.direction != WITHIN_DEVICE && !staged,
        };
        if stream.is_none() && staged {
            // The driver waits for the stream before it stages, and not for the bytes to arrive.
            let mark = sim.mark(lane);
            sim.wait(&[mark])?;
        }
        submit(sim, lane, vec![copy], waits)
    })
}

/// Enqueues copies as one operation, and waits for it if asked to.
fn submit(sim: &mut Session, lane: usize, copies: Vec<Copy>, waits: bool) -> Result<(), CuError> {
    copies.iter().for_each(|copy| sim.hide_destination(copy));
    let touches = copies.iter().flat_map(Copy::touches).collect();
    let name = sim.name;
    sim.submit(lane, name, Vec::new(), touches, Work::Copies(copies));
    if waits {
        let mark = sim.mark(lane);
        sim.wait(&[mark])?;
    }
    Ok(())
}

/// The arguments of a batch.
struct Batch<'a> {
    dsts: &'a [u64],
    srcs: &'a [u64],
    sizes: &'a [usize],
    attrs: &'a [MemcpyAttributes],
    attr_indices: &'a [usize],
}

impl Batch<'_> {
    /// # Safety
    /// The arrays have the lengths that are passed.
    unsafe fn read<'a>(
        dsts: *const u64,
        srcs: *const u64,
        sizes: *const usize,
        count: usize,
        attrs: *const MemcpyAttributes,
        attr_indices: *const usize,
        attr_count: usize,
    ) -> Result<Batch<'a>, CuError> {
        let missing = dsts.is_null() || srcs.is_null() || sizes.is_null();
        if count == 0 || missing || attr_count == 0 || attrs.is_null() || attr_indices.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: by the contract of this function.
        let batch = unsafe {
            Batch {
                dsts: std::slice::from_raw_parts(dsts, count),
                srcs: std::slice::from_raw_parts(srcs, count),
                sizes: std::slice::from_raw_parts(sizes, count),
                attrs: std::slice::from_raw_parts(attrs, attr_count),
                attr_indices: std::slice::from_raw_parts(attr_indices, attr_count),
            }
        };
        let rising = batch.attr_indices.windows(2).all(|pair| pair[0] < pair[1]);
        let known = batch.attrs.iter().all(|attr| (1..=3).contains(&attr.src_access_order));
        if batch.attr_indices[0] != 0 || !rising || !known || batch.sizes.contains(&0) {
            return Err(CuError::INVALID_VALUE);
        }
        Ok(batch)
    }

    /// # Safety
    /// Pageable memory at any end is readable or writable.
    unsafe fn enqueue(&self, sim: &mut Session, stream: Stream, failed: &mut usize) -> Result<(), CuError> {
        let name = sim.name;
        let lane = sim.lane_of(name, stream)?;
        if lane == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let mut copies = Vec::with_capacity(self.sizes.len());
        for (index, ((&dst, &src), &size)) in self.dsts.iter().zip(self.srcs).zip(self.sizes).enumerate() {
            let attr = self.attr_indices.iter().rposition(|&from| from <= index).unwrap_or(0);
            let when = if self.attrs[attr].src_access_order == IN_STREAM_ORDER {
                When::Later
            } else {
                When::SourceNow
            };
            // SAFETY: by the contract of this function.
            let copy = unsafe { sim.plan_copy(name, (dst, End::Any), (src, End::Any), size as u64, when) };
            copies.push(copy.inspect_err(|_| *failed = index)?);
        }
        let touches = copies.iter().enumerate();
        let touches =
            touches.flat_map(|(index, copy)| copy.touches().into_iter().map(move |touch| (index, touch)));
        if let Some((first, second)) = collision(touches) {
            sim.report(format!("{name}: copies {first} and {second} of the batch touch the same bytes"));
        }
        let waits = copies.iter().any(Copy::is_to_pageable);
        submit(sim, lane, copies, waits)
    }
}

/// Two copies, by the numbers beside what they touch, one of which writes what the other uses.
pub(super) fn collision(touches: impl Iterator<Item = (usize, Touch)>) -> Option<(usize, usize)> {
    let touches = touches.map(|(index, Touch { part, access })| (part.store, part.range, access, index));
    let mut touches: Vec<_> = touches.collect();
    touches.sort_by_key(|(store, range, ..)| (*store, range.start));
    // Those before the present one, in order, that reach to where it starts.
    let mut open: Vec<&(u64, std::ops::Range<u64>, Access, usize)> = Vec::new();
    for touch in &touches {
        let (store, range, access, index) = touch;
        open.retain(|earlier| earlier.0 == *store && earlier.1.end > range.start);
        let writes = |earlier: &Access| *earlier == Access::Write || *access == Access::Write;
        if let Some(earlier) = open.iter().find(|earlier| earlier.3 != *index && writes(&earlier.2)) {
            return Some((earlier.3.min(*index), earlier.3.max(*index)));
        }
        open.push(touch);
    }
    None
}

/// A host pointer as the address that it is.
fn host<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

const TO_HOST: usize = 1;
const WITHIN_DEVICE: usize = 2;
/// `CU_MEMCPY_SRC_ACCESS_ORDER_STREAM`.
const IN_STREAM_ORDER: u32 = 1;
