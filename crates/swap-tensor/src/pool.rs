//! The pool: a device, its arena, the host tier, and the tensors that share them.

use crate::{
    OpenLease, PoolBuilder, SwapError, Tensor, TensorSpec,
    books::{Books, Entry},
    file,
    fill::Want,
    lease::{Lease, Mode},
    lock::Tasks,
    lower::Lower,
    meter::TransferTime,
    movers::Movers,
    observe::{Levels, Probe},
    policy::State,
    request::{self, Errand, LeaseRequest, Wanted},
    room::{Effort, Why},
    stats::Stats,
    tensor::Token,
};
use pinned_host::{HostPool, RegionOf, StagingRing, StagingStats, Transfer};
use std::{
    panic::Location,
    path::Path,
    sync::{Arc, Condvar, Mutex, Weak, atomic::AtomicBool},
    time::{Duration, Instant},
};

/// Tensors that swap between one device, host memory, a disk and attached files.
///
/// Cloning is cheap and names the same pool. Calls block, and none holds a lock while it waits; what a task can await instead is
/// a [`LeaseRequest`] or an [`Errand`].
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
            inner.probe.leaked(&open);
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
    /// A clone of the arena's buffer, for copies made without the lock.
    pub(crate) buffer: T::Buffer,
    /// The queue moves run on, and leases by default.
    pub(crate) queue: T::Queue,
    /// An event of this device, long fired: another device's queue cannot wait for it.
    pub(crate) origin: T::Event,
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
    /// Tensors with fewer bytes leave the device last.
    pub(crate) keep_below: u64,
    /// What everybody else holds.
    pub(crate) me: Weak<Inner<T>>,
    pub(crate) probe: Probe<T::Event>,
    /// Told of leases that are open when the last handle of the pool goes.
    pub(crate) on_leak: Option<OnLeak>,
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
    #[track_caller]
    pub fn lease_all(&self, wanted: &[(&Tensor<T>, Mode)]) -> Result<Vec<Lease<T>>, SwapError> {
        self.lease_many(wanted).wait()
    }

    /// [`lease_all`](Self::lease_all) as a request, to be awaited, tied to a queue or given a deadline of its own.
    #[track_caller]
    pub fn lease_many(&self, wanted: &[(&Tensor<T>, Mode)]) -> LeaseRequest<T, Vec<Lease<T>>> {
        let foreign = wanted.iter().find_map(|(tensor, _)| self.own(tensor).err());
        let place = Location::caller();
        let one = |&(tensor, mode): &(&Tensor<T>, Mode)| Wanted {
            token: Arc::clone(&tensor.token),
            mode,
            want: Want::Contents,
            place,
        };
        let request = LeaseRequest::new(&self.inner, wanted.iter().map(one).collect(), request::all);
        match foreign {
            Some(error) => request.refuse(error),
            None => request,
        }
    }

    /// Starts to bring tensors to the device ahead of their use, in order, and returns at once.
    ///
    /// A hint: what does not fit beside leased, pinned and already fetched tensors is skipped, and a failure shows
    /// when the tensor is leased.
    pub fn prefetch(&self, tensors: &[&Tensor<T>]) {
        self.inner.movers.wish(tensors.iter().map(|t| &t.token), self.inner.fetchers());
    }

    /// Takes back what [`prefetch`](Self::prefetch) was asked for and nobody has begun; how many tensors those were. A fetch that
    /// has taken room goes on.
    pub fn cancel_prefetch(&self, tensors: &[&Tensor<T>]) -> usize {
        self.inner.movers.unwish(|token| tensors.iter().any(|tensor| Arc::ptr_eq(&tensor.token, token)))
    }

    /// Says that an iteration of the program begins: a training step, a token. With [`PoolBuilder::schedule`] the leases of one
    /// iteration are the schedule of the next: what is needed farthest ahead leaves first, and what is needed next comes in just in
    /// time, without a [`prefetch`](Self::prefetch). Otherwise nothing happens.
    ///
    /// The first schedule is made while the second iteration runs, by a thread of the pool, and followed as soon as it is there. Where the program
    /// leaves the order, the pool's policy decides, until the next call. See [`policy::schedule`](crate::policy::schedule).
    ///
    /// ```
    /// use backend_cpu::CpuDevice;
    /// use swap_tensor::{DType, SwapPool, TensorSpec};
    ///
    /// let pool = SwapPool::builder(CpuDevice::new()?)
    ///     .device_memory(3 << 20)
    ///     .host_memory(8 << 20)
    ///     .schedule(true)
    ///     .build()?;
    /// let layers = (0..6u8)
    ///     .map(|i| pool.create(TensorSpec::new(format!("{i}"), DType::U8, [1 << 20])?, &vec![i; 1 << 20]))
    ///     .collect::<Result<Vec<_>, _>>()?;
    /// for _token in 0..4 {
    ///     pool.mark_step();
    ///     for layer in &layers {
    ///         layer.read()?.wait()?; // and compute, while the next one comes in
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mark_step(&self) {
        let mut books = self.inner.lock();
        let draft = books.rule.mark_step();
        self.inner.poke(&mut books);
        drop(books);
        if let Some(draft) = draft {
            self.inner.make_schedule(draft);
        }
    }

    /// What the pool goes by: a recorded step, or the policy because there is none, or none that fits; `None` without
    /// [`PoolBuilder::schedule`].
    pub fn schedule_state(&self) -> Option<State> {
        self.inner.lock().rule.state()
    }

    /// Blocks until everything asked for by [`prefetch`](Self::prefetch) is on its way, or was given up, what other threads ask for
    /// meanwhile included.
    pub fn wait_prefetch(&self) {
        self.inner.movers.wait_wishes();
    }

    /// Blocks until no transfer of this pool is in flight: everything enqueued before is done, or has failed.
    ///
    /// # Errors
    /// The first write-back that failed and that nobody was told of yet: its source is still valid. [`SwapError::Timeout`] when the
    /// disk tier ends nothing for as long as its deadline.
    pub fn settle(&self) -> Result<(), SwapError> {
        self.inner.settle()
    }

    /// [`settle`](Self::settle) for a task: a thread of the pool waits, from now on.
    pub fn settle_async(&self) -> Errand<Result<(), SwapError>> {
        let inner = Arc::clone(&self.inner);
        // Not a thread that serves wishes, for which this waits.
        self.inner.errand(move || inner.settle())
    }

    /// Changes the device bytes that tensors may take, at most the arena; more than that counts as the arena. Returns the bytes that
    /// are still taken beyond it.
    ///
    /// What nobody uses leaves at once as far as it can, the rest as soon as its leases end and others need room: a lease that no
    /// longer fits is refused, not one that was given.
    ///
    /// # Errors
    /// A write-back fails. The budget holds all the same.
    pub fn set_device_budget(&self, bytes: u64) -> Result<u64, SwapError> {
        self.inner.set_budget(bytes)
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
            spills: c.spills,
            disk_written_bytes: c.disk_written_bytes,
            disk_read_bytes: c.disk_read_bytes,
            corrupt_reads: c.corrupt_reads,
            device_budget: books.budget,
            disk_bytes: self.inner.lower.as_ref().map_or(0, Lower::bytes),
            stall: c.stall,
            open_leases: books.open.len() as u64,
            held_bytes: books.held,
            device_bytes: arena.size - arena.free,
            arena_bytes: arena.size,
            device_memory: self.inner.device.memory(),
            host_bytes: self.inner.host.stats().in_use,
            locked_bytes: self.inner.locked,
            pageable_bytes: self.inner.pageable,
        }
    }

    /// What the pool's staging holds, per direction: never more than its capacity.
    pub fn staging(&self) -> StagingStats {
        self.inner.staging.stats()
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

    pub(crate) fn insert(
        &self,
        spec: TensorSpec,
        fill: impl FnOnce(&mut Entry<T>),
    ) -> Result<Tensor<T>, SwapError> {
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
    /// Threads that fetch ahead: one enqueues faster than a device copies; a disk wants several requests at a time.
    pub(crate) fn fetchers(&self) -> usize {
        if self.lower.is_some() { 3 } else { 1 }
    }

    fn settle(&self) -> Result<(), SwapError> {
        self.movers.wait_wishes();
        let mut books = self.lock();
        let (mut since, mut left) = (Instant::now(), books.spills);
        loop {
            books.reap();
            if let Some(event) = books.job_in_flight() {
                books = self.wait_for(books, &event);
            } else if books.spills == 0 {
                return books.fault.take().map_or(Ok(()), Err);
            } else {
                if core::mem::replace(&mut left, books.spills) != left {
                    since = Instant::now();
                }
                let waited = since.elapsed();
                if waited >= self.patience {
                    return Err(SwapError::Timeout { operation: "settle: write to disk", waited });
                }
                books = self.sleep(books, since + self.patience);
            }
        }
    }

    fn set_budget(&self, bytes: u64) -> Result<u64, SwapError> {
        let mut books = self.lock();
        books.budget = bytes.min(books.arena.allocator().size());
        let budget = books.budget;
        if let Some(schedule) = books.rule.schedule() {
            schedule.set_device_bytes(budget);
        }
        self.wake(&books);
        let (since, failures) = (Instant::now(), books.counters.failed_transfers);
        let (mut books, left) = self.shrink(books, Effort { wait_until: None, since, why: Why::Lease });
        let failed = books.counters.failed_transfers > failures;
        match books.fault.take_if(|_| failed) {
            Some(fault) => Err(fault),
            None => left,
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
        SwapPool { inner: Arc::clone(&self.inner), last: Arc::clone(&self.last) }
    }
}

impl<T: Transfer> std::fmt::Debug for SwapPool<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwapPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
