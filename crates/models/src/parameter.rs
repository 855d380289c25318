//! What a model learns, and the gradient for it.

use crate::{Category, ModelError, Tensor, kernels};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A tensor that an optimizer changes, with room for its gradient. Cloning names the same parameter, so modules may share
/// one.
#[derive(Debug, Clone)]
pub struct Parameter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    value: Tensor,
    gradient: Mutex<Option<Tensor>>,
}

impl Parameter {
    /// Makes a parameter of a tensor.
    #[must_use]
    pub fn new(value: Tensor) -> Self {
        Parameter { shared: Arc::new(Shared { value: value.with_gradient(), gradient: Mutex::new(None) }) }
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> &Tensor {
        &self.shared.value
    }

    /// Its gradient, if backward came by since it was last cleared.
    #[must_use]
    pub fn gradient(&self) -> Option<Tensor> {
        self.slot().clone()
    }

    /// Whether both are one.
    #[must_use]
    pub fn is(&self, other: &Parameter) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Adds to the gradient: the first one is kept as it comes, later ones are added to it and freed. Of one number that is
    /// repeated in all places a tensor is made, as PyTorch does.
    ///
    /// # Errors
    /// [`ModelError::Shape`] unless it has as many elements; [`ModelError::Device`], [`ModelError::Alloc`].
    pub fn accumulate(&self, gradient: Tensor) -> Result<(), ModelError> {
        gradient.must_have(self.value().elements(), "gradient of a parameter")?;
        let mut slot = self.slot();
        if let Some(sum) = &*slot {
            return sum.device().update([&gradient], sum, |[more], sum| kernels::add(more, sum));
        }
        let gradient = gradient.whole()?;
        if let Some(tracking) = gradient.device().tracking() {
            tracking.retag(&gradient, Category::Gradient)?;
        }
        *slot = Some(gradient);
        Ok(())
    }

    /// Gives the gradient's memory back, as PyTorch does with `set_to_none`.
    pub fn clear_gradient(&self) {
        *self.slot() = None;
    }

    fn slot(&self) -> MutexGuard<'_, Option<Tensor>> {
        // It is well-formed at every step.
        self.shared.gradient.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
