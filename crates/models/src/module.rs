//! What a model is made of, and layers in a row.

use crate::{Layer, ModelError, Parameter, Tape, Tensor};

/// A piece of a model: forward makes tensors and saves those that backward needs, backward takes them and gives gradients.
///
/// # For implementers
/// * Forward saves a tensor when the operation that needs it is set up: its input before it allocates the output, its output
///   after it computed it. `Tape::save` may say that a replay has all it needs; pass that on.
/// * Nothing is saved where neither the input nor a parameter wants a gradient.
/// * Backward takes what forward saved, in the opposite order, and drops each tensor as soon as it has been used.
///
/// ```
/// use backend_cpu::CpuDevice;
/// use swap_models::*;
///
/// /// Adds to its input what a layer makes of it.
/// #[derive(Debug)]
/// struct Residual(Layer);
///
/// impl Module for Residual {
///     fn forward(&self, input: &Tensor, tape: &mut Tape) -> Result<Tensor, ModelError> {
///         let inner = self.0.forward(input, tape)?; // saves what it needs; a sum needs nothing
///         let sum = inner.empty_like()?;
///         sum.device().compute([input, &inner], &sum, |[a, b], sum| {
///             sum.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum = a + b);
///         })?;
///         Ok(if inner.wants_gradient() { sum.with_gradient() } else { sum })
///     }
///
///     fn backward(&self, gradient: Tensor, tape: &mut Tape) -> Result<Option<Tensor>, ModelError> {
///         let Some(inner) = self.0.backward(gradient.clone(), tape)? else { return Ok(None) };
///         inner.device().update([&gradient], &inner, |[gradient], inner| {
///             inner.iter_mut().zip(gradient).for_each(|(inner, gradient)| *inner += gradient);
///         })?;
///         Ok(Some(inner))
///     }
///
///     fn parameters(&self) -> Vec<Parameter> {
///         self.0.parameters()
///     }
///
///     fn placed(&mut self, path: &str) {
///         self.0.placed(path);
///     }
/// }
///
/// let device = Device::computing(CpuDevice::new()?, 1 << 16)?;
/// let linear = |name, seed| Ok::<_, ModelError>(Layer::new(name, Linear::new(&device, (4, 4), Float::F32, seed)?));
/// let layers = vec![linear("first", 1)?, Layer::new("block", Residual(linear("inner", 2)?))];
/// let mut model = Model::new("Net", Sequential::new(layers));
///
/// let output = model.forward(&Tensor::full(&device, &[2, 4], Float::F32, 1.0)?)?;
/// Loss::sum(&output)?.backward(&mut model)?;
/// assert!(model.parameters().iter().all(|parameter| parameter.gradient().is_some()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Module: core::fmt::Debug + Send {
    /// Computes the output.
    ///
    /// # Errors
    /// [`ModelError`].
    fn forward(&self, input: &Tensor, tape: &mut Tape) -> Result<Tensor, ModelError>;

    /// Adds to the parameters' gradients; returns the input's, if the input wants one.
    ///
    /// # Errors
    /// [`ModelError`].
    fn backward(&self, gradient: Tensor, tape: &mut Tape) -> Result<Option<Tensor>, ModelError>;

    /// Its parameters in the order in which they were made; one that is used twice is there twice.
    fn parameters(&self) -> Vec<Parameter> {
        Vec::new()
    }

    /// Tells the layers within where they are: the name of the layer around them, by which they put it before theirs.
    fn placed(&mut self, path: &str) {
        let _ = path;
    }
}

/// Layers in a row, each fed with the output of the one before.
#[derive(Debug, Default)]
pub struct Sequential {
    layers: Vec<Layer>,
}

impl Sequential {
    /// Layers in this order.
    #[must_use]
    pub fn new(layers: Vec<Layer>) -> Self {
        Sequential { layers }
    }
}

impl Module for Sequential {
    fn forward(&self, input: &Tensor, tape: &mut Tape) -> Result<Tensor, ModelError> {
        let mut value = input.clone();
        for layer in &self.layers {
            value = layer.forward(&value, tape)?;
        }
        Ok(value)
    }

    fn backward(&self, mut gradient: Tensor, tape: &mut Tape) -> Result<Option<Tensor>, ModelError> {
        for layer in self.layers.iter().rev() {
            match layer.backward(gradient, tape)? {
                Some(next) => gradient = next,
                None => return Ok(None),
            }
        }
        Ok(Some(gradient))
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.layers.iter().flat_map(Module::parameters).collect()
    }

    fn placed(&mut self, path: &str) {
        self.layers.iter_mut().for_each(|layer| layer.placed(path));
    }
}
