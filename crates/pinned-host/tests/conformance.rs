//! The suites, run on a device of their own: eager, and lazy as only an adversary is.

#![cfg(feature = "conformance")]

mod toy;

use pinned_host::conformance::{Harness, hazard, queue, staged};
use std::panic::{AssertUnwindSafe, catch_unwind};
use toy::Toy;

mod eager {
    use super::*;
    const EAGER: Toy = Toy { lazy: false, deaf: false, grain: 1 };
    pinned_host::transfer_suite!(EAGER);
    pinned_host::queue_suite!(EAGER);
    pinned_host::hazard_suite!(EAGER);
    pinned_host::staging_suite!(EAGER);
    pinned_host::staged_suite!(EAGER);
    pinned_host::locker_suite!(EAGER);
}

mod lazy {
    use super::*;
    const LAZY: Toy = Toy { lazy: true, deaf: false, grain: 4 };
    pinned_host::transfer_suite!(LAZY);
    pinned_host::queue_suite!(LAZY);
    pinned_host::hazard_suite!(LAZY);
    pinned_host::staging_suite!(LAZY);
    pinned_host::staged_suite!(LAZY);
    pinned_host::locker_suite!(LAZY);
}

/// A device that ignores waits breaks each story; a suite that did not notice would prove nothing.
#[test]
fn a_device_that_ignores_waits_is_caught() {
    type Promise = fn(&Toy);
    let deaf = Toy { lazy: true, deaf: true, grain: 1 };
    let promises: [(&str, Promise); 8] = [
        ("a_wait_orders_two_queues", queue::a_wait_orders_two_queues),
        ("upload_move_download", hazard::upload_move_download),
        ("overlapping_moves", hazard::overlapping_moves),
        ("moves_together_are_one_operation", hazard::moves_together_are_one_operation),
        ("room_is_reused_after_its_readers", hazard::room_is_reused_after_its_readers),
        ("a_vacated_source_is_written_after_the_move", hazard::a_vacated_source_is_written_after_the_move),
        ("random_programs", hazard::random_programs),
        ("it_keeps_its_place", staged::it_keeps_its_place),
    ];
    for (name, promise) in promises {
        assert!(catch_unwind(AssertUnwindSafe(|| promise(&deaf))).is_err(), "{name} held without waits");
    }
}

/// What a harness cannot do is skipped, not failed.
#[test]
fn a_plain_harness_passes_by_skipping() {
    struct Plain;
    impl Harness for Plain {
        type Device = toy::Device;
        fn device(&self) -> toy::Device {
            Toy { lazy: false, deaf: false, grain: 1 }.device()
        }
        fn other_device(&self) -> Option<toy::Device> {
            None
        }
    }
    queue::an_event_of_another_device_is_refused(&Plain);
    queue::a_failed_record_is_an_error_and_no_more(&Plain);
    queue::a_lost_device_fails_its_queues(&Plain);
}
