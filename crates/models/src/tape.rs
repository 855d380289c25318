//! What forward leaves for backward.

use crate::{ModelError, Tensor};

/// The tensors that forward saved, last in, first out: backward takes them in the opposite order.
#[derive(Debug)]
pub struct Tape {
    mode: Mode,
    entries: Vec<Entry>,
}

/// What becomes of a tensor that is saved.
#[derive(Debug)]
enum Mode {
    Keep,
    /// Only counted: a checkpointed layer saves its input and nothing else.
    Count(usize),
    /// Kept until there are as many as were counted: then nothing is left to compute.
    Replay(Option<usize>),
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) tensor: Tensor,
    /// For the input of a checkpointed layer: how many tensors the layer would have saved, if that is known.
    pub(crate) saves: Option<usize>,
}

impl Default for Tape {
    fn default() -> Self {
        Tape { mode: Mode::Keep, entries: Vec::new() }
    }
}

impl Tape {
    /// A tape that keeps nothing.
    pub(crate) fn counting() -> Self {
        Tape { mode: Mode::Count(0), entries: Vec::new() }
    }

    /// A tape for computing again what a layer saves.
    pub(crate) fn replaying(saves: Option<usize>) -> Self {
        Tape { mode: Mode::Replay(saves), entries: Vec::new() }
    }

    /// How many tensors a counting tape was given.
    pub(crate) fn counted(&self) -> Option<usize> {
        match self.mode {
            Mode::Count(saves) => Some(saves),
            Mode::Keep | Mode::Replay(_) => None,
        }
    }

    /// Keeps a tensor for backward.
    ///
    /// # Errors
    /// [`ModelError::Recomputed`] when that was the last one that a replay was for: pass it on.
    pub fn save(&mut self, tensor: &Tensor) -> Result<(), ModelError> {
        if let Mode::Count(saves) = &mut self.mode {
            *saves += 1;
            return Ok(());
        }
        self.entries.push(Entry { tensor: tensor.clone(), saves: None });
        match self.mode {
            Mode::Replay(Some(saves)) if saves == self.entries.len() => Err(ModelError::Recomputed),
            _ => Ok(()),
        }
    }

    /// Notes what the layer would have saved whose input is the last entry.
    pub(crate) fn note(&mut self, saves: Option<usize>) {
        if let Some(entry) = self.entries.last_mut() {
            entry.saves = saves;
        }
    }

    /// Takes the tensor that was saved last.
    ///
    /// # Errors
    /// [`ModelError::NothingSaved`].
    pub fn take(&mut self) -> Result<Tensor, ModelError> {
        self.entry().map(|entry| entry.tensor)
    }

    pub(crate) fn entry(&mut self) -> Result<Entry, ModelError> {
        self.entries.pop().ok_or(ModelError::NothingSaved)
    }

    /// Whether nothing is left on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
