//! What a device tells a tracker: which module is at work, and what for.

use crate::{Category, ModelError, Parameter, Tensor};
use mem_tracker::{Scope, StorageId, TrackError, Tracker, Watch};

/// A tracker, and its watch on the device's arena.
#[derive(Debug)]
pub(crate) struct Tracking {
    tracker: Tracker,
    watch: Watch,
}

impl Tracking {
    pub(crate) fn new(tracker: &Tracker, name: &str, size: u64) -> Result<Self, TrackError> {
        let watch = tracker.device(name)?.watch(size)?;
        Ok(Tracking { tracker: tracker.clone(), watch })
    }

    pub(crate) fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    pub(crate) fn retag(&self, tensor: &Tensor, category: Category) -> Result<(), ModelError> {
        Ok(self.tracker.retag(self.storage(tensor)?, category)?)
    }

    /// A forward pass of a module, also one that computes again.
    pub(crate) fn forward(
        &self,
        module: &str,
        parameters: &[Parameter],
        input: &Tensor,
    ) -> Result<Scope, ModelError> {
        let module = self.tracker.module(module)?;
        let storages = parameters.iter().map(|parameter| self.storage(parameter.value()));
        module.parameters(&storages.collect::<Result<Vec<_>, _>>()?)?;
        Ok(module.forward_of(&[self.storage(input)?])?)
    }

    /// Ends a forward pass, whatever it came to.
    pub(crate) fn end(&self, scope: Scope, output: &Result<Tensor, ModelError>) -> Result<(), ModelError> {
        match output {
            Ok(output) => scope.end(&[self.storage(output)?])?,
            // Nothing is left to compute: the pass was made.
            Err(ModelError::Recomputed) => drop(scope),
            Err(_) => scope.abandon(),
        }
        Ok(())
    }

    pub(crate) fn backward(&self, module: &str) -> Result<Scope, ModelError> {
        Ok(self.tracker.module(module)?.backward())
    }

    fn storage(&self, tensor: &Tensor) -> Result<StorageId, TrackError> {
        self.watch.storage(tensor.handle())
    }
}
