//! The disk tier of a run, or the news that this build has none.

use crate::error::CliError;
use crate::size::Size;
use pinned_host::Transfer;
use std::path::Path;
use swap_tensor::PoolBuilder;

/// A store in a directory, for as long as the run lasts.
#[cfg(all(feature = "disk", unix))]
pub(crate) struct Tier(swap_tensor::disk::DiskStore);

#[cfg(all(feature = "disk", unix))]
impl Tier {
    /// With room for all of the model, and for what is written anew before the old copy goes.
    ///
    /// # Errors
    /// The directory cannot be used, or has too little room.
    pub(crate) fn open(directory: &Path, needed: Size) -> Result<Self, CliError> {
        let room = needed.0.saturating_add(needed.0 / 4).saturating_add(SPARE);
        let opened = swap_tensor::disk::DiskConfig::new(directory, room).open();
        opened.map(Tier).map_err(|error| CliError::Usage(crate::error::chain(&error)))
    }

    /// How it is read and written.
    pub(crate) fn path(&self) -> String {
        self.0.path().drives.first().map(ToString::to_string).unwrap_or_default()
    }

    pub(crate) fn add_to<T: Transfer>(&self, builder: PoolBuilder<T>) -> PoolBuilder<T> {
        builder.disk(self.0.clone())
    }
}

/// Bytes beyond the model, so that many small tensors find room as well.
#[cfg(all(feature = "disk", unix))]
const SPARE: u64 = 64 << 20;

/// There is none.
#[cfg(not(all(feature = "disk", unix)))]
pub(crate) enum Tier {}

#[cfg(not(all(feature = "disk", unix)))]
impl Tier {
    pub(crate) fn open(_: &Path, _: Size) -> Result<Self, CliError> {
        Err(CliError::Usage("--disk: this build has no disk tier (feature `disk`, on Unix)".to_owned()))
    }

    pub(crate) fn path(&self) -> String {
        match *self {}
    }

    pub(crate) fn add_to<T: Transfer>(&self, _: PoolBuilder<T>) -> PoolBuilder<T> {
        match *self {}
    }
}
