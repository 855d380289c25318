//! When each fetch can begin: as early as nobody is evicted for it who would have been used before.

use super::{
    profile::Profile,
    simulate::{Simulation, signed},
};
use core::ops::Range;

/// A fetch and when it may begin.
#[derive(Debug, Clone)]
pub(super) struct Timed {
    /// It may begin once so many events of its step are over; negative: so many before the step's beginning.
    pub(super) start: i64,
    /// The lease it is for.
    pub(super) use_at: u32,
    /// Its victims, in the list beside.
    pub(super) victims: Range<u32>,
}

/// The fetches of the second simulated step, by when they can start, and the names of all their victims.
///
/// The device is as full after each event as the simulation found it. A fetch that begins after event `s`
/// adds its bytes from `s` to its lease; each of its victims takes its own off from after its last use. The
/// fetches are placed in the order of their leases, each as early as the device is never too full, so an
/// early one never delays one that is needed before. O(n log n).
pub(super) fn time(simulation: &Simulation<'_>, events: usize, device_bytes: u64) -> (Vec<Timed>, Vec<u32>) {
    let mut profile = Profile::new(&simulation.occupancy);
    let (mut fetches, mut names) = (Vec::new(), Vec::new());
    for miss in &simulation.misses {
        let victims = &simulation.victims[miss.victims.clone()];
        for victim in victims {
            profile.add(victim.used + 1..miss.at, -signed(victim.bytes));
        }
        let room = signed(device_bytes) - signed(miss.bytes);
        let full = profile.last_above(miss.since..miss.at, room);
        let start = full.map_or(miss.since, |full| full + 1);
        // They leave when the fetch begins, not before.
        for victim in victims.iter().filter(|victim| victim.used + 1 < start) {
            profile.add(victim.used + 1..start, signed(victim.bytes));
        }
        profile.add(start..miss.at, signed(miss.bytes));
        if let (true, Some(use_at)) = (start < miss.at, miss.at.checked_sub(events)) {
            let first = names.len() as u32;
            names.extend(victims.iter().map(|victim| victim.name));
            let victims = first..names.len() as u32;
            fetches.push(Timed { start: start as i64 + 1 - events as i64, use_at: use_at as u32, victims });
        }
    }
    fetches.sort_by_key(|fetch| (fetch.start, fetch.use_at));
    (fetches, names)
}
