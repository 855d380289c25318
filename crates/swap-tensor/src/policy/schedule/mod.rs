//! Replay of a recorded step: evict what is needed farthest ahead, fetch just in time.
//!
//! A program that repeats itself, a training loop say, marks where each step begins. The leases of one step
//! are recorded ([`Recording`]), by the tensors' *names*, since temporaries are made anew under the same
//! names in every step. From them a [`Schedule`] is computed once, by simulating the step: whom to evict is
//! whoever is needed farthest ahead (Belady's MIN), and each fetch begins as early as its victims allow.
//! [`Scheduled`] then walks along while the program runs.
//!
//! # Positions
//! The recorded step is a list of *events*: creations, leases and drops. A position is an index into it;
//! position `p` of the next step is `n + p`. What lives on is next used at its first lease of the next step.
//!
//! A tensor whose next event is its drop goes as if it were needed then, or before all others, whichever moves
//! fewer bytes in the simulation: copying it down buys room only until it would have gone by itself, and costs
//! half of what a tensor costs that must come back.
//!
//! # When a program is in order
//! It never repeats itself to the letter: threads overtake one another, a gradient is looked at for the log.
//! - A lease of a tensor the recording does not know changes nothing.
//! - A lease that the recording has, at most 32 events before or after the place the program has come to, is
//!   in order: it is late, or repeated, or early, and then the place moves on to it. What was passed over is
//!   taken to be needed at once until it is 32 events behind.
//! - A lease of a known tensor elsewhere is *stray*. Four in a row, without a lease in order between, are let
//!   pass; with the next one the order is *lost*: the inner policy rules at once and nothing more is fetched
//!   ahead until the next mark.
//! - How a tensor is leased, and its size, may differ from the recording: the bytes foretold are wrong then,
//!   and a fetch may come late.
//!
//! # Which schedule
//! Every step is recorded, so that one that loses the order yields a schedule of its own at the next mark.
//! The one before is kept beside it and followed in the background: when the order of one is lost and the
//! other's is not, they change places at once. So an evaluation now and then costs the training steps
//! nothing. A step that is cut short keeps its schedule; the second one in a row makes a new one. So does a
//! step of which more than a sixteenth was not foreseen: the first step often makes what the later ones find.
//!
//! Sources: L. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems
//! Journal 5(2), 1966; P. Cao, E. Felten, A. Karlin, K. Li, "A study of integrated prefetching and caching
//! strategies", SIGMETRICS 1995, whose *conservative* strategy (the evictions of MIN, each fetch at the first
//! opportunity) this is for tensors of any size; the warm-up step of PatrickStar.

mod agenda;
mod bits;
mod fetches;
mod index;
mod plan;
mod profile;
mod recorder;
mod recording;
mod scheduled;
mod simulate;
mod timing;
mod track;

pub use plan::{PlannedFetch, Schedule};
pub use recorder::Draft;
pub use recording::{Recording, Use};
pub use scheduled::{Fetch, Scheduled, State};
