//! PyTorch's statistics of a device, under its names.

use std::collections::BTreeMap;

use crate::book::DeviceBook;
use crate::counts::{Count, Stat, Three};

/// A device in PyTorch's figures: those that mean something for arenas and storages.
///
/// There are no streams here that a freed block waits for, so what is `active` is what is allocated. Free bytes of an arena are
/// never in the way of others, because blocks move: PyTorch's `inactive_split` counts no such bytes either (it leaves expandable
/// segments out), so those keys, the sizes of segments above a limit, and CUDA's retries are not here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Live storages with bytes.
    pub allocation: Pools,
    /// Bytes they occupy.
    pub allocated_bytes: Pools,
    /// Bytes that were asked for of those.
    pub requested_bytes: Pools,
    /// Watched arenas. Among PyTorch's keys they are of the large pool, from which also storages of at most 1 MiB are taken here.
    pub segment: Stat,
    /// Bytes they span.
    pub reserved_bytes: Stat,
    /// Calls of [`Watch::out_of_memory`](crate::Watch::out_of_memory).
    pub num_ooms: u64,
    /// Blocks that moved in arenas. PyTorch has no such figure.
    pub num_moves: u64,
    /// Bytes they moved.
    pub moved_bytes: u64,
}

/// A figure for all storages, for those above 1 MiB, and for the others: PyTorch's pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Pools {
    /// All storages.
    pub all: Stat,
    /// Those above 1 MiB.
    pub large_pool: Stat,
    /// Those of at most 1 MiB.
    pub small_pool: Stat,
}

impl MemoryStats {
    /// The figures under PyTorch's keys, sorted: `allocated_bytes.all.peak`, `num_ooms`.
    #[must_use]
    pub fn map(&self) -> BTreeMap<String, u64> {
        let mut map = BTreeMap::new();
        for (key, pools) in [
            ("allocation", &self.allocation),
            ("allocated_bytes", &self.allocated_bytes),
            ("requested_bytes", &self.requested_bytes),
            ("active", &self.allocation),
            ("active_bytes", &self.allocated_bytes),
            ("segment", &arenas(self.segment)),
            ("reserved_bytes", &arenas(self.reserved_bytes)),
        ] {
            put(&mut map, key, "all", &pools.all);
            put(&mut map, key, "large_pool", &pools.large_pool);
            put(&mut map, key, "small_pool", &pools.small_pool);
        }
        map.insert("num_ooms".to_owned(), self.num_ooms);
        map
    }
}

pub(crate) fn collect(device: &DeviceBook) -> MemoryStats {
    let counts = &device.counts;
    let pools = |of: fn(&Three) -> Count| Pools {
        all: of(&counts.all).stat(),
        large_pool: of(&counts.large).stat(),
        small_pool: of(&counts.small).stat(),
    };
    MemoryStats {
        allocation: pools(|three| three.count),
        allocated_bytes: pools(|three| three.allocated),
        requested_bytes: pools(|three| three.requested),
        segment: counts.segments.stat(),
        reserved_bytes: counts.reserved.stat(),
        num_ooms: counts.ooms,
        num_moves: counts.moves,
        moved_bytes: counts.moved_bytes,
    }
}

/// Arenas by pool: PyTorch's segments have the size of an arena only in the large one.
pub(crate) fn arenas(all: Stat) -> Pools {
    Pools { all, large_pool: all, small_pool: Stat::default() }
}

fn put(map: &mut BTreeMap<String, u64>, key: &str, pool: &str, stat: &Stat) {
    for (metric, value) in
        [("current", stat.current), ("peak", stat.peak), ("allocated", stat.allocated), ("freed", stat.freed)]
    {
        map.insert(format!("{key}.{pool}.{metric}"), value);
    }
}
