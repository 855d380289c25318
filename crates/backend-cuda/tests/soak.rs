//! Many orders of the simulated device: what the suites promise must hold on every seed, without an undefined use of the
//! driver and with nothing left behind.
//!
//! `SOAK_SEEDS` sets how many seeds (default 20), `SOAK_SEED` the first of them.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::conformance::Harness as BufferHarness;
use allocator_core::conformance::{arena, device_buffer};
use backend_cuda::{CudaBuffer, CudaDevice, CudaOptions};
use common::Sim;
use pinned_host::conformance::{Harness, hazard, queue, staging, transfer};
use pinned_host::{Queue, QueuedBuffer, Transfer};

struct Cuda(CudaOptions);

impl Harness for Cuda {
    type Device = CudaDevice;

    fn device(&self) -> CudaDevice {
        self.0.open().unwrap()
    }

    fn other_device(&self) -> Option<CudaDevice> {
        None
    }
}

struct Buffers(CudaDevice);

impl BufferHarness for Buffers {
    type Buffer = CudaBuffer;

    fn make(&mut self, size: u64) -> CudaBuffer {
        self.0.buffer(size).unwrap()
    }

    fn write(&mut self, buffer: &mut CudaBuffer, at: u64, bytes: &[u8]) {
        buffer.queue().drain().unwrap();
        self.0.write_now(buffer, at, bytes).unwrap();
    }

    fn read(&mut self, buffer: &CudaBuffer, at: u64, len: u64) -> Vec<u8> {
        buffer.queue().drain().unwrap();
        let mut bytes = vec![0; len as usize];
        self.0.read_now(buffer, at, &mut bytes).unwrap();
        bytes
    }
}

type Promise = fn(&Cuda);

#[test]
#[allow(clippy::print_stderr, reason = "a seed that fails has to be seen")]
fn every_seed_keeps_the_promises() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (first, seeds) = (number("SOAK_SEED").unwrap_or(0), number("SOAK_SEEDS").unwrap_or(20));
    let sim = Sim::new(0);
    for seed in first..first + seeds {
        let cuda = Cuda(match seed % 3 {
            0 => CudaOptions::new().scratch(4096).step_cost(256),
            1 => CudaOptions::new().scratch(512).step_cost(1 << 30),
            _ => CudaOptions::new().scratch(0).virtual_memory(true),
        });
        let promises: &[(&str, Promise)] = &[
            ("hazard::upload_move_download", hazard::upload_move_download),
            ("hazard::overlapping_moves", hazard::overlapping_moves),
            ("hazard::moves_together_are_one_operation", hazard::moves_together_are_one_operation),
            ("hazard::room_is_reused_after_its_readers", hazard::room_is_reused_after_its_readers),
            (
                "hazard::a_vacated_source_is_written_after_the_move",
                hazard::a_vacated_source_is_written_after_the_move,
            ),
            ("hazard::random_programs", hazard::random_programs),
            ("queue::one_queue_keeps_order", queue::one_queue_keeps_order),
            ("queue::a_wait_orders_two_queues", queue::a_wait_orders_two_queues),
            ("queue::threads_share_queues", queue::threads_share_queues),
            ("staging::one_slot_serves_many_threads", staging::one_slot_serves_many_threads),
            ("staging::a_slot_in_flight_is_not_given_again", staging::a_slot_in_flight_is_not_given_again),
            ("transfer::chained_upload", transfer::chained_upload),
            ("transfer::buffer_dropped_in_flight", transfer::buffer_dropped_in_flight),
            (
                "transfer::ticket_dropped_in_flight_parks_the_upload",
                transfer::ticket_dropped_in_flight_parks_the_upload,
            ),
            (
                "transfer::ticket_dropped_in_flight_parks_the_download",
                transfer::ticket_dropped_in_flight_parks_the_download,
            ),
            ("arena::churn_loses_no_byte", |cuda| {
                arena::churn_loses_no_byte(&mut Buffers(cuda.device()));
            }),
            ("device_buffer::copy_of_one_grain_distance", |cuda| {
                device_buffer::copy_of_one_grain_distance(&mut Buffers(cuda.device()));
            }),
            ("device_buffer::copy_of_distance_shorter_than_length", |cuda| {
                device_buffer::copy_of_distance_shorter_than_length(&mut Buffers(cuda.device()));
            }),
            ("device_buffer::copies_together_take_effect_in_order", |cuda| {
                device_buffer::copies_together_take_effect_in_order(&mut Buffers(cuda.device()));
            }),
            ("device_buffer::copies_take_effect_in_order", |cuda| {
                device_buffer::copies_take_effect_in_order(&mut Buffers(cuda.device()));
            }),
        ];
        for (name, promise) in promises {
            sim.reset(seed);
            let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| promise(&cuda)));
            if let Err(broken) = kept {
                eprintln!("{name} breaks on seed {seed} (SOAK_SEED={seed} SOAK_SEEDS=1)\n{}", sim.report());
                std::panic::resume_unwind(broken);
            }
            assert!(sim.undefined_uses() == 0 && sim.leaks() == 0, "{name}, seed {seed}:\n{}", sim.report());
        }
    }
}
