//! What a tensor is, apart from where its bytes are.

use crate::{DType, SwapError};

/// Name, dtype and shape of a tensor. Immutable once made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    name: String,
    dtype: DType,
    shape: Vec<u64>,
    bytes: u64,
}

impl TensorSpec {
    /// A tensor of `dtype` elements; an empty shape is a scalar, a zero dimension an empty tensor.
    ///
    /// # Errors
    /// [`SwapError::Shape`] when the size overflows or is no whole number of bytes.
    ///
    /// ```
    /// use swap_tensor::{DType, TensorSpec};
    /// let spec = TensorSpec::new("wte", DType::F16, [50257, 768])?;
    /// assert_eq!(spec.bytes(), 77_194_752);
    /// # Ok::<(), swap_tensor::SwapError>(())
    /// ```
    pub fn new(name: impl Into<String>, dtype: DType, shape: impl Into<Vec<u64>>) -> Result<Self, SwapError> {
        let (name, shape) = (name.into(), shape.into());
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        match elements.and_then(|n| dtype.bytes(n)) {
            Some(bytes) => Ok(TensorSpec { name, dtype, shape, bytes }),
            None => Err(SwapError::Shape { name, dtype, shape }),
        }
    }

    /// Its name, unique within a pool.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its dimensions, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Its size in bytes; zero if a dimension is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_and_empty_tensors_have_sizes() {
        assert_eq!(TensorSpec::new("s", DType::F32, []).unwrap().bytes(), 4);
        assert_eq!(TensorSpec::new("e", DType::F32, [3, 0, 5]).unwrap().bytes(), 0);
    }

    #[test]
    fn an_overflowing_shape_is_refused() {
        assert!(matches!(TensorSpec::new("x", DType::U8, [u64::MAX, 2]), Err(SwapError::Shape { .. })));
    }
}
