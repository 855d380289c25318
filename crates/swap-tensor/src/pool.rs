//! The pool: devices and their arenas, the host tier, and the tensors that share them.

use crate::{
    OpenLease, PoolBuilder, SwapError, Tensor, TensorSpec,
    books::Books,
    device::{Device, DeviceIndex, PerDevice},
    entry::Entry,
    file,
    fill::Want,
    lease::{Lease, Mode},
    lock::Tasks,
    lower::Lower,
    movers::Movers,
    observe::{Levels, Probe},
    request::{self, LeaseRequest, Wanted},
    tensor::Token,
};
use pinned_host::{HostPool, RegionOf, StagingRing, StagingStats, Transfer};
use std::{
    panic::Location,
    path::Path,
    sync::{Arc, Condvar, Mutex, Weak, atomic::AtomicU64},
    time::{Duration, Instant},
};

/// Tensors that swap between devices, host memory, a disk and attached files.
///
/// Cloning is cheap and names the same pool. Calls block, and none holds a lock while it waits; what a task can await instead is
/// a [`LeaseRequest`] or an [`Errand`](crate::Errand).
///
/// ```
/// use backend_cpu::CpuDevice;
/// use swap_tensor::{DType, SwapPool, TensorSpec};
///
/// // Two tensors of 1 MiB share a device of 1 MiB.
/// let pool = SwapPool::builder(CpuDevice::new()?).device_memory(1 << 20).host_memory(4 << 20).build()?;
/// let spec = |name| TensorSpec::new(name, DType::U8, [1 << 20]);
/// let a = pool.create(spec("a")?, &vec![1; 1 << 20])?;
/// let b = pool.create(spec("b")?, &vec![2; 1 << 20])?;
///
/// for tensor in [&a, &b, &a] {
///     let lease = tensor.read()?; // on the device now, at an address that does not change
///     assert_eq!(lease.range().end - lease.range().start, 1 << 20);
/// } // dropped: may be evicted once the work submitted under it is done
///
/// let mut back = vec![0; 1 << 20];
/// b.copy_to(&mut back)?;
/// assert!(back.iter().all(|&x| x == 2));
/// assert_eq!(pool.stats().evictions, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Several devices
/// A pool may have more devices of the same kind ([`PoolBuilder::add_device`]). Each has an arena, lanes, a budget, a policy and
/// a schedule of its own; host memory and what lies below are shared by all. Copies of one tensor may be read on several devices
/// at a time; who writes on one device excludes all others, and outdates their copies. Calls that name no device mean the first.
///
/// ```
/// use backend_cpu::CpuDevice;
/// use swap_tensor::{DType, DeviceIndex, Mode, SlotState, SwapPool, TensorSpec};
///
/// let (a, b) = (DeviceIndex::FIRST, DeviceIndex::new(1));
/// let pool = SwapPool::builder(CpuDevice::new()?)
///     .device_memory(1 << 20)
///     .add_device(CpuDevice::new()?, 1 << 20)
///     .host_memory(8 << 20)
///     .build()?;
/// let weights = pool.create(TensorSpec::new("w", DType::U8, [1 << 19])?, &vec![1; 1 << 19])?;
/// let grads = pool.create(TensorSpec::new("g", DType::U8, [1 << 19])?, &vec![0; 1 << 19])?;
///
/// weights.write()?.write_now(&vec![2; 1 << 19])?; // on the first device
/// // Both at once, on the second: what the first one wrote comes by way of host memory.
/// let leases = pool.lease_many_at(&[(&weights, Mode::Read, b), (&grads, Mode::Write, b)]).wait()?;
/// assert_eq!(leases[0].device(), b);
/// assert_eq!(weights.state_at(a)?, SlotState::Valid); // and stays where it was
/// drop(leases);
///
/// weights.write_at(b)?.write_now(&vec![3; 1 << 19])?;
/// assert_eq!(weights.state_at(a)?, SlotState::Absent); // its copy was old
/// let mut back = vec![0; 1 << 19];
/// weights.read()?.read_now(&mut back)?;
/// assert!(back.iter().all(|&x| x == 3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SwapPool<T: Transfer> {
    pub(crate) inner: Arc<Inner<T>>,
    /// Ends with the last clone of the pool.
    pub(crate) last: Arc<Last<T>>,
}

/// Who is told of leases that outlive their pool's handles.
pub(crate) type OnLeak = Box<dyn Fn(&[OpenLease]) + Send + Sync>;

/// What goes with the last handle of a pool, while its tensors may live on.
pub(crate) struct Last<T: Transfer>(pub(crate) Weak<Inner<T>>);

impl<T: Transfer> Drop for Last<T> {
    fn drop(&mut self) {
        let Some(inner) = self.0.upgrade() else { return };
        // What was asked for and not begun is forgotten.
        inner.movers.unwish(|_| true);
        let open = inner.lock().open.list(Instant::now());
        if !open.is_empty() {
            inner.probe().leaked(&open);
            if let Some(told) = &inner.on_leak {
                told(&open);
            }
        }
    }
}

/// What every handle of a pool shares.
pub(crate) struct Inner<T: Transfer> {
    pub(crate) books: Mutex<Books<T>>,
    /// Something changed that a sleeper may wait for.
    pub(crate) changed: Condvar,
    /// Tasks that wait for the same.
    pub(crate) tasks: Tasks,
    pub(crate) host: HostPool<RegionOf<T>>,
    pub(crate) staging: StagingRing<RegionOf<T>>,
    /// Bytes that the ranges of every device's buffer are multiples of.
    pub(crate) grain: u64,
    /// Bytes of a piece of a copy through staging.
    pub(crate) piece: u64,
    pub(crate) deadline: Duration,
    /// How long to wait for I/O of the lower tier.
    pub(crate) patience: Duration,
    pub(crate) locked: u64,
    pub(crate) pageable: u64,
    /// The tier below host memory, if there is one.
    pub(crate) lower: Option<Lower>,
    pub(crate) movers: Movers<T>,
    /// Tensors with fewer bytes leave a device last.
    pub(crate) keep_below: u64,
    /// What everybody else holds.
    pub(crate) me: Weak<Inner<T>>,
    /// Told of leases that are open when the last handle of the pool goes.
    pub(crate) on_leak: Option<OnLeak>,
    /// Last: everything above may still have work on them.
    pub(crate) devices: PerDevice<Device<T>>,
}

impl<T: Transfer> SwapPool<T> {
    /// Starts the description of a pool over `device`.
    pub fn builder(device: T) -> PoolBuilder<T> {
        PoolBuilder::new(device)
    }

    /// Attaches the tensors of a safetensors file, in the order of their bytes in it. O(header).
    ///
    /// The file is a clean copy that is never duplicated: a tensor is read from it, by position, when it is first
    /// wanted on the device. The file must stay as it is while attached; reading one that changed is an error.
    ///
    /// # Errors
    /// The file cannot be read, is no safetensors file, or brings a name the pool already has: nothing is attached
    /// then. [`SwapError::LargerThanArena`] names the first tensor the device could never hold.
    pub fn attach_safetensors(&self, path: impl AsRef<Path>) -> Result<Vec<Tensor<T>>, SwapError> {
        let listed = file::open(path.as_ref())?;
        let mut tensors = Vec::with_capacity(listed.len());
        for (spec, copy) in listed {
            // Dropping what was attached so far detaches it again.
            tensors.push(self.insert(spec, |entry| entry.file = Some(copy))?);
        }
        Ok(tensors)
    }

    /// A tensor with the contents `data`, which is copied to the host tier; to the device if the host tier is full.
    ///
    /// # Errors
    /// A length that is not the tensor's, a name taken, or no room in either tier.
    pub fn create(&self, spec: TensorSpec, data: &[u8]) -> Result<Tensor<T>, SwapError> {
        let tensor = self.insert(spec, |_| {})?;
        tensor.load(data)?;
        Ok(tensor)
    }

    /// The tensor called `name`, by its own name or an alias.
    pub fn tensor(&self, name: &str) -> Option<Tensor<T>> {
        let books = self.inner.lock();
        let at = *books.names.get(name)?;
        let token = books.entry(at).token.upgrade()?;
        Some(Tensor { token })
    }

    /// Gives `tensor` a second name: tied weights are one storage and count once.
    ///
    /// # Errors
    /// The name is taken, or the tensor is another pool's.
    pub fn alias(&self, name: impl Into<String>, tensor: &Tensor<T>) -> Result<(), SwapError> {
        self.own(tensor)?;
        let name = name.into();
        let mut books = self.inner.lock();
        if books.names.contains_key(&name) {
            return Err(SwapError::DuplicateName { name });
        }
        books.names.insert(name.clone(), tensor.at());
        books.entry_mut(tensor.at()).aliases.push(name);
        Ok(())
    }

    /// Leases on all of `wanted`, or on none: room for all of them is set aside before any is brought in.
    ///
    /// # Errors
    /// As [`Tensor::read_on`] and [`Tensor::write_on`]; a tensor asked for twice, unless only for reading.
    #[track_caller]
    pub fn lease_all(&self, wanted: &[(&Tensor<T>, Mode)]) -> Result<Vec<Lease<T>>, SwapError> {
        self.lease_many(wanted).wait()
    }

    /// [`lease_all`](Self::lease_all) as a request, to be awaited, tied to a queue or given a deadline of its own.
    #[track_caller]
    pub fn lease_many(&self, wanted: &[(&Tensor<T>, Mode)]) -> LeaseRequest<T, Vec<Lease<T>>> {
        self.ask(wanted.iter().map(|&(tensor, mode)| (tensor, mode, DeviceIndex::FIRST)))
    }

    /// [`lease_many`](Self::lease_many), each on the device named with it: on all devices all leases or none. Without
    /// [`LeaseRequest::on_at`] each is tied to its device's own queue.
    ///
    /// A tensor may be asked for on several devices, for reading.
    #[track_caller]
    pub fn lease_many_at(
        &self,
        wanted: &[(&Tensor<T>, Mode, DeviceIndex)],
    ) -> LeaseRequest<T, Vec<Lease<T>>> {
        self.ask(wanted.iter().copied())
    }

    #[track_caller]
    fn ask<'a>(
        &self,
        wanted: impl Iterator<Item = (&'a Tensor<T>, Mode, DeviceIndex)> + Clone,
    ) -> LeaseRequest<T, Vec<Lease<T>>> {
        let foreign = wanted.clone().find_map(|(tensor, ..)| self.own(tensor).err());
        let place = Location::caller();
        let one = |(tensor, mode, on): (&Tensor<T>, Mode, DeviceIndex)| Wanted {
            token: Arc::clone(&tensor.token),
            on,
            mode,
            want: Want::Contents,
            queue: None,
            place,
        };
        let request = LeaseRequest::new(&self.inner, wanted.map(one).collect(), request::all);
        match foreign {
            Some(error) => request.refuse(error),
            None => request,
        }
    }

    /// The leases that are open now, the oldest first: on what, for what, how old, and where in the program they were taken.
    ///
    /// One that was forgotten holds its tensor's room for ever; see [`PoolBuilder::on_leak`]. O(open leases).
    ///
    /// ```
    /// # use backend_cpu::CpuDevice;
    /// # use swap_tensor::{DType, SwapPool, TensorSpec};
    /// # let pool = SwapPool::builder(CpuDevice::new()?).device_memory(1 << 20).host_memory(1 << 20).build()?;
    /// let tensor = pool.create(TensorSpec::new("w", DType::U8, [4096])?, &[0; 4096])?;
    /// std::mem::forget(tensor.read()?);
    /// let leaked = pool.leases().remove(0);
    /// assert_eq!(leaked.tensor.name(), "w");
    /// assert_eq!(leaked.taken_at.file(), file!());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn leases(&self) -> Vec<OpenLease> {
        self.inner.lock().open.list(Instant::now())
    }

    /// What the pool's staging holds, per direction: never more than its capacity.
    pub fn staging(&self) -> StagingStats {
        self.inner.staging.stats()
    }

    /// The first device.
    pub fn device(&self) -> &T {
        &self.inner.on(DeviceIndex::FIRST).transfer
    }

    /// All devices, in the order of their indices.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = (DeviceIndex, &T)> {
        let devices = &self.inner.devices;
        (0..devices.len()).map(|before| {
            let on = DeviceIndex::new(before as u8);
            (on, &devices[on].transfer)
        })
    }

    /// The queue leases are tied to by default: the one the arena's moves run on, on the first device.
    pub fn queue(&self) -> &T::Queue {
        &self.inner.on(DeviceIndex::FIRST).queue
    }

    /// [`queue`](Self::queue) of another device.
    ///
    /// # Errors
    /// [`SwapError::NoDevice`].
    pub fn queue_at(&self, device: DeviceIndex) -> Result<&T::Queue, SwapError> {
        self.inner.check_device(device)?;
        Ok(&self.inner.on(device).queue)
    }

    /// Checks the invariants of the books against the arena and the tiers' budgets. O(tensors).
    ///
    /// # Errors
    /// The first one that does not hold, in words: always a bug of this crate.
    pub fn check(&self) -> Result<(), String> {
        let mut books = self.inner.lock();
        books.reap();
        books.check(&self.inner.host.stats())
    }

    pub(crate) fn insert(
        &self,
        spec: TensorSpec,
        fill: impl FnOnce(&mut Entry<T>),
    ) -> Result<Tensor<T>, SwapError> {
        let mut books = self.inner.lock();
        let arena = books.devices.values().map(|device| device.arena.allocator().size()).max().unwrap_or(0);
        if spec.bytes() > arena {
            return Err(SwapError::LargerThanArena {
                name: spec.name().to_owned(),
                bytes: spec.bytes(),
                arena,
            });
        }
        let at = books.insert(spec, self.inner.grain)?;
        let entry = books.entry_mut(at);
        fill(entry);
        let token = Arc::new(Token {
            inner: Arc::clone(&self.inner),
            at,
            spec: Arc::clone(&entry.spec),
            wished: AtomicU64::new(0),
        });
        entry.token = Arc::downgrade(&token);
        Ok(Tensor { token })
    }

    fn own(&self, tensor: &Tensor<T>) -> Result<(), SwapError> {
        if Arc::ptr_eq(&self.inner, &tensor.token.inner) {
            return Ok(());
        }
        Err(SwapError::ForeignTensor { name: tensor.spec().name().to_owned() })
    }
}

impl<T: Transfer> Inner<T> {
    /// Threads that fetch ahead: one enqueues faster than a device copies; a disk wants several requests at a time.
    pub(crate) fn fetchers(&self) -> usize {
        self.devices.len() + if self.lower.is_some() { 2 } else { 0 }
    }

    /// Who is told of what is no single device's.
    pub(crate) fn probe(&self) -> &Probe<T::Event> {
        &self.on(DeviceIndex::FIRST).probe
    }

    /// Tells what is held now on a device. What host memory holds goes with the first one's.
    pub(crate) fn tell_levels(&self, books: &Books<T>, on: DeviceIndex) {
        let levels = |on: DeviceIndex, host: u64| {
            let device = &books.devices[on];
            Levels { device: device.taken(), host, leased: device.held }
        };
        self.probe().levels(|| levels(DeviceIndex::FIRST, self.host.memory_stats().active_bytes.current));
        if on != DeviceIndex::FIRST {
            self.on(on).probe.levels(|| levels(on, 0));
        }
    }
}

impl<T: Transfer> Clone for SwapPool<T> {
    fn clone(&self) -> Self {
        SwapPool { inner: Arc::clone(&self.inner), last: Arc::clone(&self.last) }
    }
}

impl<T: Transfer> std::fmt::Debug for SwapPool<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwapPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
