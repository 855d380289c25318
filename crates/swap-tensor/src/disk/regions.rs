//! Memory that is to be registered with every ring.

use super::io::Region;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

/// Memory to be registered with each ring.
#[derive(Default)]
pub(super) struct Regions {
    regions: Mutex<Vec<Arc<Region>>>,
    /// How many there are: what a ring looks at each time round.
    count: AtomicUsize,
}

impl Regions {
    pub(super) fn add(&self, region: Region) {
        let mut regions = super::lock(&self.regions);
        regions.push(Arc::new(region));
        self.count.store(regions.len(), Ordering::Release);
    }

    /// Those from number `known` on.
    #[cfg(target_os = "linux")]
    pub(super) fn since(&self, known: usize) -> Vec<Arc<Region>> {
        match self.count.load(Ordering::Acquire) > known {
            true => super::lock(&self.regions)[known..].to_vec(),
            false => Vec::new(),
        }
    }
}
