//! Seeded streams of bytes: what the backward walk XORs into tensors, and what the generated model is made of.

/// An endless stream of pseudo-random bytes that can be read from any word on.
///
/// Each 8-byte word is a mix of its own number, so a tensor can be XORed in pieces of any size, and by another
/// program in other pieces. Not for secrets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pattern {
    seed: u64,
}

impl Pattern {
    /// The stream called `seed`.
    pub(crate) fn new(seed: u64) -> Pattern {
        Pattern { seed: mix(seed.wrapping_mul(GOLDEN)) }
    }

    /// What pass number `pass` (from 0) XORs into tensor number `tensor`.
    pub(crate) fn of_pass(pass: u32, tensor: usize) -> Pattern {
        Pattern::new(mix((u64::from(pass) + 1) << 40) ^ tensor as u64)
    }

    /// XORs the stream from byte `at`, a multiple of 8, into `bytes`. Twice gives the bytes back.
    pub(crate) fn xor(&self, at: u64, bytes: &mut [u8]) {
        debug_assert!(at.is_multiple_of(8), "a stream is read from the start of a word");
        let mut counter = self.seed.wrapping_add((at / 8).wrapping_mul(GOLDEN));
        let mut words = bytes.chunks_exact_mut(8);
        for bytes in &mut words {
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            bytes.copy_from_slice(&(u64::from_le_bytes(word) ^ mix(counter)).to_le_bytes());
            counter = counter.wrapping_add(GOLDEN);
        }
        for (byte, key) in words.into_remainder().iter_mut().zip(mix(counter).to_le_bytes()) {
            *byte ^= key;
        }
    }
}

/// One multiplication between two shifts: enough that neighbours, passes and tensors share no visible structure,
/// and cheap enough that the walk waits for memory instead.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    word ^ (word >> 32)
}

/// 2^64 divided by the golden ratio: consecutive multiples lie far apart.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_the_whole_agree_at_any_length() {
        for length in [0, 1, 7, 8, 9, 63, 64, 4097] {
            let mut whole = vec![0; length];
            Pattern::of_pass(1, 5).xor(0, &mut whole);
            let mut pieces = vec![0; length];
            for (piece, bytes) in pieces.chunks_mut(24).enumerate() {
                Pattern::of_pass(1, 5).xor(piece as u64 * 24, bytes);
            }
            assert_eq!(whole, pieces);
            Pattern::of_pass(1, 5).xor(0, &mut whole);
            assert_eq!(whole, vec![0; length]);
        }
    }

    #[test]
    fn passes_and_tensors_differ() {
        let stream = |pass, tensor| {
            let mut bytes = vec![0; 4096];
            Pattern::of_pass(pass, tensor).xor(0, &mut bytes);
            bytes
        };
        let streams = [stream(0, 0), stream(0, 1), stream(1, 0), stream(1, 1), stream(2, 0)];
        for (i, one) in streams.iter().enumerate() {
            let ones: u32 = one.iter().map(|byte| byte.count_ones()).sum();
            assert!((15_000..18_000).contains(&ones), "{ones} of 32768 bits are set");
            for other in &streams[i + 1..] {
                assert_ne!(one, other);
            }
        }
    }
}
