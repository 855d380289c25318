//! Events: points on a timeline semaphore.

use super::VulkanError;
use super::context::{Context, RawQueue};
use super::memory::Memory;
use ash::vk;
use pinned_host::Event;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

/// A point on the timeline of one [`VulkanQueue`](super::VulkanQueue), or of a semaphore of the caller's.
///
/// Asking costs an atomic load once it has fired and a call of the driver before, cloning one reference count. Events
/// may outlive queue and device. Work on a Vulkan device fails only with the device: then every event that has not
/// fired reports [`VulkanError::DeviceLost`].
#[derive(Clone)]
pub struct VulkanEvent {
    timeline: Arc<Timeline>,
    value: u64,
    /// Whether the last operation before it was a sparse binding, which no barrier orders.
    bind: bool,
    /// What the host must not read from its cache once the event has fired.
    stale: Option<Arc<Stale>>,
}

/// Host memory that is not coherent, and that the work before an event writes.
struct Stale {
    memory: Arc<Memory>,
    offset: u64,
    bytes: u64,
    /// Whether the host's cache was told.
    told: Mutex<bool>,
}

impl VulkanEvent {
    pub(super) fn new(timeline: &Arc<Timeline>, value: u64, bind: bool) -> Self {
        VulkanEvent { timeline: Arc::clone(timeline), value, bind, stale: None }
    }

    /// The same event, which makes a range of memory visible to the host before it says that it has fired.
    pub(super) fn and_see(self, memory: &Arc<Memory>, offset: u64, bytes: u64) -> Self {
        let memory = Arc::clone(memory);
        VulkanEvent {
            stale: Some(Arc::new(Stale { memory, offset, bytes, told: Mutex::new(false) })),
            ..self
        }
    }

    /// Once, after it has fired.
    fn see(&self) -> Result<(), VulkanError> {
        if let Some(Stale { memory, offset, bytes, told }) = self.stale.as_deref() {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if !*told {
                memory.invalidate(*offset, *bytes)?;
                *told = true;
            }
        }
        Ok(())
    }

    /// The timeline semaphore and the value it reaches: what a submission of the caller's own waits for.
    ///
    /// The semaphore lives as long as any event, queue or submission of ours that uses it: keep the event until the
    /// waiting submission has ended.
    pub fn native(&self) -> (vk::Semaphore, u64) {
        (self.timeline.semaphore, self.value)
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.timeline.context
    }

    pub(super) fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }

    pub(super) fn value(&self) -> u64 {
        self.value
    }

    /// Whether work submitted to `queue` from now on runs after it anyway, because each of our submissions begins with
    /// a barrier against all that was submitted to its `VkQueue` before.
    pub(super) fn is_ordered_on(&self, queue: &Arc<RawQueue>) -> bool {
        !self.bind && self.timeline.queue.as_ref().is_some_and(|mine| Arc::ptr_eq(mine, queue))
    }

    pub(super) fn has_fired(&self) -> bool {
        self.timeline.done.load(SeqCst) >= self.value
    }
}

impl Event for VulkanEvent {
    type Error = VulkanError;

    fn query(&self) -> Result<bool, VulkanError> {
        if !self.timeline.reached(self.value)? {
            return Ok(false);
        }
        self.see().map(|()| true)
    }

    fn synchronize(&self) -> Result<(), VulkanError> {
        self.timeline.wait(self.value)?;
        self.see()
    }

    fn covers(&self, earlier: &Self) -> bool {
        Arc::ptr_eq(&self.timeline, &earlier.timeline) && self.value >= earlier.value
    }

    fn is_settled(&self) -> bool {
        // Once a loss was noticed, and waited out, nothing of ours is in use. Asking may notice it.
        matches!(self.timeline.reached(self.value), Ok(true)) || self.context().is_lost()
    }
}

impl core::fmt::Debug for VulkanEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("VulkanEvent")
            .field("device", &self.context().id)
            .field("value", &self.value)
            .field("fired", &self.has_fired())
            .finish()
    }
}

/// A timeline semaphore.
pub(super) struct Timeline {
    context: Arc<Context>,
    semaphore: vk::Semaphore,
    /// The highest value it was seen to have.
    done: AtomicU64,
    /// The highest value that a submission signals.
    submitted: AtomicU64,
    /// The queue whose submissions alone signal it; `None` for a caller's semaphore, which is not ours to destroy.
    queue: Option<Arc<RawQueue>>,
}

impl Timeline {
    /// One of its own for a queue.
    pub(super) fn new(context: &Arc<Context>, queue: &Arc<RawQueue>) -> Result<Arc<Self>, VulkanError> {
        let (semaphore, value) = context.semaphore()?;
        let (context, queue) = (Arc::clone(context), Some(Arc::clone(queue)));
        let (done, submitted) = (AtomicU64::new(value), AtomicU64::new(value));
        Ok(Arc::new(Timeline { context, semaphore, done, submitted, queue }))
    }

    /// A caller's.
    pub(super) fn foreign(context: &Arc<Context>, semaphore: vk::Semaphore) -> Arc<Self> {
        let context = Arc::clone(context);
        let (done, submitted) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Timeline { context, semaphore, done, submitted, queue: None })
    }

    pub(super) fn semaphore(&self) -> vk::Semaphore {
        self.semaphore
    }

    pub(super) fn submitted(&self) -> u64 {
        self.submitted.load(SeqCst)
    }

    /// A submission that signals `value`, one more than the one before, was made.
    pub(super) fn will_reach(&self, value: u64) {
        self.submitted.store(value, SeqCst);
    }

    /// Whether `value` is reached.
    pub(super) fn reached(&self, value: u64) -> Result<bool, VulkanError> {
        if self.done.load(SeqCst) >= value {
            return Ok(true);
        }
        self.context.check_lost()?;
        // SAFETY: the semaphore is a timeline semaphore of this device.
        let now = unsafe { self.context.device.get_semaphore_counter_value(self.semaphore) };
        let now = now.map_err(|e| self.context.heard(VulkanError::call("vkGetSemaphoreCounterValue")(e)))?;
        self.done.fetch_max(now, SeqCst);
        Ok(now >= value)
    }

    /// Blocks until `value` is reached.
    pub(super) fn wait(&self, value: u64) -> Result<(), VulkanError> {
        if self.reached(value)? {
            return Ok(());
        }
        let (semaphores, values) = ([self.semaphore], [value]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        // SAFETY: as above; the arrays live until the call returns.
        let waited = unsafe { self.context.device.wait_semaphores(&info, u64::MAX) };
        waited.map_err(|e| self.context.heard(VulkanError::call("vkWaitSemaphores")(e)))?;
        self.done.fetch_max(value, SeqCst);
        Ok(())
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        if self.queue.is_some() {
            // Submissions that signal or wait for it hold it until they have ended.
            self.context.retire(self.semaphore, self.submitted());
        }
    }
}
