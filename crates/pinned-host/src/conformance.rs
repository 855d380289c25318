//! The promises of this crate's contracts as code: one function per promise, generic over the device.
//!
//! A backend writes a [`Harness`] and lists the suites; each call makes a module with one `#[test]` per promise:
//!
//! ```text
//! struct Cpu;
//! impl pinned_host::conformance::Harness for Cpu {
//!     type Device = CpuDevice;
//!     fn device(&self) -> CpuDevice { CpuDevice::new().unwrap() }
//! }
//! pinned_host::transfer_suite!(Cpu);
//! pinned_host::queue_suite!(Cpu);
//! pinned_host::hazard_suite!(Cpu);
//! pinned_host::staging_suite!(Cpu);
//! pinned_host::staged_suite!(Cpu);
//! pinned_host::locker_suite!(Cpu);
//! ```
//!
//! What a harness cannot do (lose its device, say) is skipped, with a line `skipped PROMISE: REASON` on stderr.
//! Everything also runs on a device whose operations run only when the host waits: nothing here polls for
//! progress, and every wait is for work that was submitted.
//!
//! What it cannot find: on a device that runs everything at once, or on one queue, a missing wait. Run the suites
//! on a simulated device as well.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a suite stops where a promise is broken")]

pub mod hazard;
pub mod locker;
pub mod queue;
pub mod staged;
pub mod staging;
pub mod transfer;

use crate::{HostPool, Lane, PageLocker, Queue, QueuedBuffer, RegionOf, SliceOf, Ticket, Transfer};
use allocator_core::DeviceBuffer;

/// Makes devices for the suites, and breaks them.
pub trait Harness {
    /// The device under test.
    type Device: Transfer;

    /// A fresh device.
    fn device(&self) -> Self::Device;

    /// A device whose events mean nothing to [`device`](Self::device)'s; `None` where there can be only one.
    fn other_device(&self) -> Option<Self::Device> {
        Some(self.device())
    }

    /// A device that may share host memory with `device`; `None` where there can be only one.
    fn device_beside(&self, _device: &Self::Device) -> Option<Self::Device> {
        self.other_device()
    }

    /// Makes the next `record` on that lane fail, once; `false` where that cannot be done.
    fn fail_next_record(&self, _device: &Self::Device, _lane: Lane) -> bool {
        false
    }

    /// Takes the device away as a crash would; `false` where that cannot be done.
    fn lose_device(&self, _device: &Self::Device) -> bool {
        false
    }
}

/// Tests a [`Harness`] against [`conformance::transfer`](crate::conformance::transfer). The expression is
/// evaluated once per test.
#[macro_export]
macro_rules! transfer_suite {
    ($harness:expr) => {
        $crate::__conformance_tests!(
            transfer,
            $harness,
            [
                round_trip,
                pageable_round_trip,
                range_errors_return_the_slice,
                grain_errors_return_the_slice,
                ticket_dropped_in_flight_parks_the_upload,
                ticket_dropped_in_flight_parks_the_download,
                ticket_forgotten_in_flight_leaks,
                buffer_dropped_in_flight,
                chained_upload,
                waiting_twice_is_waiting_once,
                is_done_after_the_event,
                plain_reads_and_writes_agree,
                plain_access_checks_ranges,
                memory_counts_buffers,
                host_memory_is_shared_where_it_is_said,
                failed_record_returns_the_slice,
                lost_device_is_typed,
            ]
        );
    };
}

/// Tests a [`Harness`] against [`conformance::queue`](crate::conformance::queue). The expression is evaluated once
/// per test.
#[macro_export]
macro_rules! queue_suite {
    ($harness:expr) => {
        $crate::__conformance_tests!(
            queue,
            $harness,
            [
                one_queue_keeps_order,
                a_wait_orders_two_queues,
                an_event_of_another_device_is_refused,
                covers_tells_the_truth,
                drain_ends_what_was_submitted,
                record_on_an_idle_queue_fires,
                a_failed_record_is_an_error_and_no_more,
                threads_share_queues,
                a_lost_device_fails_its_queues,
            ]
        );
    };
}

/// Tests a [`Harness`] against [`conformance::hazard`](crate::conformance::hazard). The expression is evaluated
/// once per test.
#[macro_export]
macro_rules! hazard_suite {
    ($harness:expr) => {
        $crate::__conformance_tests!(
            hazard,
            $harness,
            [
                upload_move_download,
                overlapping_moves,
                moves_together_are_one_operation,
                room_is_reused_after_its_readers,
                a_vacated_source_is_written_after_the_move,
                random_programs,
            ]
        );
    };
}

/// Tests a [`Harness`] against [`conformance::staging`](crate::conformance::staging). The expression is evaluated
/// once per test.
#[macro_export]
macro_rules! staging_suite {
    ($harness:expr) => {
        $crate::__conformance_tests!(
            staging,
            $harness,
            [
                one_slot_serves_many_threads,
                a_deadline_is_typed,
                directions_share_nothing,
                a_slot_in_flight_is_not_given_again,
            ]
        );
    };
}

/// Tests a [`Harness`] against [`conformance::staged`](crate::conformance::staged). The expression is evaluated
/// once per test.
#[macro_export]
macro_rules! staged_suite {
    ($harness:expr) => {
        $crate::__conformance_tests!(
            staged,
            $harness,
            [
                every_length_arrives,
                bad_ranges_are_refused,
                it_keeps_its_place,
                one_slot_serves_many_threads,
                a_deadline_is_typed,
                a_cancelled_copy_says_how_far_it_came,
                a_panic_leaves_nothing_in_flight,
                a_failed_record_ends_the_copy,
                a_lost_device_is_typed,
            ]
        );
    };
}

/// Tests a [`Harness`] against [`conformance::locker`](crate::conformance::locker). The expression is evaluated
/// once per test.
#[macro_export]
macro_rules! locker_suite {
    ($harness:expr) => {
        $crate::__conformance_tests!(
            locker,
            $harness,
            [
                regions_are_apart_and_keep_their_bytes,
                the_impossible_is_refused,
                a_pool_makes_and_gives_back_regions,
            ]
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($suite:ident, $harness:expr, [$($promise:ident),+ $(,)?]) => {
        mod $suite {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[test]
                fn $promise() {
                    $crate::conformance::$suite::$promise(&$harness);
                }
            )+
        }
    };
}

/// A device with host memory to test it with.
struct Bench<T: Transfer> {
    device: T,
    pool: HostPool<RegionOf<T>>,
    /// The grain of the device's buffers, in bytes.
    grain: u64,
}

impl<T: Transfer> Bench<T> {
    /// `bytes` of host memory: locked if possible, else pageable.
    fn new(device: T, bytes: usize) -> Self {
        let locker = device.locker();
        let region = match locker.lock(bytes) {
            Ok(region) => region,
            Err(refused) => match locker.pageable(bytes) {
                Some(region) => region.unwrap(),
                None => panic!(
                    "the device takes locked memory only, and {bytes} bytes of it were refused: {refused}"
                ),
            },
        };
        let pool = HostPool::new(vec![region], 64).unwrap();
        let grain = device.buffer(4096).unwrap().grain();
        Bench { device, pool, grain }
    }

    /// `len` rounded up to the grain.
    fn grains(&self, len: u64) -> u64 {
        len.next_multiple_of(self.grain)
    }

    /// A slice with the bytes of `pattern(seed, ..)`.
    fn slice(&self, seed: u64, len: u64) -> SliceOf<T> {
        let mut slice = self.pool.allocate(len as usize).unwrap();
        slice.as_mut_slice().copy_from_slice(&pattern(seed, len));
        slice
    }

    /// A buffer of zeroes.
    fn buffer(&self, size: u64) -> T::Buffer {
        let mut buffer = self.device.buffer(size).unwrap();
        self.device.write_now(&mut buffer, 0, &vec![0; size as usize]).unwrap();
        buffer
    }

    /// What the buffer holds, read past the path under test.
    fn contents(&self, buffer: &T::Buffer, from: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.device.read_now(buffer, from, &mut bytes).unwrap();
        bytes
    }

    fn upload(&self, slice: SliceOf<T>, buffer: &mut T::Buffer, at: u64) -> Ticket<T> {
        self.device.upload(slice, buffer, at).unwrap()
    }

    fn download(&self, buffer: &T::Buffer, from: u64, len: u64) -> Ticket<T> {
        let slice = self.slice(!0, len);
        self.device.download(buffer, from, slice).unwrap()
    }

    /// Fills all host memory that is free with junk and keeps it: what is in flight must not be among it.
    fn scribble(&self, len: u64) -> Vec<(Vec<u8>, SliceOf<T>)> {
        let mut taken = Vec::new();
        while let Ok(mut slice) = self.pool.allocate(len as usize) {
            let junk = pattern(1000 + taken.len() as u64, len);
            slice.as_mut_slice().copy_from_slice(&junk);
            taken.push((junk, slice));
        }
        taken
    }

    /// Waits for everything on both lanes and the buffer's queue.
    fn drain(&self, buffer: &T::Buffer) {
        self.device.lane(Lane::Upload).drain().unwrap();
        self.device.lane(Lane::Download).drain().unwrap();
        buffer.queue().drain().unwrap();
    }
}

/// Bytes that differ by seed and position.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.next() as u8).collect()
}

/// xorshift64*, seeded; good enough to tell bytes and programs apart.
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Rng(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[allow(clippy::print_stderr, reason = "a skip has to be seen")]
fn skip(promise: &str, reason: &str) {
    eprintln!("skipped {promise}: {reason}");
}
