//! Leases that are asked for: by a thread that blocks, or by a task that is woken, on any executor.

use crate::{
    DeviceIndex, SwapError,
    claim::Claim,
    device::Spot,
    fill::Want,
    hold::Hold,
    lease::{Lease, Mode, ReadLease, WriteLease},
    movers::Work,
    pool::Inner,
    room::{Effort, Why},
    tensor::Token,
};
use core::{
    future::{Future, IntoFuture},
    pin::Pin,
    task::{Context, Poll},
};
use pinned_host::Transfer;
use std::{
    panic::Location,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

/// A wish for one lease or for several at once: nothing happens before it is awaited or waited for.
///
/// `L` is what comes of it: a [`ReadLease`], a [`WriteLease`] or, from
/// [`SwapPool::lease_many`](crate::SwapPool::lease_many), all of the leases or none.
///
/// ```
/// use backend_cpu::CpuDevice;
/// use swap_tensor::{DType, SwapPool, TensorSpec};
/// # use std::{future::IntoFuture, pin::pin, sync::Arc, task::{Context, Poll, Wake}};
/// # struct Unpark(std::thread::Thread);
/// # impl Wake for Unpark { fn wake(self: Arc<Self>) { self.0.unpark() } }
/// # fn block_on<F: IntoFuture>(future: F) -> F::Output {
/// #     let mut future = pin!(future.into_future());
/// #     let waker = Arc::new(Unpark(std::thread::current())).into();
/// #     loop {
/// #         match future.as_mut().poll(&mut Context::from_waker(&waker)) {
/// #             Poll::Ready(output) => return output,
/// #             Poll::Pending => std::thread::park(),
/// #         }
/// #     }
/// # }
///
/// let pool = SwapPool::builder(CpuDevice::new()?).device_memory(1 << 20).host_memory(4 << 20).build()?;
/// let weights = pool.create(TensorSpec::new("w", DType::U8, [1 << 20])?, &vec![7; 1 << 20])?;
/// let step = async {
///     let lease = weights.lease().await?; // any executor
///     lease.wait()?; // or submit work to the lease's queue
///     drop(lease);
///     weights.lease_mut().wait().map(drop) // the same, blocking
/// };
/// block_on(step)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is leased before the request is awaited or waited for"]
pub struct LeaseRequest<T: Transfer, L> {
    inner: Arc<Inner<T>>,
    wanted: Vec<Wanted<T>>,
    within: Duration,
    make: fn(Vec<Hold<T>>) -> Option<L>,
    /// What is wrong with the request itself.
    refused: Option<SwapError>,
}

/// One tensor of a request.
pub(crate) struct Wanted<T: Transfer> {
    pub(crate) token: Arc<Token<T>>,
    pub(crate) on: DeviceIndex,
    pub(crate) mode: Mode,
    pub(crate) want: Want,
    /// The device's own, unless the program names one.
    pub(crate) queue: Option<T::Queue>,
    /// Where the program asked.
    pub(crate) place: &'static Location<'static>,
}

impl<T: Transfer> Wanted<T> {
    pub(crate) fn spot(&self) -> Spot {
        Spot { at: self.token.at, on: self.on }
    }

    /// What it claims.
    pub(crate) fn claim<'a>(&'a self, inner: &'a Inner<T>) -> Claim<'a, T> {
        let queue = self.queue.as_ref().unwrap_or(&inner.on(self.on).queue);
        Claim { spot: self.spot(), mode: self.mode, want: self.want, queue }
    }
}

impl<T: Transfer, L> LeaseRequest<T, L> {
    pub(crate) fn new(
        inner: &Arc<Inner<T>>,
        wanted: Vec<Wanted<T>>,
        make: fn(Vec<Hold<T>>) -> Option<L>,
    ) -> Self {
        let beyond = wanted.iter().find_map(|one| inner.check_device(one.on).err());
        let refused = beyond.or_else(|| twice(&wanted));
        LeaseRequest { inner: Arc::clone(inner), wanted, within: inner.deadline, make, refused }
    }

    /// The request can only fail.
    pub(crate) fn refuse(mut self, error: SwapError) -> Self {
        self.refused = Some(error);
        self
    }

    /// Asks for the leases on `device`, all of them, instead of the first device or those that the request was made for.
    pub fn at(mut self, device: DeviceIndex) -> Self {
        if let Err(error) = self.inner.check_device(device) {
            return self.refuse(error);
        }
        self.wanted.iter_mut().for_each(|one| one.on = device);
        self
    }

    /// Ties the leases to `queue` instead of their devices' own: work submitted there afterwards finds the bytes in place. It must
    /// be a queue of their device; one that is on several has its leases tied by [`on_at`](Self::on_at).
    pub fn on(mut self, queue: &T::Queue) -> Self {
        self.wanted.iter_mut().for_each(|one| one.queue = Some(queue.clone()));
        self
    }

    /// [`on`](Self::on), for those leases of the request that are on `device`.
    pub fn on_at(mut self, device: DeviceIndex, queue: &T::Queue) -> Self {
        let there = self.wanted.iter_mut().filter(|one| one.on == device);
        there.for_each(|one| one.queue = Some(queue.clone()));
        self
    }

    /// Waits at most so long, instead of the pool's [`deadline`](crate::PoolBuilder::deadline), for leases of others to end.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// Blocks until the lease is there.
    ///
    /// # Errors
    /// As [`Tensor::read_on`](crate::Tensor::read_on). Nothing is held then.
    pub fn wait(mut self) -> Result<L, SwapError> {
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        let effort = self.effort();
        let books = self.inner.claim(self.inner.lock(), &claims(&self.inner, &self.wanted), effort)?;
        let holds = self.inner.occupy_all(books, &self.wanted, effort)?;
        self.finish(holds)
    }

    fn effort(&self) -> Effort {
        let since = Instant::now();
        let until = since.checked_add(self.within).unwrap_or(since + FOR_EVER);
        Effort { wait_until: Some(until), since, why: Why::Lease }
    }

    fn finish(&self, holds: Vec<Hold<T>>) -> Result<L, SwapError> {
        // As many holds as were wanted, always.
        (self.make)(holds).ok_or_else(|| self.inner.lost(DeviceIndex::FIRST))
    }
}

impl<T: Transfer, L> IntoFuture for LeaseRequest<T, L> {
    type Output = Result<L, SwapError>;
    type IntoFuture = Leasing<T, L>;

    fn into_future(self) -> Leasing<T, L> {
        let effort = self.effort();
        Leasing { request: self, effort, stage: Stage::Asking { alarmed: false } }
    }
}

/// The future of a [`LeaseRequest`].
///
/// It waits for others' leases without a thread, then has one of the pool's threads bring in what is not on the device. It may be
/// dropped at any time: what it has begun by then goes on to its end on the pool's own memory, and the lease ends at once.
#[must_use = "futures do nothing unless polled"]
pub struct Leasing<T: Transfer, L> {
    request: LeaseRequest<T, L>,
    effort: Effort,
    stage: Stage<T>,
}

enum Stage<T: Transfer> {
    /// Waiting until no lease of others is in the way.
    Asking {
        alarmed: bool,
    },
    /// A thread of the pool turns the claim into leases.
    Bringing(Arc<Promise<Result<Vec<Hold<T>>, SwapError>>>),
    Over,
}

// No field is ever pinned.
impl<T: Transfer, L> Unpin for Leasing<T, L> {}

impl<T: Transfer, L> Future for Leasing<T, L> {
    type Output = Result<L, SwapError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let holds = match &mut this.stage {
            Stage::Asking { alarmed } => {
                let polled = this.request.ask(this.effort, alarmed, cx.waker());
                match polled {
                    Asked::Later => return Poll::Pending,
                    Asked::Now(holds) => Poll::Ready(holds),
                    Asked::Bringing(promise) => {
                        let polled = promise.poll(cx.waker());
                        this.stage = Stage::Bringing(promise);
                        polled
                    }
                }
            }
            Stage::Bringing(promise) => promise.poll(cx.waker()),
            Stage::Over => return Poll::Pending, // polled after it was ready: nothing will come
        };
        holds.map(|holds| {
            this.stage = Stage::Over;
            holds.and_then(|holds| this.request.finish(holds))
        })
    }
}

/// What asking came to.
enum Asked<T: Transfer> {
    Later,
    Now(Result<Vec<Hold<T>>, SwapError>),
    Bringing(Arc<Promise<Result<Vec<Hold<T>>, SwapError>>>),
}

impl<T: Transfer, L> LeaseRequest<T, L> {
    fn ask(&mut self, effort: Effort, alarmed: &mut bool, waker: &Waker) -> Asked<T> {
        if let Some(error) = self.refused.take() {
            return Asked::Now(Err(error));
        }
        let inner = &self.inner;
        let mut books = inner.lock();
        if let Err(refusal) = inner.claim_now(&mut books, &claims(inner, &self.wanted), effort) {
            if !refusal.may_pass(effort) {
                return Asked::Now(Err(books.name_holders(refusal.error)));
            }
            inner.wake_at_change(&books, waker);
            drop(books);
            if let (false, Some(until)) = (core::mem::replace(alarmed, true), effort.wait_until) {
                inner.movers.alarm(inner, until);
            }
            return Asked::Later;
        }
        if self.wanted.iter().all(|wanted| books.is_at_hand(wanted.spot(), wanted.mode)) {
            return Asked::Now(inner.occupy_all(books, &self.wanted, effort));
        }
        drop(books);
        let promise = Arc::new(Promise::default());
        let (kept, wanted) = (Arc::clone(&promise), core::mem::take(&mut self.wanted));
        let here = Arc::clone(inner);
        let work: Work = Box::new(move || kept.keep(here.occupy_all(here.lock(), &wanted, effort)));
        if let Err(work) = inner.movers.demand(work) {
            work(); // no thread can be had: this one does it
        }
        Asked::Bringing(promise)
    }
}

/// A value that a thread makes for a task.
pub(crate) struct Promise<V> {
    state: Mutex<(Option<V>, Option<Waker>)>,
}

impl<V> Default for Promise<V> {
    fn default() -> Self {
        Promise { state: Mutex::new((None, None)) }
    }
}

impl<V> Promise<V> {
    pub(crate) fn keep(&self, value: V) {
        let mut state = self.lock();
        state.0 = Some(value);
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn poll(&self, waker: &Waker) -> Poll<V> {
        let mut state = self.lock();
        match state.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.1 = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Option<V>, Option<Waker>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A blocking call of the pool that one of its threads makes for a task. It has begun when this is made, and goes on to its end if
/// this is dropped.
#[must_use = "what the call came to is lost"]
pub struct Errand<V> {
    promise: Arc<Promise<V>>,
}

impl<V> Future for Errand<V> {
    type Output = V;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<V> {
        self.promise.poll(cx.waker())
    }
}

impl<T: Transfer> Inner<T> {
    /// Makes a blocking call on a thread of the pool.
    pub(crate) fn errand<V: Send + 'static>(&self, call: impl FnOnce() -> V + Send + 'static) -> Errand<V> {
        let promise = Arc::new(Promise::default());
        let kept = Arc::clone(&promise);
        if let Err(work) = self.movers.demand(Box::new(move || kept.keep(call()))) {
            work();
        }
        Errand { promise }
    }
}

impl<T: Transfer, L> std::fmt::Debug for LeaseRequest<T, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.wanted.iter().map(|w| (w.token.spec.name(), w.mode, w.on)).collect();
        f.debug_struct("LeaseRequest")
            .field("wanted", &names)
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

impl<T: Transfer, L> std::fmt::Debug for Leasing<T, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leasing").field("request", &self.request).finish_non_exhaustive()
    }
}

impl<V> std::fmt::Debug for Errand<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Errand").finish_non_exhaustive()
    }
}

pub(crate) fn one_read<T: Transfer>(mut holds: Vec<Hold<T>>) -> Option<ReadLease<T>> {
    holds.pop().map(ReadLease::new)
}

pub(crate) fn one_write<T: Transfer>(mut holds: Vec<Hold<T>>) -> Option<WriteLease<T>> {
    holds.pop().map(WriteLease::new)
}

pub(crate) fn all<T: Transfer>(holds: Vec<Hold<T>>) -> Option<Vec<Lease<T>>> {
    Some(holds.into_iter().map(Lease::new).collect())
}

fn claims<'a, T: Transfer>(inner: &'a Inner<T>, wanted: &'a [Wanted<T>]) -> Vec<Claim<'a, T>> {
    wanted.iter().map(|wanted| wanted.claim(inner)).collect()
}

/// A tensor that is asked for twice, on whatever devices, and not only for reading.
fn twice<T: Transfer>(wanted: &[Wanted<T>]) -> Option<SwapError> {
    let again = |i: usize| {
        wanted[..i]
            .iter()
            .any(|w| w.token.at == wanted[i].token.at && (w.mode, wanted[i].mode) != (Mode::Read, Mode::Read))
    };
    let name =
        wanted.iter().enumerate().find(|(i, _)| again(*i)).map(|(_, w)| w.token.spec.name().to_owned());
    name.map(|name| SwapError::LeasedTwice { name })
}

/// Longer than any program runs.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
