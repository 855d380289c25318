//! The number types that tensors have.

use half::{bf16, f16};

/// The type of a tensor's elements. Arithmetic is `f32` throughout, and rounds when it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Float {
    /// Single precision, 4 bytes.
    F32,
    /// Half precision, 2 bytes.
    F16,
    /// Brain float, 2 bytes.
    BF16,
}

impl Float {
    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::BF16 => 2,
        }
    }

    /// The values that `bytes`, a whole number of elements, stand for.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        fn wide<T: bytemuck::Pod>(bytes: &[u8], value: impl Fn(T) -> f32) -> Vec<f32> {
            bytes.chunks_exact(size_of::<T>()).map(|one| value(bytemuck::pod_read_unaligned(one))).collect()
        }
        match self {
            Float::F32 => wide(bytes, |value: f32| value),
            Float::F16 => wide(bytes, f16::to_f32),
            Float::BF16 => wide(bytes, bf16::to_f32),
        }
    }

    /// The bytes of `values`, each rounded to the nearest that there is.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        fn narrow<T: bytemuck::Pod>(values: &[f32], one: impl Fn(f32) -> T) -> Vec<u8> {
            let narrow: Vec<T> = values.iter().map(|value| one(*value)).collect();
            bytemuck::cast_slice(&narrow).to_vec()
        }
        match self {
            Float::F32 => bytemuck::cast_slice(values).to_vec(),
            Float::F16 => narrow(values, f16::from_f32),
            Float::BF16 => narrow(values, bf16::from_f32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_where_they_can() {
        let values = [0.0, -1.5, 3.25, 1024.0];
        for float in [Float::F32, Float::F16, Float::BF16] {
            let bytes = float.encode(&values);
            assert_eq!(bytes.len() as u64, 4 * float.bytes());
            assert_eq!(float.decode(&bytes), values);
        }
        assert_eq!(Float::BF16.decode(&Float::BF16.encode(&[1.001])), [1.0], "rounded");
    }
}
