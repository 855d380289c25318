//! Views of buffers as cudarc takes them: their types, their lives, and whose streams are waited for.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::DeviceBuffer;
use backend_cuda::cudarc::driver::DeviceSlice;
use backend_cuda::{CudaDevice, CudaError};
use common::Sim;
use pinned_host::Transfer;

#[test]
fn bytes_are_cast_to_what_every_byte_is_a_value_of() {
    let _sim = Sim::new(1);
    let device = CudaDevice::new().unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    device.write_now(&mut buffer, 0, &[1; 4096]).unwrap();
    let stream = device.queue().stream();
    let view = buffer.view(0..64).unwrap();
    assert_eq!(stream.clone_dtoh(&view.clone().cast::<[u16; 2]>().unwrap()).unwrap(), [[0x101; 2]; 16]);
    // SAFETY: every byte there is 1, which is `true`.
    let flags = unsafe { view.clone().cast_unchecked::<bool>() }.unwrap();
    assert_eq!(stream.clone_dtoh(&flags).unwrap(), [true; 64]);
    assert_eq!(flags.len(), 64);
    assert!(matches!(view.cast::<[u8; 0]>(), Err(CudaError::Cast { .. })), "no bytes make no slice");
}
