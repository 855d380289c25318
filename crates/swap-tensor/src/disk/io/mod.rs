//! Where memory is handed to the kernel: the one place of this crate with unsafe code.
//!
//! Two promises are kept here: the kernel's memory outlives what the kernel does with it (see [`flight`]), and so do the
//! files it does it with, since whatever is in flight owns a [`Drive`](super::drive::Drive).
#![allow(unsafe_code)]

mod buf;
pub(super) mod flight;
mod operation;
mod region;
#[cfg(target_os = "linux")]
pub(super) mod ring;

pub use buf::{DiskBuf, IoBuf};
pub(super) use region::Region;
