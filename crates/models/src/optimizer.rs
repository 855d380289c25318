//! What makes parameters better, and the plainest way to.

use crate::{ModelError, Parameter};

/// Changes parameters by their gradients.
pub trait Optimizer {
    /// The parameters it changes.
    fn parameters(&self) -> &[Parameter];

    /// Changes every parameter that has a gradient.
    ///
    /// # Errors
    /// No room for its state or what it computes with: no number has changed. Or the device's refusal: some parameters may have
    /// changed by then.
    fn step(&mut self) -> Result<(), ModelError>;

    /// Gives the memory of all gradients back.
    fn zero_grad(&self) {
        self.parameters().iter().for_each(Parameter::clear_gradient);
    }
}

/// Stochastic gradient descent without momentum: no state, no temporary tensors.
#[derive(Debug)]
pub struct Sgd {
    parameters: Vec<Parameter>,
    rate: f32,
}

impl Sgd {
    /// Steps of `rate` down the gradient.
    #[must_use]
    pub fn new(parameters: Vec<Parameter>, rate: f32) -> Self {
        Sgd { parameters, rate }
    }
}

impl Optimizer for Sgd {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn step(&mut self) -> Result<(), ModelError> {
        for parameter in &self.parameters {
            let Some(gradient) = parameter.gradient() else { continue };
            let value = parameter.value();
            value.device().update([&gradient], value, |[gradient], value| {
                value.iter_mut().zip(gradient).for_each(|(value, gradient)| *value -= self.rate * gradient);
            })?;
        }
        Ok(())
    }
}
