//! Tensors: shapes over blocks that are given back with their last user.

use crate::{Device, Float, ModelError};
use allocator_core::Handle;
use std::sync::Arc;

/// Numbers of one [`Float`] in a shape, row by row.
///
/// Cloning names the same memory, as a view does; the block goes back to the arena with the last clone, which is when
/// PyTorch's storage would go.
#[derive(Debug, Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    shape: Vec<usize>,
    wants_gradient: bool,
}

#[derive(Debug)]
struct Storage {
    device: Device,
    handle: Handle,
    float: Float,
    elements: usize,
}

impl Tensor {
    /// A tensor whose contents are whatever was there.
    ///
    /// # Errors
    /// [`ModelError::NoTensor`]; [`ModelError::Alloc`] and [`ModelError::Device`]: no room.
    pub fn empty(device: &Device, shape: &[usize], float: Float) -> Result<Self, ModelError> {
        let elements = elements(shape).filter(|elements| *elements > 0);
        let bytes = elements.and_then(|elements| (elements as u64).checked_mul(float.bytes()));
        let (Some(elements), Some(bytes)) = (elements, bytes) else {
            return Err(ModelError::NoTensor { shape: shape.to_vec() });
        };
        let handle = device.allocate(bytes)?;
        let storage = Storage { device: device.clone(), handle, float, elements };
        Ok(Tensor { storage: Arc::new(storage), shape: shape.to_vec(), wants_gradient: false })
    }

    /// As [`empty`](Self::empty), with every element `value`.
    ///
    /// # Errors
    /// As [`empty`](Self::empty); the device's refusal to write.
    pub fn full(device: &Device, shape: &[usize], float: Float, value: f32) -> Result<Self, ModelError> {
        let tensor = Self::empty(device, shape, float)?;
        device.compute([], &tensor, |[], out| out.fill(value))?;
        Ok(tensor)
    }

    /// As [`empty`](Self::empty), with numbers from `-bound..bound` that follow from `seed`.
    ///
    /// # Errors
    /// As [`full`](Self::full).
    pub fn random(
        device: &Device,
        shape: &[usize],
        float: Float,
        (seed, bound): (u64, f32),
    ) -> Result<Self, ModelError> {
        let tensor = Self::empty(device, shape, float)?;
        device.compute([], &tensor, |[], out| {
            let mut rng = seed;
            out.iter_mut().for_each(|out| *out = bound * (2.0 * uniform(&mut rng) - 1.0));
        })?;
        Ok(tensor)
    }

    /// A view in another shape: of as many elements, or of one element that is repeated in all places.
    pub(crate) fn viewed(&self, shape: &[usize]) -> Result<Self, ModelError> {
        let stored = self.storage.elements;
        if stored != 1 && elements(shape) != Some(stored) {
            return Err(ModelError::Shape { operation: "view", expected: stored, found: shape.to_vec() });
        }
        Ok(Tensor { storage: Arc::clone(&self.storage), shape: shape.to_vec(), wants_gradient: false })
    }

    /// The same with an element in memory for each of its shape.
    pub(crate) fn whole(self) -> Result<Self, ModelError> {
        if self.storage.elements == self.elements() {
            return Ok(self);
        }
        let out = self.empty_like()?;
        out.device().compute([&self], &out, |[values], out| out.copy_from_slice(values))?;
        Ok(out)
    }

    /// Refuses to go on with another number of elements than `expected`.
    pub(crate) fn must_have(&self, expected: usize, operation: &'static str) -> Result<(), ModelError> {
        if self.elements() == expected {
            return Ok(());
        }
        Err(ModelError::Shape { operation, expected, found: self.shape.clone() })
    }

    /// The same tensor as one that backward computes a gradient for: what an operation makes of one that does.
    #[must_use]
    pub fn with_gradient(mut self) -> Self {
        self.wants_gradient = true;
        self
    }

    /// A tensor of the same shape and type, whose contents are whatever was there.
    ///
    /// # Errors
    /// As [`empty`](Self::empty).
    pub fn empty_like(&self) -> Result<Self, ModelError> {
        Self::empty(self.device(), &self.shape, self.float())
    }

    /// Whether backward computes a gradient for it: a parameter, or made of one.
    #[must_use]
    pub fn wants_gradient(&self) -> bool {
        self.wants_gradient
    }

    /// Its shape; the last dimension is contiguous.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements its shape has.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of the last dimension.
    pub(crate) fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Type of its elements.
    #[must_use]
    pub fn float(&self) -> Float {
        self.storage.float
    }

    /// Bytes of its memory, which views and clones share.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.storage.elements as u64 * self.float().bytes()
    }

    /// Where it lives.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.storage.device
    }

    /// The name of its block.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.storage.handle
    }

    /// Its elements; zeros on a device without arithmetic.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn values(&self) -> Result<Vec<f32>, ModelError> {
        let Storage { device, handle, float, elements } = &*self.storage;
        let values = device.read(*handle, *float, *elements)?;
        match values.as_slice() {
            [one] => Ok(vec![*one; self.elements()]),
            _ => Ok(values),
        }
    }

    /// Replaces its elements, each rounded to the nearest that its type has; nothing on a device without arithmetic.
    ///
    /// # Errors
    /// [`ModelError::Shape`] unless there is a value for each; [`ModelError::Device`].
    pub fn set(&self, values: &[f32]) -> Result<(), ModelError> {
        let Storage { device, handle, float, elements } = &*self.storage;
        if values.len() != *elements {
            return Err(ModelError::Shape {
                operation: "set",
                expected: *elements,
                found: vec![values.len()],
            });
        }
        device.write(*handle, *float, values)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.device.release(self.handle);
    }
}

fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |all, length| all.checked_mul(*length))
}

/// A number from `0.0..1.0` (SplitMix64, Steele et al., 2014).
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}
