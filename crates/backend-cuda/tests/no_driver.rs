//! A machine without the driver's library: errors that say so, and no panic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cuda::{CudaDevice, CudaError, CudaOptions, Select};
use pinned_host::{DeviceError, ErrorKind};
use std::process::Command;

/// In a process of its own, whose search path holds no simulator.
#[test]
fn opening_says_what_is_missing() {
    if std::env::var_os(ALONE).is_some() {
        return check();
    }
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", "opening_says_what_is_missing", "--nocapture"]);
    let ran = alone.env_remove("LD_LIBRARY_PATH").env(ALONE, "1").output().unwrap();
    let (said, warned) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    eprint!("{warned}");
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{warned}");
}

fn check() {
    if backend_cuda::is_present() {
        eprintln!("skipped opening_says_what_is_missing: this machine has a libcuda.so");
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

const ALONE: &str = "BACKEND_CUDA_TESTS_ALONE";
