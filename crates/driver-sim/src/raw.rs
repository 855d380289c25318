//! Reads and writes through addresses.
//!
//! Everything here trusts its caller: addresses of device and page-locked memory were looked up in the books by the
//! call that enqueued the work, and whatever would take them away either waits for that work or is reported and runs
//! it first. Addresses of pageable memory are what the program passed.

use std::os::unix::fs::FileExt;

/// Fills `len` bytes.
///
/// # Safety
/// `at..at + len` is writable.
pub(crate) unsafe fn fill(at: u64, len: u64, value: u8) {
    // SAFETY: by the contract of this function.
    unsafe { pointer(at).write_bytes(value, len as usize) }
}

/// Copies `len` bytes between ranges that may overlap.
///
/// # Safety
/// `src..src + len` is readable and `dst..dst + len` is writable.
pub(crate) unsafe fn copy(dst: u64, src: u64, len: u64) {
    // SAFETY: by the contract of this function.
    unsafe { pointer(src).copy_to(pointer(dst), len as usize) }
}

/// The `len` bytes at `at`.
///
/// # Safety
/// They are readable, and nobody writes them while the result lives.
pub(crate) unsafe fn bytes<'a>(at: u64, len: u64) -> &'a [u8] {
    // SAFETY: by the contract of this function.
    unsafe { std::slice::from_raw_parts(pointer(at), len as usize) }
}

/// The `len` bytes at `at`, to write.
///
/// # Safety
/// They are readable and writable, and nobody else uses them while the result lives.
pub(crate) unsafe fn bytes_mut<'a>(at: u64, len: u64) -> &'a mut [u8] {
    // SAFETY: by the contract of this function.
    unsafe { std::slice::from_raw_parts_mut(pointer(at), len as usize) }
}

/// A number that differs, with near certainty, for bytes that differ. Four lanes, so that it runs at memory speed.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut lanes = [0x9e37_79b9_7f4a_7c15u64, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 1];
    let mut chunks = bytes.chunks_exact(32);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(8)) {
            let mut value = [0; 8];
            value.copy_from_slice(word);
            *lane = (*lane ^ u64::from_le_bytes(value)).wrapping_mul(PRIME).rotate_left(29);
        }
    }
    let rest = chunks
        .remainder()
        .iter()
        .fold(bytes.len() as u64, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(PRIME).rotate_left(29));
    lanes.iter().fold(rest, |sum, lane| (sum ^ lane).wrapping_mul(PRIME).rotate_left(31))
}

/// Whether all bytes are `value`.
pub(crate) fn are_all(bytes: &[u8], value: u8) -> bool {
    // Each equal to the next, which is one comparison of memory and much faster than a loop.
    bytes.split_first().is_none_or(|(first, rest)| *first == value && *rest == bytes[..rest.len()])
}

/// Whether `len` bytes at an address that may be gone by now still are `expected`; `None` if they cannot be read.
pub(crate) fn still_holds(at: u64, expected: &[u8]) -> Option<bool> {
    // Through the kernel, which answers with an error where a load would end the process.
    let memory = std::fs::File::open("/proc/self/mem").ok()?;
    let mut found = vec![0; expected.len()];
    memory.read_exact_at(&mut found, at).ok()?;
    Some(found == expected)
}

fn pointer(at: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(at as usize)
}

const PRIME: u64 = 0x9fb2_1c65_1e98_df25;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_differ_for_any_byte() {
        let bytes: Vec<u8> = (0..100).collect();
        for index in 0..bytes.len() {
            let mut other = bytes.clone();
            other[index] ^= 1;
            assert_ne!(digest(&bytes), digest(&other), "{index}");
        }
        assert_ne!(digest(&bytes[..64]), digest(&bytes[..96]));
        assert_eq!(digest(&bytes), digest(&bytes.clone()));
    }

    #[test]
    fn one_byte_that_differs_is_seen() {
        let mut bytes = [9; 50];
        assert!(are_all(&bytes, 9) && !are_all(&bytes, 8) && are_all(&[], 1));
        for index in 0..bytes.len() {
            bytes[index] = 8;
            assert!(!are_all(&bytes, 9), "{index}");
            bytes[index] = 9;
        }
    }

    #[test]
    fn memory_that_is_gone_is_not_read() {
        let bytes = std::hint::black_box(vec![7u8; 100]);
        assert_eq!(still_holds(bytes.as_ptr().expose_provenance() as u64, &[7; 100]), Some(true));
        assert_eq!(still_holds(bytes.as_ptr().expose_provenance() as u64, &[8; 100]), Some(false));
        assert_eq!(still_holds(8, &[7; 100]), None);
    }
}
