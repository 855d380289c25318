//! What a simulated device is told at its making.

use super::FaultPlan;

/// How a [`SimDevice`](super::SimDevice) behaves. Sizes are bytes.
///
/// ```
/// use backend_cpu::sim::{Call, Fault, FaultPlan, SimConfig};
/// let config = SimConfig::seeded(7)
///     .memory_limit(1 << 20)
///     .faults(FaultPlan::none().at(Call::Upload, 3, Fault::Fail));
/// assert_eq!(config.seed, 7);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimConfig {
    /// Decides the order of the run and the random faults.
    pub seed: u64,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// The most that all buffers may hold together; `None`: what the host gives.
    pub memory_limit: Option<u64>,
    /// The most that [`SimLocker`](super::SimLocker) may hold locked; `None`: no limit.
    pub lock_limit: Option<u64>,
    /// Offsets and lengths of device ranges must be multiples of this; 1 on most devices, 4 on wgpu.
    pub grain: u64,
    /// One queue for everything: lanes and compute are the same, as on wgpu. Hides missing waits, as there.
    pub one_queue: bool,
    /// Dropping the device panics with what the checks found: for suites that keep their device to themselves.
    pub strict: bool,
}

impl SimConfig {
    /// No faults, no limits, grain 1, separate queues.
    pub fn seeded(seed: u64) -> Self {
        SimConfig {
            seed,
            faults: FaultPlan::none(),
            memory_limit: None,
            lock_limit: None,
            grain: 1,
            one_queue: false,
            strict: false,
        }
    }

    /// With these faults.
    pub fn faults(mut self, faults: FaultPlan) -> Self {
        self.faults = faults;
        self
    }

    /// With room for `bytes` of buffers.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// With room for `bytes` of locked memory.
    pub fn lock_limit(mut self, bytes: u64) -> Self {
        self.lock_limit = Some(bytes);
        self
    }

    /// With this grain; 0 counts as 1.
    pub fn grain(mut self, bytes: u64) -> Self {
        self.grain = bytes.max(1);
        self
    }

    /// With a panic on drop when a check found something.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// With one queue for everything.
    pub fn one_queue(mut self) -> Self {
        self.one_queue = true;
        self
    }
}

impl Default for SimConfig {
    fn default() -> Self {
        Self::seeded(0)
    }
}
