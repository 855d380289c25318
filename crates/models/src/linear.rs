//! The linear layer.

use crate::{Category, Device, Float, ModelError, Module, Parameter, Tape, Tensor, kernels};

/// `y = x · Wᵀ + b` over the last dimension, with PyTorch's shapes: `W` has a row for each output.
#[derive(Debug)]
pub struct Linear {
    weight: Parameter,
    bias: Parameter,
}

impl Linear {
    /// A layer from `inputs` to `outputs` elements, with numbers within `1 / √inputs` that follow from `seed`.
    ///
    /// # Errors
    /// As [`Tensor::random`].
    pub fn new(
        device: &Device,
        (inputs, outputs): (usize, usize),
        float: Float,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let _parameters = device.holding(Category::Parameter);
        let bound = 1.0 / (inputs as f32).sqrt();
        let parameter =
            |shape: &[usize], seed| Tensor::random(device, shape, float, (seed, bound)).map(Parameter::new);
        let (weight, bias) = (parameter(&[outputs, inputs], seed)?, parameter(&[outputs], !seed)?);
        Ok(Linear { weight, bias })
    }

    fn inputs(&self) -> usize {
        self.weight.value().columns()
    }

    fn outputs(&self) -> usize {
        self.bias.value().columns()
    }

    fn input_gradient(&self, gradient: &Tensor, input: &Tensor) -> Result<Tensor, ModelError> {
        let out = input.empty_like()?;
        let (inputs, outputs) = (self.inputs(), self.outputs());
        out.device().compute([gradient, self.weight.value()], &out, |[gradient, weight], out| {
            kernels::matmul(gradient, weight, out, outputs, inputs);
        })?;
        Ok(out)
    }

    fn weight_gradient(&self, gradient: &Tensor, input: &Tensor) -> Result<Tensor, ModelError> {
        let out = self.weight.value().empty_like()?;
        let (inputs, outputs) = (self.inputs(), self.outputs());
        out.device().compute([gradient, input], &out, |[gradient, input], out| {
            let rows = input.len() / inputs;
            kernels::matmul(&kernels::transpose(gradient, outputs), input, out, rows, inputs);
        })?;
        Ok(out)
    }

    fn bias_gradient(&self, gradient: &Tensor) -> Result<Tensor, ModelError> {
        let out = self.bias.value().empty_like()?;
        out.device().compute([gradient], &out, |[gradient], out| kernels::sum_rows(gradient, out))?;
        Ok(out)
    }
}

impl Module for Linear {
    fn forward(&self, input: &Tensor, tape: &mut Tape) -> Result<Tensor, ModelError> {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let Some((&columns, rows)) = input.shape().split_last().filter(|(columns, _)| **columns == inputs)
        else {
            let found = input.shape().to_vec();
            return Err(ModelError::Shape { operation: "linear", expected: inputs, found });
        };
        tape.save(input)?;
        let shape = [rows, &[outputs]].concat();
        let out = Tensor::empty(input.device(), &shape, input.float())?;
        let with = [input, self.weight.value(), self.bias.value()];
        out.device().compute(with, &out, |[input, weight, bias], out| {
            kernels::matmul(input, &kernels::transpose(weight, columns), out, columns, outputs);
            kernels::add_row(bias, out);
        })?;
        Ok(out.with_gradient())
    }

    fn backward(&self, gradient: Tensor, tape: &mut Tape) -> Result<Option<Tensor>, ModelError> {
        let input = tape.take()?;
        gradient.must_have(input.elements() / self.inputs() * self.outputs(), "backward of linear")?;
        let wanted = input.wants_gradient().then(|| self.input_gradient(&gradient, &input)).transpose()?;
        let weight = self.weight_gradient(&gradient, &input)?;
        let bias = self.bias_gradient(&gradient)?;
        drop((gradient, input));
        self.bias.accumulate(bias)?;
        self.weight.accumulate(weight)?;
        Ok(wanted)
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![self.weight.clone(), self.bias.clone()]
    }
}
