//! What a device was asked to do, counted.

/// Counts since the device was opened: how many submissions it took, and whether a warm device still makes objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Calls that hand work to a queue, sparse bindings included.
    pub submissions: u64,
    /// Vulkan objects made: buffers, allocations, semaphores, command pools and buffers.
    pub objects: u64,
}
