//! How a wgpu device is chosen and used.

use super::adapters::{self, WgpuSelect};
use super::buffer::GRAIN;
use super::shared::Shared;
use super::{WgpuDevice, WgpuError};

/// Settings of a [`WgpuDevice`], whether it is opened here or is the user's.
///
/// ```
/// use backend_vulkan::{WgpuOptions, WgpuSelect};
///
/// let options = WgpuOptions::new().select(WgpuSelect::parse("nonesuch")).staging(4 << 20);
/// let error = options.open().unwrap_err().to_string();
/// assert!(error.contains("whose name contains `nonesuch`"), "{error}");
/// ```
#[derive(Debug, Clone)]
pub struct WgpuOptions {
    select: WgpuSelect,
    backends: wgpu::Backends,
    flags: wgpu::InstanceFlags,
    features: wgpu::Features,
    settings: Settings,
}

/// How moves inside a buffer are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WgpuMoves {
    /// [`Raw`](Self::Raw) where wgpu runs on Vulkan, [`Scratch`](Self::Scratch) elsewhere: what was measured to be
    /// faster, see the crate's documentation.
    #[default]
    Auto,
    /// wgpu's own copies, each byte twice: to a scratch buffer and back. Everywhere.
    Scratch,
    /// `vkCmdCopyBuffer` inside the buffer on wgpu's Vulkan backend, with barriers of our own; through the scratch
    /// buffer only what overlaps itself by much. On another backend as [`Scratch`](Self::Scratch).
    Raw,
}

impl WgpuOptions {
    /// The best adapter of any backend compiled in, 8 MiB of staging memory for each direction, 4 MiB of scratch.
    pub fn new() -> Self {
        WgpuOptions {
            select: WgpuSelect::default(),
            backends: wgpu::Backends::all(),
            flags: wgpu::InstanceFlags::empty().with_env(),
            features: wgpu::Features::empty(),
            settings: Settings::default(),
        }
    }

    /// Which adapter [`open`](Self::open) takes.
    #[must_use]
    pub fn select(mut self, select: WgpuSelect) -> Self {
        self.select = select;
        self
    }

    /// Which of wgpu's backends [`open`](Self::open) looks at; those not compiled in count for nothing.
    #[must_use]
    pub fn backends(mut self, backends: wgpu::Backends) -> Self {
        self.backends = backends;
        self
    }

    /// Flags of the instance that [`open`](Self::open) makes, `VALIDATION` say. By default none but what the
    /// environment asks for (`WGPU_VALIDATION=1`), in debug builds too.
    #[must_use]
    pub fn instance_flags(mut self, flags: wgpu::InstanceFlags) -> Self {
        self.flags = flags;
        self
    }

    /// Features of the device that [`open`](Self::open) requests; none are needed here.
    #[must_use]
    pub fn features(mut self, features: wgpu::Features) -> Self {
        self.features = features;
        self
    }

    /// Bytes of staging memory that each direction may hold at most. It is made when it is first needed and kept.
    #[must_use]
    pub fn staging(mut self, bytes: u64) -> Self {
        self.settings.staging = bytes;
        self
    }

    /// Bytes of one staging buffer, which is also the most that one submission copies. Small pieces stay in the
    /// processor's caches between the host's copy and the device's, large ones need fewer submissions.
    #[must_use]
    pub fn piece(mut self, bytes: u64) -> Self {
        self.settings.piece = bytes;
        self
    }

    /// Bytes of the scratch buffer for moves, made at the first move that needs it.
    #[must_use]
    pub fn scratch(mut self, bytes: u64) -> Self {
        self.settings.scratch = bytes;
        self
    }

    /// How moves are made.
    #[must_use]
    pub fn moves(mut self, moves: WgpuMoves) -> Self {
        self.settings.moves = moves;
        self
    }

    /// Whether arenas may lie in memory that the host reaches as well, so that it copies to and from them itself while
    /// the queue is empty, instead of through staging. It counts on wgpu's Vulkan backend, with raw moves, for devices
    /// without memory of their own: integrated GPUs and software, where it halves the copying. On by default for
    /// devices opened here and off for the user's, because such memory is not wgpu's: limits on it
    /// (`MemoryBudgetThresholds`) do not count.
    #[must_use]
    pub fn direct(mut self, direct: bool) -> Self {
        self.settings.direct = Some(direct);
        self
    }

    /// What buffers can be used for beside storage and copies: `UNIFORM`, `VERTEX`, `INDEX`, `INDIRECT`.
    #[must_use]
    pub fn usage(mut self, usage: wgpu::BufferUsages) -> Self {
        self.settings.usage |= usage;
        self
    }

    /// Opens a device on an adapter of this machine, with all the adapter's limits.
    ///
    /// # Errors
    /// [`WgpuError::NoAdapter`] names what was looked for, [`WgpuError::NoDevice`], [`WgpuError::Setting`].
    pub fn open(mut self) -> Result<WgpuDevice, WgpuError> {
        self.settings.check()?;
        self.settings.direct.get_or_insert(true);
        let (device, queue) = adapters::open(&self.select, self.backends, self.flags, self.features)?;
        self.over(device, queue)
    }

    /// Uses a device the user has; see [`WgpuDevice::new`]. Selection, backends, flags and features count for
    /// nothing.
    ///
    /// # Errors
    /// [`WgpuError::Setting`]; the device is lost, or has no memory for 4 bytes.
    pub fn over(self, device: wgpu::Device, queue: wgpu::Queue) -> Result<WgpuDevice, WgpuError> {
        self.settings.check()?;
        Ok(WgpuDevice::from_shared(Shared::new(device, queue, self.settings)?))
    }
}

impl Default for WgpuOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Sizes in bytes, and uses.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) staging: u64,
    pub(super) piece: u64,
    pub(super) scratch: u64,
    pub(super) moves: WgpuMoves,
    /// `None`: for devices that were opened here.
    pub(super) direct: Option<bool>,
    pub(super) usage: wgpu::BufferUsages,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            staging: 8 << 20,
            piece: 2 << 20,
            scratch: 4 << 20,
            moves: WgpuMoves::default(),
            direct: None,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        }
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), WgpuError> {
        for (setting, given) in [("piece", self.piece), ("scratch", self.scratch)] {
            if given == 0 || !given.is_multiple_of(GRAIN) {
                return Err(WgpuError::Setting { setting, given, rule: "not a multiple of 4 above zero" });
            }
        }
        if self.staging < self.piece {
            let rule = "less than one piece";
            return Err(WgpuError::Setting { setting: "staging", given: self.staging, rule });
        }
        Ok(())
    }
}
