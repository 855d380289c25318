//! The host memory of a pool: its tier and its staging, from the first device's locker.

use crate::SwapError;
use pinned_host::{HostRegion, LockPolicy, PageLocker, RegionOf, StagingConfig, StagingRing, Transfer};

/// Bytes of host memory by kind.
pub(crate) struct Split {
    pub(crate) locked: u64,
    pub(crate) pageable: u64,
}

impl Split {
    pub(crate) fn add(&mut self, region: &impl HostRegion) {
        let sum = if region.is_locked() { &mut self.locked } else { &mut self.pageable };
        *sum += region.len() as u64;
    }
}

/// The host tier: locked if `lockable` covers it, pageable otherwise, and locked all the same where the device reaches
/// nothing else. As few regions as the locker allows; a tensor lies in one of them.
pub(crate) fn tier<L: PageLocker>(
    locker: &L,
    bytes: u64,
    lockable: u64,
) -> Result<Vec<L::Region>, SwapError> {
    let pages = bytes.checked_next_multiple_of(PAGE).and_then(|len| usize::try_from(len).ok());
    let Some(mut rest) = pages else {
        return Err(SwapError::Config {
            what: "host memory",
            why: format!("{bytes} bytes are more than can be addressed"),
        });
    };
    let most = (locker.max_region() / PAGE as usize * PAGE as usize).max(PAGE as usize);
    let mut lock = bytes <= lockable;
    let mut regions = Vec::new();
    while rest > 0 {
        let len = rest.min(most);
        let locked = if lock { locker.lock(len).ok() } else { None };
        lock = locked.is_some();
        let region = match locked {
            Some(region) => region,
            None => {
                let pageable = locker.pageable(len).unwrap_or_else(|| locker.lock(len));
                pageable.map_err(|e| host_error("the host tier", e))?
            }
        };
        regions.push(region);
        rest -= len;
    }
    Ok(regions)
}

/// The staging ring: what was asked for, or the default as far as the lock limit goes.
///
/// Beside a disk tier a page more each way: a byte of it keeps the memory registered for as long as its I/O may go on.
pub(crate) fn stage<T: Transfer>(
    device: &T,
    wished: Option<u64>,
    beside_disk: bool,
) -> Result<StagingRing<RegionOf<T>>, SwapError> {
    let (bytes, lock) = match wished {
        Some(bytes) => (bytes, LockPolicy::Required),
        None => (STAGING, LockPolicy::WithinAllowance),
    };
    let side = usize::try_from(bytes / 2 / PAGE * PAGE).unwrap_or(usize::MAX);
    if side == 0 {
        return Err(SwapError::Config {
            what: "staging",
            why: format!("{bytes} bytes are less than {PAGE} each way"),
        });
    }
    let side = side.saturating_add(if beside_disk { PAGE as usize } else { 0 });
    StagingConfig { read: side, write: side, lock }
        .build(device.locker())
        .map_err(|e| host_error("staging", e))
}

pub(crate) fn host_error(
    purpose: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> SwapError {
    SwapError::Host { purpose, source: Box::new(source) }
}

/// Default staging, both directions together.
const STAGING: u64 = 16 << 20;
/// Granularity of host memory.
pub(crate) const PAGE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use pinned_host::{HostError, OsLocker, OsRegion};

    /// The system's memory, 8 KiB at most in one piece, as on a device that bounds an allocation.
    struct Bounded {
        pageable: bool,
    }

    impl PageLocker for Bounded {
        type Region = OsRegion;
        type Error = HostError;

        fn lock(&self, bytes: usize) -> Result<OsRegion, HostError> {
            assert!(bytes <= self.max_region());
            OsLocker.lock(bytes)
        }

        fn max_region(&self) -> usize {
            8192 + 100
        }

        fn pageable(&self, bytes: usize) -> Option<Result<OsRegion, HostError>> {
            assert!(bytes <= self.max_region());
            self.pageable.then(|| OsLocker.pageable(bytes)).flatten()
        }
    }

    fn lengths(pageable: bool, bytes: u64, lockable: u64) -> Vec<(usize, bool)> {
        let regions = tier(&Bounded { pageable }, bytes, lockable).unwrap();
        regions.iter().map(|region| (region.len(), region.is_locked())).collect()
    }

    #[test]
    fn a_tier_larger_than_a_region_takes_several() {
        assert_eq!(lengths(true, 20_000, 0), [(8192, false), (8192, false), (4096, false)]);
        assert_eq!(lengths(true, 8192, u64::MAX), [(8192, true)]);
        assert_eq!(lengths(false, 10_000, 0), [(8192, true), (4096, true)]);
        assert!(tier(&OsLocker, u64::MAX, 0).is_err());
    }
}
