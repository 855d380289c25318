//! What a lost driver keeps stays counted as pinned.
//!
//! A process of its own: the simulator gives addresses again that a real driver would not, and a page counts once.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use backend_cuda::{CudaOptions, HostMemory};
use common::{Fault, Sim};
use pinned_host::{PageLocker, PinnedPages, Queue, Transfer};

#[test]
fn what_the_driver_keeps_stays_counted() {
    let sim = Sim::new(5);
    // In this order: registered pages stay mapped, so nothing else comes to lie at their addresses.
    for kind in [HostMemory::Registered, HostMemory::Driver] {
        sim.reset(5);
        let device = CudaOptions::new().host_memory(kind).open().unwrap();
        let start = PinnedPages::current().locked;
        let region = device.locker().lock(4096).unwrap();
        sim.inject(Fault::DeviceLost, 1);
        device.queue().drain().unwrap_err();
        drop((region, device));
        // It stays until the process ends, pinned as far as anybody knows.
        assert_eq!(PinnedPages::current().locked - start, 4096, "{kind:?}");
    }
}
