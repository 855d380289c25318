//! Wakes a thread that sleeps in the kernel, waiting for its ring.

use std::io;

/// An event descriptor on Linux; nothing where no thread sleeps so.
#[derive(Debug)]
pub(super) struct Bell {
    #[cfg(target_os = "linux")]
    event: rustix::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Bell { event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Heard by whoever polls, now or later.
    pub(super) fn ring(&self) {
        // It can only fail by being full, and then it rings already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Makes it silent until it is rung again.
    pub(super) fn silence(&self) {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    pub(super) fn event(&self) -> &rustix::fd::OwnedFd {
        &self.event
    }
}

#[cfg(not(target_os = "linux"))]
impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Bell {})
    }

    pub(super) fn ring(&self) {}
}
