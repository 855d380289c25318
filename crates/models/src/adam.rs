//! Adam, one operation over all parameters at a time.

use crate::{Category, Float, ModelError, Optimizer, Parameter, Tensor, kernels};

/// Adam (Kingma and Ba, 2015) in the order of PyTorch's `foreach` way: each operation over all parameters before the next
/// one, so that its temporary tensors are there for all of them at once.
///
/// The state of a parameter ([`Category::Optstate`]) is two tensors like it and a count of steps, 4 bytes, made at the first
/// step that finds a gradient. Temporary tensors are [`Category::Temp`]; the original calls them state too.
///
/// A step for which there is no room changes no number, so it can be taken again when there is some. One that the device refuses to
/// compute half-way leaves some parameters and states changed.
///
/// [`F16`](Float::F16) has no number as small as epsilon or as the square of a small gradient: parameters of that type turn
/// into no numbers, in the original as here.
#[derive(Debug)]
pub struct Adam {
    parameters: Vec<Parameter>,
    rate: f32,
    states: Vec<Option<State>>,
}

#[derive(Debug)]
struct State {
    steps: Tensor,
    mean: Tensor,
    square: Tensor,
    /// What `steps` says, where the host can read it without arithmetic.
    taken: i32,
}

/// A parameter at work.
struct Slot<'a> {
    value: &'a Tensor,
    gradient: Tensor,
    state: &'a mut State,
}

impl Adam {
    /// Steps of about `rate`, with PyTorch's defaults for the rest: decays of 0.9 and 0.999, an epsilon of 1e-8.
    #[must_use]
    pub fn new(parameters: Vec<Parameter>, rate: f32) -> Self {
        let states = parameters.iter().map(|_| None).collect();
        Adam { parameters, rate, states }
    }

    /// The parameters that have gradients, with their states, which are made where there are none.
    fn slots(&mut self) -> Result<Vec<Slot<'_>>, ModelError> {
        let mut slots = Vec::new();
        for (parameter, state) in self.parameters.iter().zip(&mut self.states) {
            let Some(gradient) = parameter.gradient() else { continue };
            let state = match state {
                Some(state) => state,
                None => state.insert(State::new(parameter.value())?),
            };
            slots.push(Slot { value: parameter.value(), gradient, state });
        }
        Ok(slots)
    }
}

impl Optimizer for Adam {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn step(&mut self) -> Result<(), ModelError> {
        let rate = self.rate;
        let Some(device) = self.parameters.first().map(|first| first.value().device().clone()) else {
            return Ok(());
        };
        let _step = device.optimizer_step();
        let mut slots = self.slots()?;
        let _temporary = device.holding(Category::Temp);
        let roots = room(&slots)?;
        slots.iter_mut().try_for_each(Slot::count)?;
        slots.iter().try_for_each(Slot::blend)?;
        slots.iter().zip(&roots).try_for_each(|(slot, root)| slot.fill(root))?;
        slots.iter().zip(&roots).try_for_each(|(slot, root)| slot.descend(root, rate))
    }
}

/// The denominators of the step, one for each parameter and as large, still without numbers: all the room that the step needs is
/// taken before anything changes, so that it can be taken again when there is none.
fn room(slots: &[Slot<'_>]) -> Result<Vec<Tensor>, ModelError> {
    if let Some(first) = slots.first() {
        // The original adds a tensor to its counts of steps, which is gone when the denominators are made. Ours needs the memory
        // only.
        Tensor::full(first.value.device(), &[1], Float::F32, 1.0)?;
    }
    slots.iter().map(|slot| slot.value.empty_like()).collect()
}

impl State {
    fn new(value: &Tensor) -> Result<Self, ModelError> {
        let zeros = |shape: &[usize], float| Tensor::full(value.device(), shape, float, 0.0);
        let steps = zeros(&[1], Float::F32)?;
        let (mean, square) = (zeros(value.shape(), value.float())?, zeros(value.shape(), value.float())?);
        Ok(State { steps, mean, square, taken: 0 })
    }
}

impl Slot<'_> {
    /// One more step.
    fn count(&mut self) -> Result<(), ModelError> {
        let steps = &self.state.steps;
        steps.device().update([], steps, |[], steps| steps[0] += 1.0)?;
        self.state.taken = self.state.taken.saturating_add(1);
        Ok(())
    }

    /// Lets the means of the gradient and of its square decay towards the latest.
    fn blend(&self) -> Result<(), ModelError> {
        let State { mean, square, .. } = &*self.state;
        mean.device().update([&self.gradient], mean, |[gradient], mean| {
            blend(mean, gradient, DECAY_OF_MEAN, |gradient| gradient);
        })?;
        square.device().update([&self.gradient], square, |[gradient], square| {
            blend(square, gradient, DECAY_OF_SQUARE, |gradient| gradient * gradient);
        })
    }

    /// Computes the denominator of the step.
    fn fill(&self, root: &Tensor) -> Result<(), ModelError> {
        let scale = 1.0 / (1.0 - DECAY_OF_SQUARE.powi(self.state.taken)).sqrt();
        root.device().compute([&self.state.square], root, |[square], root| {
            kernels::map(square, root, |square| square.sqrt() * scale + EPSILON);
        })
    }

    fn descend(&self, root: &Tensor, rate: f32) -> Result<(), ModelError> {
        let rate = rate / (1.0 - DECAY_OF_MEAN.powi(self.state.taken));
        self.value.device().update([&self.state.mean, root], self.value, |[mean, root], value| {
            value
                .iter_mut()
                .zip(mean)
                .zip(root)
                .for_each(|((value, mean), root)| *value -= rate * mean / root);
        })
    }
}

fn blend(average: &mut [f32], latest: &[f32], decay: f32, of: impl Fn(f32) -> f32) {
    average
        .iter_mut()
        .zip(latest)
        .for_each(|(average, latest)| *average += (of(*latest) - *average) * (1.0 - decay));
}

const DECAY_OF_MEAN: f32 = 0.9;
const DECAY_OF_SQUARE: f32 = 0.999;
const EPSILON: f32 = 1e-8;
