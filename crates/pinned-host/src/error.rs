//! What went wrong, coarsely enough for generic code to react.

/// The class of a backend's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The device has no memory left for this.
    OutOfMemory,
    /// The device is gone, with everything on it.
    DeviceLost,
    /// The caller asked for something that can never work: a range beyond the buffer, another device's event.
    InvalidUse,
    /// This operation failed; others may succeed.
    Failed,
}

/// A backend's error, with its class.
pub trait DeviceError: core::error::Error + Send + Sync + 'static {
    /// The class; the value itself keeps the detail.
    fn kind(&self) -> ErrorKind;
}
