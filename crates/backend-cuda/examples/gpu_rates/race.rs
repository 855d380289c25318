//! Rounds in which peers alternate, so that a slow moment of the machine strikes all of them.

use std::error::Error;
use std::time::Instant;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// What a peer is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Sets up a pass, untimed. If it will be `checked`, so that only a right pass leaves what the check wants.
    Prepare {
        /// Whether [`Step::Verify`] follows the pass.
        checked: bool,
    },
    /// Does the work and waits for its end, timed.
    Pass,
    /// Compares what the pass left, untimed.
    Verify,
}

/// Lets `N` peers take turns: a round to warm up, then `rounds` timed ones, of which the last is verified. `run` is told which
/// peer's turn it is. Returns the median of each peer in seconds.
///
/// # Errors
/// What `run` says.
pub(crate) fn race<const N: usize>(
    rounds: usize,
    mut run: impl FnMut(usize, Step) -> Outcome<()>,
) -> Outcome<[f64; N]> {
    let mut times = [const { Vec::new() }; N];
    for round in 0..=rounds {
        let checked = round == rounds;
        for (peer, times) in times.iter_mut().enumerate() {
            run(peer, Step::Prepare { checked })?;
            let start = Instant::now();
            run(peer, Step::Pass)?;
            let took = start.elapsed().as_secs_f64();
            if round > 0 {
                times.push(took);
            }
            if checked {
                run(peer, Step::Verify)?;
            }
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}
