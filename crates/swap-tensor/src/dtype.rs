//! Element types: every dtype of the safetensors format, and the Rust types that stand for them.

use core::fmt;

/// The type of a tensor's elements.
///
/// Names and widths are those of the safetensors format (crate `safetensors` 0.8), sub-byte types included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(non_camel_case_types, reason = "the format's own spelling is what people search for")]
pub enum DType {
    /// Boolean, one byte.
    BOOL,
    /// 4-bit float (OCP MX).
    F4,
    /// 6-bit float, 2 exponent bits (OCP MX).
    F6_E2M3,
    /// 6-bit float, 3 exponent bits (OCP MX).
    F6_E3M2,
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
    /// 8-bit float, 5 exponent bits.
    F8_E5M2,
    /// 8-bit float, 4 exponent bits.
    F8_E4M3,
    /// 8-bit float, exponent only (OCP MX scales).
    F8_E8M0,
    /// 8-bit float, 4 exponent bits, no infinities, unsigned zero.
    F8_E4M3FNUZ,
    /// 8-bit float, 5 exponent bits, no infinities, unsigned zero.
    F8_E5M2FNUZ,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 16-bit integer.
    U16,
    /// Half-precision float ([`half::f16`]).
    F16,
    /// Brain float ([`half::bf16`]).
    BF16,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// Single-precision float.
    F32,
    /// Complex number of two single-precision floats.
    C64,
    /// Double-precision float.
    F64,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
}

impl DType {
    /// Width of one element in **bits** (4 and 6 exist).
    pub const fn bits(self) -> u64 {
        match self {
            DType::F4 => 4,
            DType::F6_E2M3 | DType::F6_E3M2 => 6,
            DType::BOOL
            | DType::U8
            | DType::I8
            | DType::F8_E5M2
            | DType::F8_E4M3
            | DType::F8_E8M0
            | DType::F8_E4M3FNUZ
            | DType::F8_E5M2FNUZ => 8,
            DType::I16 | DType::U16 | DType::F16 | DType::BF16 => 16,
            DType::I32 | DType::U32 | DType::F32 => 32,
            DType::C64 | DType::F64 | DType::I64 | DType::U64 => 64,
        }
    }

    /// Bytes of `elements` elements, or `None` when that overflows or is no whole number of bytes.
    pub const fn bytes(self, elements: u64) -> Option<u64> {
        match elements.checked_mul(self.bits()) {
            Some(bits) if bits % 8 == 0 => Some(bits / 8),
            _ => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl TryFrom<safetensors::Dtype> for DType {
    type Error = safetensors::Dtype;

    /// The same type by its safetensors name; a type newer than this crate comes back as the error.
    fn try_from(dtype: safetensors::Dtype) -> Result<Self, safetensors::Dtype> {
        use safetensors::Dtype as S;
        Ok(match dtype {
            S::BOOL => DType::BOOL,
            S::F4 => DType::F4,
            S::F6_E2M3 => DType::F6_E2M3,
            S::F6_E3M2 => DType::F6_E3M2,
            S::U8 => DType::U8,
            S::I8 => DType::I8,
            S::F8_E5M2 => DType::F8_E5M2,
            S::F8_E4M3 => DType::F8_E4M3,
            S::F8_E8M0 => DType::F8_E8M0,
            S::F8_E4M3FNUZ => DType::F8_E4M3FNUZ,
            S::F8_E5M2FNUZ => DType::F8_E5M2FNUZ,
            S::I16 => DType::I16,
            S::U16 => DType::U16,
            S::F16 => DType::F16,
            S::BF16 => DType::BF16,
            S::I32 => DType::I32,
            S::U32 => DType::U32,
            S::F32 => DType::F32,
            S::C64 => DType::C64,
            S::F64 => DType::F64,
            S::I64 => DType::I64,
            S::U64 => DType::U64,
            other => return Err(other),
        })
    }
}

/// A Rust type that is one element of a [`DType`].
pub trait Element: bytemuck::Pod {
    /// The dtype it stands for.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })*
    };
}

elements! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    f32 => F32, f64 => F64, half::f16 => F16, half::bf16 => BF16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_agree_with_the_format() {
        for (ours, theirs) in [
            (DType::F4, safetensors::Dtype::F4),
            (DType::F6_E3M2, safetensors::Dtype::F6_E3M2),
            (DType::BF16, safetensors::Dtype::BF16),
            (DType::C64, safetensors::Dtype::C64),
            (DType::BOOL, safetensors::Dtype::BOOL),
        ] {
            assert_eq!(DType::try_from(theirs), Ok(ours));
            assert_eq!(ours.bits(), theirs.bitsize() as u64);
            assert_eq!(ours.to_string(), theirs.to_string());
        }
    }

    #[test]
    fn an_element_is_as_wide_as_its_dtype() {
        fn width<E: Element>() {
            assert_eq!(E::DTYPE.bits(), 8 * size_of::<E>() as u64);
        }
        width::<half::f16>();
        width::<half::bf16>();
        width::<f64>();
        width::<u8>();
    }

    #[test]
    fn half_a_byte_is_no_size() {
        assert_eq!(DType::F4.bytes(3), None);
        assert_eq!(DType::F4.bytes(4), Some(2));
        assert_eq!(DType::F64.bytes(u64::MAX), None);
    }
}
