//! Bytes that say where they belong: each word is a mix of a seed and of its own place.

use crate::race::Outcome;

/// Writes the bytes of the pattern from byte `at` on. Offset and length are multiples of 8.
pub(crate) fn fill(seed: u64, at: u64, bytes: &mut [u8]) {
    for (word, eight) in (at / 8..).zip(bytes.as_chunks_mut().0) {
        *eight = mix(seed, word).to_le_bytes();
    }
}

/// # Errors
/// A byte is not the pattern's: which one, and in `what`.
pub(crate) fn check(seed: u64, at: u64, bytes: &[u8], what: &str) -> Outcome<()> {
    match (at / 8..).zip(bytes.as_chunks().0).find(|(word, eight)| **eight != mix(seed, *word).to_le_bytes())
    {
        None => Ok(()),
        Some((word, eight)) => {
            Err(format!("{what}: wrong bytes at byte {} of the pattern: {eight:02x?}", 8 * word).into())
        }
    }
}

fn mix(seed: u64, word: u64) -> u64 {
    let word = (word ^ seed << 48).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    word ^ word >> 29
}
