//! What the three tests promise on any device. One call of `models_suite!` is a device's tests.

use crate::suite::count::{Count, Row};
pub(crate) use crate::suite::{ATTRIBUTION, CHECKPOINTED, Case, EQUIVALENCE, PLAIN, tracker};
use crate::suite::{FULL, Run};
use allocator_core::Arena;
use mem_tracker::Usage;
use pinned_host::Transfer;
use swap_models::Device;

/// The same with a batch 32 times smaller, for devices with real memory: activations shrink by that, parameters do not.
pub(crate) const FULL_OF_A_SMALL_BATCH: Case = Case { rows: &[4, 1024], ..FULL };

/// The three tests on a device, each on a fresh one; the turn is taken before it and ends after it.
macro_rules! models_suite {
    ($turn:expr, $device:expr) => {
        $crate::devices::models_suite!(@each allocates $turn, $device,
            attribution ATTRIBUTION
            equivalence EQUIVALENCE
            checkpointing CHECKPOINTED
            checkpointing_without_checkpoints PLAIN
            checkpointing_at_full_width FULL_OF_A_SMALL_BATCH
        );

        #[test]
        fn numbers_survive_moves() {
            let _turn = $turn;
            $crate::devices::numbers_survive_moves($device);
        }
    };
    (@each $way:ident $turn:expr, $device:expr, $($test:ident $case:ident)*) => {
        $(
            #[test]
            fn $test() {
                let _turn = $turn;
                $crate::devices::$way(&$crate::devices::$case, $device);
            }
        )*
    };
}
pub(crate) use models_suite;

/// The case in the device's memory, without arithmetic.
pub(crate) fn allocates<T: Transfer>(case: &Case, device: T) {
    let arena = Arena::new(device.buffer(case.room()).unwrap()).unwrap();
    agrees_with_count(&case.run(&Device::allocating(arena), &tracker()), case);
}

/// In an arena with room for the peak and next to nothing more, blocks move and every number stays what it was.
pub(crate) fn numbers_survive_moves<T: Transfer>(device: T) {
    let case = Case { width: 16, rows: &[3, 5], ..CHECKPOINTED };
    let roomy = Device::computing(backend_cpu::CpuDevice::new().unwrap(), 1 << 20).unwrap();
    let tight = Device::computing(device, case.tight()).unwrap();
    let expected = case.run(&roomy, &tracker()).losses;
    assert_eq!(case.run(&tight, &tracker()).losses, expected);
    assert_eq!(roomy.stats().moves, 0);
    assert!(tight.stats().moves > 0, "{:?}", tight.stats());
}

/// Compares with what was counted, in bytes that were asked for.
pub(crate) fn agrees_with_count(run: &Run, case: &Case) {
    let count = Count { case, rounding: 1 };
    let requested = |usage: &Usage| Row::of(|category| usage.requested(category));
    let marks: Vec<_> = run.marks.iter().map(|(label, usage)| (label.clone(), requested(usage))).collect();
    assert_eq!(marks, count.marks());
    assert_eq!(requested(&run.peak), count.peak());
}
