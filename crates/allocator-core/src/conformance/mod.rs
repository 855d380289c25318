//! The suites every backend must pass, as code: one public function per promise (feature `conformance`).
//!
//! A backend writes a [`Harness`] and calls the suites, each in a module of its own:
//!
//! ```
//! use allocator_core::conformance::{Harness, VecBuffer};
//!
//! struct HostMemory;
//!
//! impl Harness for HostMemory {
//!     type Buffer = VecBuffer;
//!     fn make(&mut self, size: u64) -> VecBuffer {
//!         VecBuffer::new(size as usize)
//!     }
//!     fn write(&mut self, buffer: &mut VecBuffer, at: u64, bytes: &[u8]) {
//!         buffer.write(at, bytes).unwrap();
//!     }
//!     fn read(&mut self, buffer: &VecBuffer, at: u64, len: u64) -> Vec<u8> {
//!         buffer.read(at..at + len).unwrap().to_vec()
//!     }
//! }
//!
//! mod device_buffer {
//!     allocator_core::device_buffer_suite!(super::HostMemory);
//! }
//! mod arena {
//!     allocator_core::arena_suite!(super::HostMemory);
//! }
//! # allocator_core::conformance::device_buffer::copy_of_one_grain_distance(&mut HostMemory);
//! ```
//!
//! Each macro takes an expression for a fresh harness and expands into one `#[test]` per promise, named
//! after it. The expression stands inside the test's function: where a backend is absent it may `return`.
//!
//! What the suites cannot see: whether a copy is ordered against work on other queues. The harness waits
//! for everything before it reads, so a missing wait hides. The simulated device finds those.

#![expect(clippy::panic, reason = "a suite fails by panicking")]

pub mod arena;
pub mod device_buffer;
pub mod remap;
mod vec_buffer;

use alloc::vec::Vec;

use crate::{DeviceBuffer, RangeError};

pub use vec_buffer::VecBuffer;

/// Makes a backend's buffers for the suites and reads and writes them, waiting for whatever is in flight.
///
/// A harness may panic: it runs in tests.
pub trait Harness {
    /// The buffer under test.
    type Buffer: DeviceBuffer;

    /// A buffer of at least `size` bytes; how large exactly is the backend's choice.
    fn make(&mut self, size: u64) -> Self::Buffer;

    /// Writes `bytes` at offset `at`, after everything enqueued before, and returns when they are there. The
    /// suites write whole grains only.
    fn write(&mut self, buffer: &mut Self::Buffer, at: u64, bytes: &[u8]);

    /// Reads `len` bytes at offset `at`, after everything enqueued before. The suites read whole grains only.
    fn read(&mut self, buffer: &Self::Buffer, at: u64, len: u64) -> Vec<u8>;

    /// Bytes of the largest piece the backend copies at once (its bounce buffer), so that a copy beyond it
    /// is tried; 0 when there is none.
    fn bounce(&self) -> u64 {
        0
    }
}

/// Expands into one `#[test]` per promise of [`DeviceBuffer`](crate::DeviceBuffer); see
/// [`conformance`](crate::conformance).
#[macro_export]
macro_rules! device_buffer_suite {
    ($harness:expr) => {
        $crate::__suite! { $harness; device_buffer;
            size_and_grain,
            copy_of_distance_zero,
            copy_of_one_grain_distance,
            copy_of_distance_shorter_than_length,
            copy_of_distance_equal_to_length,
            copy_of_distance_longer_than_length,
            copy_beyond_the_bounce_buffer,
            copy_of_nothing,
            copies_take_effect_in_order,
            copies_together_take_effect_in_order,
            copies_together_end_where_one_is_refused,
            copies_together_may_be_of_nothing,
            copy_works_behind_dyn,
            copy_out_of_bounds_is_refused,
            copy_that_overflows_is_refused,
            copy_of_inverted_range_is_refused,
            copy_off_the_grain_is_refused,
            view_within_bounds,
            view_out_of_bounds_is_refused,
            view_that_overflows_is_refused,
            view_of_inverted_range_is_refused,
            view_off_the_grain_is_refused,
        }
    };
}

/// Expands into one `#[test]` per promise of [`Arena`](crate::Arena) over a backend's buffer; see
/// [`conformance`](crate::conformance).
#[macro_export]
macro_rules! arena_suite {
    ($harness:expr) => {
        $crate::__suite! { $harness; arena;
            fragmented_room_is_made_by_moving,
            minimal_compaction_moves_no_more_than_needed,
            slide_down_leaves_one_hole,
            never_means_never,
            parameters_follow_their_block,
            out_of_memory_is_typed_and_changes_nothing,
            leased_blocks_stay_where_they_are,
            plans_survive_changes_between_moves,
            refused_copies_commit_nothing,
            plans_are_carried_out_together,
            a_plan_ends_where_a_copy_is_refused,
            compaction_keeps_to_its_budget,
            views_cover_the_block,
            churn_loses_no_byte,
        }
    };
}

/// Expands into one `#[test]` per promise of [`Remap`](crate::Remap); see
/// [`conformance`](crate::conformance).
#[macro_export]
macro_rules! remap_suite {
    ($harness:expr) => {
        $crate::__suite! { $harness; remap;
            granule_is_a_power_of_two_of_grains,
            whole_granules_move_up_and_down,
            neighbouring_granules_move,
            copies_work_after_a_remap,
            ragged_moves_are_remapped_and_copied,
            arena_that_remaps_loses_no_byte,
            off_the_granule_is_refused,
            overlap_is_refused,
            out_of_bounds_is_refused,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __suite {
    ($harness:expr; $suite:ident; $($promise:ident,)*) => {$(
        #[test]
        fn $promise() {
            let mut harness = $harness;
            $crate::conformance::$suite::$promise(&mut harness);
        }
    )*};
}

/// A buffer of at least `GRAINS` grains, and its grain.
fn fresh<H: Harness>(harness: &mut H) -> (H::Buffer, u64) {
    let buffer = harness.make(4 * GRAINS);
    let grain = buffer.grain();
    if buffer.size() >= GRAINS * grain { (buffer, grain) } else { (harness.make(GRAINS * grain), grain) }
}

/// Grains in a test's buffer; few under miri, which is slow.
const GRAINS: u64 = if cfg!(miri) { 64 } else { 256 };

/// `len` bytes that differ from their neighbours and from those of another `seed`.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let byte = |at: u64| ((at ^ seed << 32).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
    (0..len).map(byte).collect()
}

/// The range error behind a backend's error, if it keeps one as its source.
fn range_error(error: &(dyn core::error::Error + 'static)) -> Option<RangeError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(range) = error.downcast_ref::<RangeError>() {
            return Some(*range);
        }
        next = error.source();
    }
    None
}

/// Asserts that a refusal, where it names a range, names the rule that `check_range` does.
fn assert_names_rule(error: &(dyn core::error::Error + 'static), expected: Result<(), RangeError>) {
    if let Some(found) = range_error(error) {
        assert_eq!(Err(found), expected, "the backend's error names another rule");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct HostMemory {
        grain: u64,
    }

    impl Harness for HostMemory {
        type Buffer = VecBuffer;

        fn make(&mut self, size: u64) -> VecBuffer {
            VecBuffer::with_grain(size.next_multiple_of(16 * self.grain) as usize, self.grain)
        }

        fn write(&mut self, buffer: &mut VecBuffer, at: u64, bytes: &[u8]) {
            buffer.write(at, bytes).unwrap();
        }

        fn read(&mut self, buffer: &VecBuffer, at: u64, len: u64) -> Vec<u8> {
            buffer.read(at..at + len).unwrap().to_vec()
        }
    }

    mod fine {
        mod device_buffer {
            crate::device_buffer_suite!(super::super::HostMemory { grain: 1 });
        }
        mod arena {
            crate::arena_suite!(super::super::HostMemory { grain: 1 });
        }
        mod remap {
            crate::remap_suite!(super::super::HostMemory { grain: 1 });
        }
    }

    /// Left out under miri, to which it is the same as the fine one.
    #[cfg(not(miri))]
    mod coarse {
        mod device_buffer {
            crate::device_buffer_suite!(super::super::HostMemory { grain: 4 });
        }
        mod arena {
            crate::arena_suite!(super::super::HostMemory { grain: 4 });
        }
        mod remap {
            crate::remap_suite!(super::super::HostMemory { grain: 4 });
        }
    }

    #[test]
    fn every_promise_is_in_its_suite() {
        let here = include_str!("mod.rs");
        let suites = [include_str!("device_buffer.rs"), include_str!("arena.rs"), include_str!("remap.rs")];
        for suite in suites {
            let promises = suite.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split('<').next());
            for promise in promises {
                assert!(here.contains(&alloc::format!("            {promise},\n")), "{promise}");
            }
        }
    }
}
