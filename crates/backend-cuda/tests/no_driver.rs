//! A machine without the driver's library: errors that say so, and no panic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cuda::{CudaDevice, CudaError, CudaOptions, Select};
use pinned_host::{DeviceError, ErrorKind};

/// Whether there is no library; if there is one, the subject of these tests is absent.
#[allow(clippy::print_stderr, reason = "a skip has to be seen")]
fn no_library(test: &str) -> bool {
    let absent = !backend_cuda::is_present();
    if !absent {
        eprintln!("skipped {test}: this machine has a libcuda.so");
    }
    absent
}

#[test]
fn opening_says_what_is_missing() {
    if !no_library("opening_says_what_is_missing") {
        return;
    }
    for select in [Select::default(), Select::Name("H200".into()), Select::Uuid([0; 16])] {
        let error = CudaOptions::new().select(select).virtual_memory(true).open().unwrap_err();
        assert!(matches!(error, CudaError::NoLibrary), "{error}");
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert!(error.to_string().contains("libcuda.so.1"), "{error}");
        assert!(error.code().is_none());
    }
    assert!(matches!(CudaDevice::new(), Err(CudaError::NoLibrary)));
    assert!(matches!(CudaDevice::list(), Err(CudaError::NoLibrary)));
}
