//! The pool: a device, its arena, the host tier, and the tensors that share them.

use crate::{
    PoolBuilder, SwapError, Tensor, TensorSpec,
    books::{Books, Entry},
    file,
    lease::{Lease, Mode},
    meter::TransferTime,
    observe::{Levels, Probe},
    prefetch::Fetcher,
    stats::Stats,
    tensor::Token,
};
use pinned_host::{HostPool, RegionOf, StagingRing, Transfer};
use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

/// The pool's books, locked.
pub(crate) type Guard<'a, T> = MutexGuard<'a, Books<T>>;

/// Tensors that swap between one device, host memory and attached files.
///
/// Cloning is cheap and names the same pool. All calls block; none holds a lock while it waits.
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
pub struct SwapPool<T: Transfer> {
    pub(crate) inner: Arc<Inner<T>>,
    /// Ends with the last clone of the pool; what was asked for and not begun is forgotten then.
    pub(crate) fetcher: Arc<Fetcher<T>>,
}

/// What every handle of a pool shares.
pub(crate) struct Inner<T: Transfer> {
    pub(crate) books: Mutex<Books<T>>,
    /// Something changed that a sleeper may wait for.
    pub(crate) changed: Condvar,
    pub(crate) host: HostPool<RegionOf<T>>,
    pub(crate) staging: StagingRing<RegionOf<T>>,
    /// A clone of the arena's buffer, for copies made without the lock.
    pub(crate) buffer: T::Buffer,
    /// The queue moves run on, and leases by default.
    pub(crate) queue: T::Queue,
    /// An event of this device, long fired: another device's queue cannot wait for it.
    pub(crate) origin: T::Event,
    /// Bytes of a piece of a copy through staging.
    pub(crate) piece: u64,
    pub(crate) deadline: Duration,
    pub(crate) locked: u64,
    pub(crate) pageable: u64,
    pub(crate) probe: Probe<T::Event>,
    /// Last: everything above may still have work on it.
    pub(crate) device: T,
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
    pub fn lease_all(&self, wanted: &[(&Tensor<T>, Mode)]) -> Result<Vec<Lease<T>>, SwapError> {
        wanted.iter().try_for_each(|(tensor, _)| self.own(tensor))?;
        Lease::all(&self.inner, wanted, &self.inner.queue)
    }

    /// Starts to bring tensors to the device ahead of their use, in order, and returns at once.
    ///
    /// A hint: what does not fit beside leased, pinned and already fetched tensors is skipped, and a failure shows
    /// when the tensor is leased.
    pub fn prefetch(&self, tensors: &[&Tensor<T>]) {
        self.fetcher.ask(tensors.iter().map(|t| &t.token));
    }

    /// Blocks until everything asked for by [`prefetch`](Self::prefetch) so far is on its way, or was given up.
    pub fn wait_prefetch(&self) {
        self.fetcher.wait_idle();
    }

    /// Blocks until no transfer of this pool is in flight: everything enqueued before is done, or has failed.
    ///
    /// # Errors
    /// The first write-back that failed and that nobody was told of yet. Its source is still valid.
    pub fn settle(&self) -> Result<(), SwapError> {
        self.fetcher.wait_idle();
        let mut books = self.inner.lock();
        loop {
            books.reap();
            match books.job_in_flight() {
                Some(event) => books = self.inner.wait_for(books, &event),
                None => return books.fault.take().map_or(Ok(()), Err),
            }
        }
    }

    /// What the pool has done and what it holds. O(1) beside a look at the transfers in flight.
    pub fn stats(&self) -> Stats {
        let mut books = self.inner.lock();
        books.reap();
        let (c, arena) = (&books.counters, books.arena.stats());
        Stats {
            leases: c.leases,
            hits: c.hits,
            evictions: c.evictions,
            write_backs: c.write_backs,
            prefetches: c.prefetches,
            failed_transfers: c.failed_transfers,
            uploaded_bytes: c.uploaded_bytes,
            downloaded_bytes: c.downloaded_bytes,
            moved_bytes: c.moved_bytes,
            file_bytes: c.file_bytes,
            stall: c.stall,
            held_bytes: books.held,
            device_bytes: arena.size - arena.free,
            arena_bytes: arena.size,
            device_memory: self.inner.device.memory(),
            host_bytes: self.inner.host.stats().in_use,
            locked_bytes: self.inner.locked,
            pageable_bytes: self.inner.pageable,
        }
    }

    /// How long transfers took, if the pool was built with [`PoolBuilder::measure_transfers`] or
    /// [`PoolBuilder::timeline`].
    ///
    /// Blocks until the transfers in flight have ended; a timeline has them then.
    pub fn transfer_time(&self) -> Option<TransferTime> {
        self.inner.probe.transfer_time()
    }

    /// The device below.
    pub fn device(&self) -> &T {
        &self.inner.device
    }

    /// The queue leases are tied to by default: the one the arena's moves run on.
    pub fn queue(&self) -> &T::Queue {
        &self.inner.queue
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

    fn insert(&self, spec: TensorSpec, fill: impl FnOnce(&mut Entry<T>)) -> Result<Tensor<T>, SwapError> {
        let grain = self.inner.grain();
        let mut books = self.inner.lock();
        let arena = books.arena.allocator().size();
        if spec.bytes() > arena {
            return Err(SwapError::LargerThanArena {
                name: spec.name().to_owned(),
                bytes: spec.bytes(),
                arena,
            });
        }
        let at = books.insert(spec, grain)?;
        let entry = books.entry_mut(at);
        fill(entry);
        let token = Arc::new(Token {
            inner: Arc::clone(&self.inner),
            at,
            spec: Arc::clone(&entry.spec),
            wished: AtomicBool::new(false),
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
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        // Sections under the lock do not panic; if one ever did, the books may be read but are checked by `check`.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until something changes, at the latest at `until`.
    pub(crate) fn sleep<'a>(&'a self, mut books: Guard<'a, T>, until: Instant) -> Guard<'a, T> {
        let left = until.saturating_duration_since(Instant::now());
        books.sleepers += 1;
        let (mut books, _) = self.changed.wait_timeout(books, left).unwrap_or_else(PoisonError::into_inner);
        books.sleepers -= 1;
        books
    }

    /// Wakes the sleepers, if there are any.
    pub(crate) fn wake(&self, books: &Books<T>) {
        if books.sleepers > 0 {
            self.changed.notify_all();
        }
    }

    /// Tells what is held now.
    pub(crate) fn tell_levels(&self, books: &Books<T>) {
        self.probe.levels(|| {
            let arena = books.arena.stats();
            let host = self.host.memory_stats().active_bytes.current;
            Levels { device: arena.size - arena.free, host, leased: books.held }
        });
    }
}

impl<T: Transfer> Clone for SwapPool<T> {
    fn clone(&self) -> Self {
        SwapPool { inner: Arc::clone(&self.inner), fetcher: Arc::clone(&self.fetcher) }
    }
}

impl<T: Transfer> std::fmt::Debug for SwapPool<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwapPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
