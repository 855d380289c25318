//! Operations, computed before anything is timed.

use crate::engine::{Engine, Seat, Setup};
use crate::rng::{Rng, log_uniform};

/// A block is freed and another takes its seat.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) seat: u32,
    pub(crate) bytes: u32,
}

/// A number of blocks, and then pairs of one `free` and one `alloc` among them.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) setup: Setup,
    pub(crate) fill: Vec<u32>,
    pub(crate) pairs: Vec<Pair>,
}

/// Lengths between two bounds, uniform in the logarithm, on the unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lengths {
    pub(crate) low: u64,
    pub(crate) high: u64,
    pub(crate) unit: u64,
}

impl Lengths {
    pub(crate) fn next(&self, rng: &mut Rng) -> u32 {
        // Lengths of all rows are far below 4 GiB.
        log_uniform(rng, self.low, self.high, self.unit) as u32
    }
}

impl Stream {
    /// `live` blocks and `pairs` pairs; a capacity of `None` is twice the first blocks and 4 MiB.
    pub(crate) fn new(
        seed: u64,
        lengths: Lengths,
        live: usize,
        pairs: usize,
        capacity: Option<u64>,
    ) -> Stream {
        let mut rng = Rng::new(seed);
        let fill: Vec<u32> = (0..live).map(|_| lengths.next(&mut rng)).collect();
        let pairs = (0..pairs)
            .map(|_| Pair { seat: rng.below(live) as u32, bytes: lengths.next(&mut rng) })
            .collect();
        let twice = || fill.iter().map(|bytes| u64::from(*bytes)).sum::<u64>() * 2 + (4 << 20);
        let setup = Setup { capacity: capacity.unwrap_or_else(twice), unit: lengths.unit, live };
        Stream { setup, fill, pairs }
    }
}

/// Puts a block on every seat; the number of requests that failed.
pub(crate) fn fill<E: Engine>(engine: &mut E, seats: &mut [Seat<E::Ticket>], lengths: &[u32]) -> u64 {
    let mut failed = 0;
    for (seat, bytes) in seats.iter_mut().zip(lengths) {
        seat.0 = engine.alloc((*bytes).into());
        failed += u64::from(seat.0.is_none());
    }
    failed
}

/// Runs the pairs; the number of requests that failed. This is the loop that is timed.
pub(crate) fn play<E: Engine>(engine: &mut E, seats: &mut [Seat<E::Ticket>], pairs: &[Pair]) -> u64 {
    let mut failed = 0;
    for pair in pairs {
        let seat = &mut seats[pair.seat as usize];
        if let Some(ticket) = seat.0.take() {
            engine.free(ticket);
        }
        seat.0 = engine.alloc(pair.bytes.into());
        failed += u64::from(seat.0.is_none());
    }
    failed
}
