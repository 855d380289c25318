//! Recorded training steps: a followed schedule moves no more than farthest-next-use, give or take a
//! twentieth.
//!
//! The example `schedule_bytes` prints the figures.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

#[path = "../examples/schedule_bytes/oracle.rs"]
mod oracle;
#[path = "../examples/schedule_bytes/simulator.rs"]
mod simulator;
#[path = "../examples/schedule_bytes/trace.rs"]
mod trace;

use oracle::{End, oracle};
use simulator::{Bytes, STEADY, Simulator};
use swap_tensor::policy::Lru;
use trace::{Trace, Writes};

#[test]
fn a_schedule_moves_what_farthest_next_use_moves() {
    let files = trace::files();
    if files.is_empty() {
        eprintln!("SKIPPED: no access traces beside the repository (shared/data/access)");
    }
    for file in files {
        for writes in [Writes::InPlace, Writes::First, Writes::All] {
            let trace = Trace::read(&file, writes).unwrap();
            let [never, at_drop] = [End::Never, End::AtDrop].map(|end| steady(&oracle(&trace, end)));
            let best = never.total().min(at_drop.total());
            let run = |look_ahead| Simulator::new(&trace, Box::new(Lru::default()), look_ahead).run(true);
            let demanded = steady(&run(0)).waits;
            assert!(demanded > 100, "{}: it must swap to mean something", trace.name);
            for look_ahead in [0, 256 << 20, u64::MAX] {
                let (steps, name) = (run(look_ahead), &trace.name);
                let (total, waits) = (steady(&steps).total(), steady(&steps).waits);
                assert!(total <= best + best / 20, "{name} {writes:?} {look_ahead}: {total} of {best}");
                match look_ahead {
                    0 => assert_eq!(waits, demanded),
                    u64::MAX => assert_eq!(waits, 0, "{name} {writes:?}"),
                    _ => assert!(waits * 5 < demanded, "{name} {writes:?}: {waits} of {demanded}"),
                }
            }
        }
    }
}

fn steady(steps: &[Bytes]) -> Bytes {
    steps[STEADY].iter().copied().sum()
}
