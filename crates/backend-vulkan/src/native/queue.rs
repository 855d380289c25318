//! Queues: a list of operations that becomes one submission when an event is recorded.

use super::context::{Context, RawQueue};
use super::event::Timeline;
use super::memory::Memory;
use super::record::{Op, Recorder, full_barrier, host_barrier};
use super::{VulkanBuffer, VulkanError, VulkanEvent};
use ash::vk;
use pinned_host::{Event, Queue};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// An ordered sequence of work with a timeline semaphore of its own, on a `VkQueue` that others may share.
///
/// Operations are collected and go to the driver together when an event is recorded: one submission, whatever their
/// number. Recording where nothing was added costs nothing. Within the sequence a barrier stands between any two
/// operations that touch the same bytes, and before the first of each submission one against all that its `VkQueue`
/// was given before.
///
/// Cloning names the same queue. When the last clone goes, the work submitted is waited for.
#[derive(Clone)]
pub struct VulkanQueue(Arc<Shared>);

impl VulkanQueue {
    pub(super) fn new(
        context: &Arc<Context>,
        raw: &Arc<RawQueue>,
        name: &'static str,
    ) -> Result<Self, VulkanError> {
        let timeline = Timeline::new(context, raw)?;
        let info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER | vk::CommandPoolCreateFlags::TRANSIENT)
            .queue_family_index(raw.family);
        // SAFETY: the family is one of the device's.
        let pool = unsafe { context.device.create_command_pool(&info, None) };
        let pool = pool.map_err(|e| context.heard(VulkanError::call("vkCreateCommandPool")(e)))?;
        context.made();
        let (context, raw) = (Arc::clone(context), Arc::clone(raw));
        let (submitted, last_bind) = (timeline.submitted(), NEVER);
        let state = State { pool, submitted, last_bind, ..State::default() };
        Ok(VulkanQueue(Arc::new(Shared { context, raw, name, timeline, state: Mutex::new(state) })))
    }

    /// Adds commands of the caller's: a kernel, a clear, a copy of its own.
    ///
    /// They run in order with everything else on the queue, after a barrier against all of it and before one, so
    /// `record` need not write barriers at either end. `uses` are kept alive until the commands have ended. Nothing is
    /// submitted before the next [`record`](Queue::record).
    ///
    /// # Safety
    /// `record` records valid commands, which touch only memory that is alive until they have ended; it neither begins
    /// nor ends the command buffer, and does not call back into this queue (it would wait for itself).
    ///
    /// # Errors
    /// The driver gives no command buffer, or the device is lost; nothing was added.
    pub unsafe fn commands(
        &self,
        uses: &[&VulkanBuffer],
        record: impl FnOnce(&ash::Device, vk::CommandBuffer),
    ) -> Result<(), VulkanError> {
        for buffer in uses {
            buffer.check_device(&self.0.context)?;
        }
        let memory: Vec<_> = uses.iter().map(|buffer| buffer.memory()).collect();
        // SAFETY: the caller's promise.
        unsafe { self.commands_with(&memory, record) }
    }

    /// # Safety
    /// As [`commands`](Self::commands).
    pub(super) unsafe fn commands_with(
        &self,
        uses: &[&Arc<Memory>],
        record: impl FnOnce(&ash::Device, vk::CommandBuffer),
    ) -> Result<(), VulkanError> {
        let shared = &*self.0;
        let mut state = shared.lock();
        shared.context.check_lost()?;
        let commands = shared.begin(&mut state)?;
        let everything = vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE;
        full_barrier(&shared.context, commands, vk::PipelineStageFlags::ALL_COMMANDS, everything);
        record(&shared.context.device, commands);
        if shared.context.host_sees.load(SeqCst) {
            host_barrier(&shared.context, commands);
        }
        // SAFETY: begun above, and the caller's commands are valid.
        let ended = unsafe { shared.context.device.end_command_buffer(commands) };
        if let Err(result) = ended {
            state.idle.push(commands);
            return Err(shared.context.heard(VulkanError::call("vkEndCommandBuffer")(result)));
        }
        state.ops.push(Op::Commands(commands));
        uses.iter().for_each(|memory| state.keep(memory));
        Ok(())
    }

    /// Calls `f` with the `VkQueue` and its family, under the lock that guards its submissions; what was added before is
    /// submitted first.
    ///
    /// What `f` submits there counts as work of this queue: the next event recorded here fires after it. Nothing orders
    /// its memory accesses against ours: begin and end it with barriers, or with semaphores ([`VulkanEvent::native`],
    /// [`VulkanDevice::event_of`](super::VulkanDevice::event_of)). `f` runs under this queue's locks: it must not call the
    /// queue, or a transfer on it, which would wait for itself.
    ///
    /// # Errors
    /// What was added before cannot be submitted; `f` is not called.
    pub fn with_native<R>(&self, f: impl FnOnce(vk::Queue, u32) -> R) -> Result<R, VulkanError> {
        let mut state = self.0.lock();
        // A binding is only waited for by the submission after it: let that be one before the caller's.
        state.must_submit |= !state.waits.is_empty();
        self.0.flush(&mut state)?;
        let raw = &self.0.raw;
        let done = raw.with(|queue| f(queue, raw.family)).ok_or(NOT_CALLED);
        state.must_submit = true;
        done
    }

    /// Adds operations that stay together; `memory` is what they use.
    pub(super) fn add(
        &self,
        ops: impl Iterator<Item = Op>,
        memory: &[&Arc<Memory>],
    ) -> Result<(), VulkanError> {
        self.0.context.check_lost()?;
        let mut state = self.0.lock();
        state.ops.extend(ops);
        memory.iter().for_each(|memory| state.keep(memory));
        Ok(())
    }

    /// Adds operations and records behind them in one step, so that the event names them and not what others add.
    ///
    /// # Errors
    /// The submission failed: the operations were taken back.
    pub(super) fn add_recorded(
        &self,
        ops: impl Iterator<Item = Op>,
        memory: &[&Arc<Memory>],
    ) -> Result<VulkanEvent, VulkanError> {
        let mut state = self.0.lock();
        let (before, kept) = (state.ops.len(), state.kept.len());
        state.ops.extend(ops);
        memory.iter().for_each(|memory| state.keep(memory));
        if let Err(error) = self.0.flush(&mut state) {
            state.ops.truncate(before);
            state.kept.truncate(kept);
            return Err(error);
        }
        Ok(self.0.event(&state))
    }

    /// Submits a sparse binding after all that was added before; what comes later runs after it.
    pub(super) fn bind(
        &self,
        info: vk::SparseBufferMemoryBindInfo<'_>,
        memory: &Arc<Memory>,
    ) -> Result<(), VulkanError> {
        let shared = &*self.0;
        let mut state = shared.lock();
        shared.flush(&mut state)?;
        let value = state.submitted + 1;
        let semaphore = [shared.timeline.semaphore()];
        let (wait, signal) = ([state.submitted], [value]);
        let mut values = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&wait)
            .signal_semaphore_values(&signal);
        let buffers = [info];
        let bind = vk::BindSparseInfo::default()
            .wait_semaphores(&semaphore)
            .buffer_binds(&buffers)
            .signal_semaphores(&semaphore)
            .push_next(&mut values);
        // SAFETY: the queue's family binds sparse memory, buffer and memory are alive (kept below), and the timeline's
        // values rise with each submission of this queue, which the state's lock orders.
        let bound = shared.raw.with(|queue| unsafe {
            shared.context.device.queue_bind_sparse(queue, &[bind], vk::Fence::null())
        });
        shared.outcome(bound, "vkQueueBindSparse")?;
        state.submitted = value;
        shared.timeline.will_reach(value);
        state.last_bind = value;
        state.flying.push_back((value, Kept::Memory { _memory: Arc::clone(memory) }));
        // Submission order does not order a binding: the next submission waits for the semaphore.
        state.wait_for(&shared.timeline, value);
        Ok(())
    }

    /// Names the queue without keeping it.
    pub(super) fn downgrade(&self) -> WeakQueue {
        WeakQueue(Arc::downgrade(&self.0))
    }

    /// Gives up what ended submissions held.
    pub(super) fn reap(&self) {
        self.0.reap(&mut self.0.lock());
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.0.context
    }
}

/// A queue, if it is still there.
pub(super) struct WeakQueue(Weak<Shared>);

impl WeakQueue {
    pub(super) fn upgrade(&self) -> Option<VulkanQueue> {
        self.0.upgrade().map(VulkanQueue)
    }
}

impl Queue for VulkanQueue {
    type Event = VulkanEvent;

    fn wait(&self, event: &VulkanEvent) -> Result<(), VulkanError> {
        let shared = &*self.0;
        let (theirs, ours) = (event.context().id, shared.context.id);
        if theirs != ours {
            return Err(VulkanError::Foreign { what: "event", theirs, ours });
        }
        if event.has_fired() {
            return Ok(());
        }
        // What was added and not yet submitted waits as well. Nobody can be waiting for that, so no circle closes.
        let mut state = shared.lock();
        if Arc::ptr_eq(event.timeline(), &shared.timeline) {
            return Ok(());
        }
        state.must_submit = true;
        if !event.is_ordered_on(&shared.raw) {
            state.wait_for(event.timeline(), event.value());
        }
        Ok(())
    }

    fn record(&self) -> Result<VulkanEvent, VulkanError> {
        let mut state = self.0.lock();
        self.0.flush(&mut state)?;
        Ok(self.0.event(&state))
    }

    fn same_queue(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn drain(&self) -> Result<(), VulkanError> {
        let event = self.record()?;
        event.synchronize()?;
        self.reap();
        Ok(())
    }
}

impl core::fmt::Debug for VulkanQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let submitted = self.0.lock().submitted;
        f.debug_struct("VulkanQueue").field("name", &self.0.name).field("submitted", &submitted).finish()
    }
}

struct Shared {
    context: Arc<Context>,
    raw: Arc<RawQueue>,
    name: &'static str,
    timeline: Arc<Timeline>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pool: vk::CommandPool,
    /// The value the last submission signals.
    submitted: u64,
    /// The value of the last sparse binding, or [`NEVER`].
    last_bind: u64,
    /// Added and not yet submitted.
    ops: Vec<Op>,
    /// What `ops` use.
    kept: Vec<Arc<Memory>>,
    /// What the next submission waits for: each timeline once.
    waits: Vec<(Arc<Timeline>, u64)>,
    /// Whether an event must be a new submission although no operation was added: something is waited for.
    must_submit: bool,
    /// Command buffers that can be used again.
    idle: Vec<vk::CommandBuffer>,
    /// Held by submissions, with the value each signals; ascending.
    flying: VecDeque<(u64, Kept)>,
    recorder: Recorder,
    /// Lists for a submission, kept for their room.
    lists: Lists,
}

/// What a submission holds until it has ended.
enum Kept {
    Commands(vk::CommandBuffer),
    Memory {
        _memory: Arc<Memory>,
    },
    /// A semaphore that is waited for outlives the wait.
    Timeline {
        _timeline: Arc<Timeline>,
    },
}

#[derive(Default)]
struct Lists {
    commands: Vec<vk::CommandBuffer>,
    /// Those of `commands` that are recorded from `ops`, and not the caller's.
    ours: Vec<vk::CommandBuffer>,
    semaphores: Vec<vk::Semaphore>,
    values: Vec<u64>,
    stages: Vec<vk::PipelineStageFlags>,
}

impl State {
    fn keep(&mut self, memory: &Arc<Memory>) {
        if !self.kept.iter().rev().take(4).any(|kept| Arc::ptr_eq(kept, memory)) {
            self.kept.push(Arc::clone(memory));
        }
    }

    fn wait_for(&mut self, timeline: &Arc<Timeline>, value: u64) {
        match self.waits.iter_mut().find(|(other, _)| Arc::ptr_eq(other, timeline)) {
            Some((_, latest)) => *latest = value.max(*latest),
            None => self.waits.push((Arc::clone(timeline), value)),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole: a panic elsewhere does not concern it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, state: &State) -> VulkanEvent {
        VulkanEvent::new(&self.timeline, state.submitted, state.submitted == state.last_bind)
    }

    /// Submits what was added. A failure leaves it as it is, for another attempt.
    fn flush(&self, state: &mut State) -> Result<(), VulkanError> {
        self.context.check_lost()?;
        if state.ops.is_empty() && !state.must_submit {
            return Ok(());
        }
        self.reap(state);
        let written = self.write(state);
        let submitted = written.and_then(|()| self.submit(state));
        let Lists { commands, ours, .. } = &mut state.lists;
        if let Err(error) = submitted {
            state.idle.append(ours);
            commands.clear();
            return Err(error);
        }
        let value = state.submitted;
        state.flying.extend(commands.drain(..).map(|commands| (value, Kept::Commands(commands))));
        ours.clear();
        state.flying.extend(state.kept.drain(..).map(|memory| (value, Kept::Memory { _memory: memory })));
        state.flying.extend(
            state.waits.drain(..).map(|(timeline, _)| (value, Kept::Timeline { _timeline: timeline })),
        );
        state.ops.clear();
        state.must_submit = false;
        Ok(())
    }

    /// Turns the operations into command buffers, in `lists.commands`.
    fn write(&self, state: &mut State) -> Result<(), VulkanError> {
        let mut recorder = std::mem::take(&mut state.recorder);
        let mut lists = std::mem::take(&mut state.lists);
        let ops = std::mem::take(&mut state.ops);
        let mut open: Option<vk::CommandBuffer> = None;
        let mut written = Ok(());
        for op in &ops {
            if let Op::Commands(commands) = op {
                written = self.end(&mut recorder, open.take());
                lists.commands.push(*commands);
            } else {
                let commands = match open {
                    Some(commands) => Ok(commands),
                    None => self.begin(state).inspect(|commands| {
                        recorder.begin(&self.context, *commands);
                        lists.commands.push(*commands);
                        lists.ours.push(*commands);
                    }),
                };
                match (commands, op) {
                    (Ok(commands), Op::Copy { src, dst, region }) => {
                        recorder.copy(&self.context, commands, (*src, *dst), *region);
                        open = Some(commands);
                    }
                    (Ok(commands), _) => {
                        recorder.for_host(&self.context, commands);
                        open = Some(commands);
                    }
                    (Err(error), _) => written = Err(error),
                }
            }
            if written.is_err() {
                break;
            }
        }
        let ended = self.end(&mut recorder, open);
        (state.recorder, state.lists, state.ops) = (recorder, lists, ops);
        written.and(ended)
    }

    fn end(&self, recorder: &mut Recorder, open: Option<vk::CommandBuffer>) -> Result<(), VulkanError> {
        let Some(commands) = open else { return Ok(()) };
        if self.context.host_sees.load(SeqCst) {
            recorder.for_host(&self.context, commands);
        } else {
            recorder.write(&self.context, commands);
        }
        // SAFETY: it was begun by `begin`.
        let ended = unsafe { self.context.device.end_command_buffer(commands) };
        ended.map_err(|e| self.context.heard(VulkanError::call("vkEndCommandBuffer")(e)))
    }

    /// A command buffer, begun: one that can be used again, or a new one.
    fn begin(&self, state: &mut State) -> Result<vk::CommandBuffer, VulkanError> {
        let device = &self.context.device;
        let failed = |call, result| self.context.heard(VulkanError::call(call)(result));
        let commands = match state.idle.pop() {
            Some(commands) => commands,
            None => {
                let info = vk::CommandBufferAllocateInfo::default()
                    .command_pool(state.pool)
                    .level(vk::CommandBufferLevel::PRIMARY)
                    .command_buffer_count(1);
                // SAFETY: the pool is this queue's, and used under the state's lock alone.
                let made = unsafe { device.allocate_command_buffers(&info) };
                self.context.made();
                made.map_err(|e| failed("vkAllocateCommandBuffers", e))?[0]
            }
        };
        let info = vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: not in use: new, or its submission has ended; beginning resets it, as its pool allows.
        match unsafe { device.begin_command_buffer(commands, &info) } {
            Ok(()) => Ok(commands),
            Err(result) => {
                state.idle.push(commands);
                Err(failed("vkBeginCommandBuffer", result))
            }
        }
    }

    fn submit(&self, state: &mut State) -> Result<(), VulkanError> {
        let value = state.submitted + 1;
        let Lists { commands, semaphores, values, stages, .. } = &mut state.lists;
        semaphores.clear();
        values.clear();
        for (timeline, value) in &state.waits {
            semaphores.push(timeline.semaphore());
            values.push(*value);
        }
        stages.clear();
        stages.resize(semaphores.len(), vk::PipelineStageFlags::ALL_COMMANDS);
        let (signals, reaches) = ([self.timeline.semaphore()], [value]);
        let mut timeline = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(values)
            .signal_semaphore_values(&reaches);
        let info = vk::SubmitInfo::default()
            .wait_semaphores(semaphores)
            .wait_dst_stage_mask(stages)
            .command_buffers(commands)
            .signal_semaphores(&signals)
            .push_next(&mut timeline);
        // SAFETY: the command buffers are ended; they, what they use and the semaphores waited for are kept until the
        // value is reached; values rise with each submission, which the state's lock orders.
        let submitted = self
            .raw
            .with(|queue| unsafe { self.context.device.queue_submit(queue, &[info], vk::Fence::null()) });
        self.outcome(submitted, "vkQueueSubmit")?;
        state.submitted = value;
        self.timeline.will_reach(value);
        Ok(())
    }

    fn outcome(
        &self,
        submitted: Option<Result<(), vk::Result>>,
        call: &'static str,
    ) -> Result<(), VulkanError> {
        match submitted {
            None => Err(NOT_CALLED),
            Some(Err(result)) => Err(self.context.heard(VulkanError::call(call)(result))),
            Some(Ok(())) => {
                self.context.counted.submissions.fetch_add(1, Relaxed);
                Ok(())
            }
        }
    }

    /// Gives up what ended submissions held.
    fn reap(&self, state: &mut State) {
        while let Some((value, _)) = state.flying.front()
            && (self.context.is_lost() || matches!(self.timeline.reached(*value), Ok(true)))
        {
            if let Some((_, Kept::Commands(commands))) = state.flying.pop_front() {
                state.idle.push(commands);
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut state = std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        let _ = self.flush(&mut state);
        let device = &self.context.device;
        let ended = self.timeline.wait(state.submitted).is_ok()
            || self.context.is_lost()
            // SAFETY: the queue is used under its lock.
            || matches!(self.raw.with(|queue| unsafe { device.queue_wait_idle(queue) }), Some(Ok(())));
        if !ended {
            // Nobody can say whether it is in use.
            std::mem::forget(std::mem::take(&mut state.flying));
            return;
        }
        // SAFETY: all that was submitted from the pool has ended, or the device is lost and was waited out.
        unsafe { device.destroy_command_pool(state.pool, None) };
    }
}

/// A value that no binding has.
const NEVER: u64 = u64::MAX;
/// The caller's lock returned without running what it was given.
const NOT_CALLED: VulkanError =
    VulkanError::Driver { call: "SubmitLock::with", result: vk::Result::NOT_READY };
