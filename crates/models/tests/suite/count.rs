//! What a case must hold, counted from the sizes of its tensors alone.
//!
//! The other side of every comparison: no tracker, no arena, no model. Sums of products, as one would do them on paper.

use super::{Case, Kind};
use swap_models::Category;

/// Bytes by category.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Row {
    pub(crate) parameter: u64,
    pub(crate) gradient: u64,
    pub(crate) activation: u64,
    pub(crate) temp: u64,
    pub(crate) optstate: u64,
    pub(crate) other: u64,
}

impl Row {
    pub(crate) fn of(bytes: impl Fn(Category) -> u64) -> Row {
        Row {
            parameter: bytes(Category::Parameter),
            gradient: bytes(Category::Gradient),
            activation: bytes(Category::Activation),
            temp: bytes(Category::Temp),
            optstate: bytes(Category::Optstate),
            other: bytes(Category::Other),
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.parameter + self.gradient + self.activation + self.temp + self.optstate + self.other
    }
}

/// Sizes of a case's tensors on a device that rounds to `rounding` bytes.
pub(crate) struct Count<'a> {
    pub(crate) case: &'a Case,
    pub(crate) rounding: u64,
}

impl Count<'_> {
    /// What is live at every mark, with its name.
    pub(crate) fn marks(&self) -> Vec<(String, Row)> {
        let mut marks = Vec::new();
        if self.case.kind == Kind::Attribution {
            marks.push(("before_forward".to_owned(), self.at_rest(false)));
        }
        for iteration in 0..self.case.iterations {
            let rest = self.at_rest(iteration > 0);
            let forward = Row { activation: rest.activation + self.saved(), ..rest };
            let backward =
                Row { activation: rest.activation + self.kept(), gradient: self.parameters(), ..rest };
            let step = Row { gradient: self.parameters(), ..self.at_rest(true) };
            let rows = [forward, backward, step, self.at_rest(true)];
            let labels = ["after_forward", "after_backward", "after_step", "after_zero_grad"];
            for (label, row) in labels.into_iter().zip(rows) {
                marks.push((self.case.label(iteration, label), row));
            }
        }
        marks
    }

    /// What is live at the moment when it is most.
    pub(crate) fn peak(&self) -> Row {
        let relu = (0..self.case.count).filter(|_| self.case.is_blocks()).map(|block| self.at_relu_of(block));
        let moments = relu.chain([self.at_step()]);
        // Of equals the first.
        moments.reduce(|most, row| if row.total() > most.total() { row } else { most }).unwrap_or_default()
    }

    /// Between two iterations: parameters, the input, and the optimizer's states once there was a step.
    fn at_rest(&self, stepped: bool) -> Row {
        let input = self.values(self.case.width);
        let optstate = if stepped { 2 * self.parameters() + self.tensors() * self.bytes(4) } else { 0 };
        let row = Row { parameter: self.parameters(), optstate, ..Row::default() };
        match self.case.kind {
            Kind::Equivalence => Row { other: input, ..row },
            _ => Row { activation: input, ..row },
        }
    }

    /// What is there after forward beside the input: what was saved, and the loss where it was computed by then.
    fn saved(&self) -> u64 {
        let (count, narrow, wide) = (self.case.count as u64, self.narrow(), self.wide());
        match self.case.kind {
            // GELU saves its input, the linear layer after it its output; what comes last the program holds.
            Kind::Attribution => count * (2 * wide + 2 * narrow),
            // ReLU saves its output, which is the input of the linear layer after it.
            Kind::Equivalence => count * narrow + self.scalar(),
            Kind::Blocks { checkpointed } => {
                let inner = if checkpointed { 1 } else { count };
                inner * wide + (count - 1) * narrow + self.scalar()
            }
        }
    }

    /// Of it, what is there after backward: the output, where the program held it so long.
    fn kept(&self) -> u64 {
        if self.case.kind == Kind::Attribution { self.narrow() } else { 0 }
    }

    /// At the end of an optimizer's step: a temporary tensor for each parameter.
    fn at_step(&self) -> Row {
        Row { gradient: self.parameters(), temp: self.parameters(), ..self.at_rest(true) }
    }

    /// In backward of a block's ReLU, when the gradients of its output and of its input are both there.
    fn at_relu_of(&self, block: usize) -> Row {
        let rest = self.at_rest(self.case.iterations > 1);
        let (blocks, at) = (self.case.count as u64, block as u64);
        let checkpointed = self.case.kind == Kind::Blocks { checkpointed: true };
        // Outputs of ReLU: all that came before and this one; where they are computed again, the first block's and this one.
        let wide = if checkpointed { 1 + u64::from(at > 0) } else { at + 1 };
        let later = (blocks - 1 - at) * (self.parameters() / blocks);
        let width = self.case.width;
        let last = self.elements(2 * width * width) + self.elements(width);
        Row {
            activation: rest.activation + at * self.narrow() + wide * self.wide() + 2 * self.scalar(),
            gradient: later + last,
            temp: 2 * self.wide(),
            ..rest
        }
    }

    /// Weights and biases of all linear layers.
    fn parameters(&self) -> u64 {
        let width = self.case.width;
        let linear = |inputs: usize, outputs: usize| self.elements(inputs * outputs) + self.elements(outputs);
        self.case.count as u64
            * match self.case.kind {
                Kind::Equivalence => linear(width, width),
                _ => linear(width, 2 * width) + linear(2 * width, width),
            }
    }

    /// How many parameters there are.
    fn tensors(&self) -> u64 {
        self.case.count as u64 * if self.case.kind == Kind::Equivalence { 2 } else { 4 }
    }

    fn narrow(&self) -> u64 {
        self.values(self.case.width)
    }

    fn wide(&self) -> u64 {
        self.values(2 * self.case.width)
    }

    /// A row of `width` for every row of the input.
    fn values(&self, width: usize) -> u64 {
        self.elements(self.case.rows.iter().product::<usize>() * width)
    }

    fn scalar(&self) -> u64 {
        self.elements(1)
    }

    fn elements(&self, elements: usize) -> u64 {
        self.bytes(elements as u64 * self.case.float.bytes())
    }

    fn bytes(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.rounding)
    }
}
