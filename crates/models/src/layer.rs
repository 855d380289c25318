//! A module in its place: with a name, and perhaps checkpointed.

use crate::{ModelError, Module, Parameter, Tape, Tensor};

/// A module under a name, by which the tracker tells who holds what.
///
/// A layer that is [checkpointed](Self::checkpointed) saves its input and nothing else. Backward then computes the rest again,
/// up to the last tensor it needs, and goes on as if it had been saved: less memory for a second forward.
#[derive(Debug)]
pub struct Layer {
    name: String,
    module: Box<dyn Module>,
    checkpointed: bool,
}

impl Layer {
    /// `module`, called `name`. A model puts the names of the layers around it before that: `Net.blocks.0`.
    pub fn new(name: impl Into<String>, module: impl Module + 'static) -> Self {
        Layer { name: name.into(), module: Box::new(module), checkpointed: false }
    }

    /// Whether backward computes again what the layer would have saved.
    #[must_use]
    pub fn checkpointed(self, checkpointed: bool) -> Self {
        Layer { checkpointed, ..self }
    }

    fn run(&self, input: &Tensor, tape: &mut Tape) -> Result<Tensor, ModelError> {
        let Some(tracking) = input.device().tracking() else { return self.module.forward(input, tape) };
        let scope = tracking.forward(&self.name, &self.module.parameters(), input)?;
        let output = self.module.forward(input, tape);
        tracking.end(scope, &output)?;
        output
    }

    fn back(&self, gradient: Tensor, tape: &mut Tape) -> Result<Option<Tensor>, ModelError> {
        if !self.checkpointed {
            return self.module.backward(gradient, tape);
        }
        let saved = tape.entry()?;
        let mut replayed = self.replay(&saved.tensor, saved.saves)?;
        drop(saved);
        self.module.backward(gradient, &mut replayed)
    }

    /// What forward would have saved.
    fn replay(&self, input: &Tensor, saves: Option<usize>) -> Result<Tape, ModelError> {
        let mut tape = Tape::replaying(saves);
        match self.run(input, &mut tape) {
            Ok(_) | Err(ModelError::Recomputed) => Ok(tape),
            Err(error) => Err(error),
        }
    }
}

impl Module for Layer {
    fn forward(&self, input: &Tensor, tape: &mut Tape) -> Result<Tensor, ModelError> {
        if !self.checkpointed {
            return self.run(input, tape);
        }
        tape.save(input)?;
        let mut counted = Tape::counting();
        let output = self.run(input, &mut counted)?;
        tape.note(counted.counted());
        Ok(output)
    }

    fn backward(&self, gradient: Tensor, tape: &mut Tape) -> Result<Option<Tensor>, ModelError> {
        let device = gradient.device().clone();
        let Some(tracking) = device.tracking() else { return self.back(gradient, tape) };
        let scope = tracking.backward(&self.name)?;
        let wanted = self.back(gradient, tape);
        if wanted.is_err() {
            scope.abandon();
        }
        wanted
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.module.parameters()
    }

    fn placed(&mut self, path: &str) {
        if !path.is_empty() {
            self.name = format!("{path}.{}", self.name);
        }
        self.module.placed(&self.name);
    }
}
