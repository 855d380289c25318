//! Functions of single elements: what each saves is what distinguishes them.

use crate::{ModelError, Module, Tape, Tensor, kernels};

/// What is negative becomes zero; what is no number stays so. Saves its **output**, so the input can go.
#[derive(Debug, Default)]
pub struct Relu;

/// The Gaussian error linear unit, by its approximation with tanh. Saves its **input**, so both live until backward.
#[derive(Debug, Default)]
pub struct Gelu;

impl Module for Relu {
    fn forward(&self, input: &Tensor, tape: &mut Tape) -> Result<Tensor, ModelError> {
        let out = mapped(input, |x| if x < 0.0 { 0.0 } else { x })?;
        if out.wants_gradient() {
            tape.save(&out)?;
        }
        Ok(out)
    }

    fn backward(&self, gradient: Tensor, tape: &mut Tape) -> Result<Option<Tensor>, ModelError> {
        let output = tape.take()?;
        slope(&gradient, &output, |gradient, output| if output <= 0.0 { 0.0 } else { gradient }).map(Some)
    }
}

impl Module for Gelu {
    fn forward(&self, input: &Tensor, tape: &mut Tape) -> Result<Tensor, ModelError> {
        if input.wants_gradient() {
            tape.save(input)?;
        }
        mapped(input, kernels::gelu)
    }

    fn backward(&self, gradient: Tensor, tape: &mut Tape) -> Result<Option<Tensor>, ModelError> {
        let input = tape.take()?;
        slope(&gradient, &input, |gradient, input| gradient * kernels::gelu_slope(input)).map(Some)
    }
}

fn mapped(input: &Tensor, function: impl Fn(f32) -> f32) -> Result<Tensor, ModelError> {
    let out = input.empty_like()?;
    out.device().compute([input], &out, |[input], out| kernels::map(input, out, function))?;
    Ok(if input.wants_gradient() { out.with_gradient() } else { out })
}

fn slope(gradient: &Tensor, saved: &Tensor, of: impl Fn(f32, f32) -> f32) -> Result<Tensor, ModelError> {
    gradient.must_have(saved.elements(), "backward of an activation")?;
    let out = saved.empty_like()?;
    out.device().compute([gradient, saved], &out, |[gradient, saved], out| {
        kernels::zip(gradient, saved, out, of);
    })?;
    Ok(out)
}
