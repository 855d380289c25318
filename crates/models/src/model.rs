//! A whole model, and what its output is judged by.

use crate::{Layer, ModelError, Module, Parameter, Tape, Tensor, kernels};

/// A model: the outermost layer, and what its forward pass has saved so far.
#[derive(Debug)]
pub struct Model {
    root: Layer,
    tape: Tape,
}

/// One number that says how bad an output is, from which backward starts.
#[derive(Debug)]
pub struct Loss {
    value: Tensor,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Sum { shape: Vec<usize> },
    SquaredError { output: Tensor, target: Tensor },
}

impl Model {
    /// A model whose outermost module is called `name`.
    pub fn new(name: impl Into<String>, module: impl Module + 'static) -> Self {
        let mut root = Layer::new(name, module);
        root.placed("");
        Model { root, tape: Tape::default() }
    }

    /// Its output, and on its tape what backward needs. What an earlier forward saved is given back.
    ///
    /// # Errors
    /// [`ModelError`]. Nothing stays saved.
    pub fn forward(&mut self, input: &Tensor) -> Result<Tensor, ModelError> {
        self.tape = Tape::default();
        self.root.forward(input, &mut self.tape).inspect_err(|_| self.tape = Tape::default())
    }

    /// Its output, without anything saved.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn infer(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        self.root.forward(input, &mut Tape::counting())
    }

    /// Adds to the parameters' gradients what follows from the gradient of the output of the last forward.
    ///
    /// # Errors
    /// [`ModelError::NothingSaved`] and others. What was saved is given back; some parameters may have their gradients.
    pub fn backward(&mut self, gradient: Tensor) -> Result<(), ModelError> {
        let mut tape = core::mem::take(&mut self.tape);
        self.root.backward(gradient, &mut tape).map(drop)
    }

    /// Its parameters, each once, in the order in which modules have them.
    #[must_use]
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut parameters: Vec<Parameter> = Vec::new();
        for parameter in self.root.parameters() {
            if !parameters.iter().any(|known| known.is(&parameter)) {
                parameters.push(parameter);
            }
        }
        parameters
    }
}

impl Loss {
    /// The sum of all elements.
    ///
    /// # Errors
    /// As [`Tensor::full`].
    pub fn sum(output: &Tensor) -> Result<Self, ModelError> {
        let value = Tensor::empty(output.device(), &[1], output.float())?;
        value.device().compute([output], &value, |[output], sum| sum[0] = output.iter().sum())?;
        Ok(Loss { value, kind: Kind::Sum { shape: output.shape().to_vec() } })
    }

    /// The mean of the squared differences from `target`; both are saved.
    ///
    /// # Errors
    /// As [`Tensor::full`]; [`ModelError::Shape`] unless `target` has as many elements.
    pub fn squared_error(output: &Tensor, target: &Tensor) -> Result<Self, ModelError> {
        target.must_have(output.elements(), "squared error")?;
        let value = Tensor::empty(output.device(), &[1], output.float())?;
        value.device().compute([output, target], &value, |[output, target], mean| {
            let squares = output.iter().zip(target).map(|(a, b)| (a - b) * (a - b));
            mean[0] = squares.sum::<f32>() / output.len() as f32;
        })?;
        let kind = Kind::SquaredError { output: output.clone(), target: target.clone() };
        Ok(Loss { value, kind })
    }

    /// The number, as a tensor of one element.
    #[must_use]
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Runs `model` backward from this number, which is given back at the end.
    ///
    /// # Errors
    /// As [`Model::backward`].
    pub fn backward(self, model: &mut Model) -> Result<(), ModelError> {
        // Made before backward begins, so it is an activation; it lives until all of backward is over.
        let one = Tensor::full(self.value.device(), &[1], self.value.float(), 1.0)?;
        let _backward = self.value.device().backward();
        let gradient = self.kind.gradient(&one)?;
        model.backward(gradient)
    }
}

impl Kind {
    /// The gradient of the output, from that of the loss.
    fn gradient(self, one: &Tensor) -> Result<Tensor, ModelError> {
        match self {
            Kind::Sum { shape } => one.viewed(&shape),
            Kind::SquaredError { output, target } => {
                let out = output.empty_like()?;
                out.device().compute([one, &output, &target], &out, |[one, output, target], out| {
                    let scale = 2.0 * one[0] / output.len() as f32;
                    kernels::zip(output, target, out, |output, target| scale * (output - target));
                })?;
                Ok(out)
            }
        }
    }
}
