//! CUDA devices for the arena and its transfers, through cudarc.

mod buffer;
mod choose;
mod context;
mod device;
mod driver;
mod error;
mod event;
mod host;
mod memory;
mod moves;
mod options;
mod pages;
mod pinned;
mod queue;
mod view;

pub use buffer::CudaBuffer;
pub use choose::{DeviceInfo, Select};
/// The cudarc this crate was built with: types of another version do not fit.
pub use cudarc;
pub use device::{CudaDevice, SliceRefused};
pub use driver::is_present;
pub use error::CudaError;
pub use event::CudaEvent;
pub use host::{CudaLocker, CudaRegion, HostMemory};
pub use options::{CudaOptions, Streams};
pub use pinned::CudaPinned;
pub use queue::CudaQueue;
pub use view::CudaView;
