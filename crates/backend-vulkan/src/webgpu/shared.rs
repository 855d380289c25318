//! What everything of one device shares: wgpu's device and queue, the order of submissions, the timeline.

use super::WgpuError;
use super::buffer::{GRAIN, Memory, Usage};
use super::copy;
use super::direct::Direct;
use super::encode::{Move, Mover};
use super::flight::{Flight, MOMENT, Mark, Oldest, Work};
use super::native::{Polled, lock, poll, scoped};
use super::options::Settings;
use super::order::{Order, OrderLock, Scratch};
use super::plain::Plain;
use super::staging::{Direction, Pool};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

/// A device's state; see the module's documentation for who does what.
pub(super) struct Shared {
    /// Number of the device among those made by this process.
    pub(super) id: u64,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: wgpu::Limits,
    pub(super) settings: Settings,
    pub(super) flight: Flight,
    pub(super) uploads: Pool,
    pub(super) downloads: Pool,
    pub(super) usage: Arc<Usage>,
    pub(super) plain: Plain,
    mover: Mover,
    order: OrderLock,
    /// A mapping of it is asked for only to hear whether the device still takes work.
    probe: Mutex<wgpu::Buffer>,
    submissions: AtomicU64,
    objects: AtomicU64,
    lost: OnceLock<&'static str>,
}

impl Shared {
    pub(super) fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        settings: Settings,
    ) -> Result<Arc<Self>, WgpuError> {
        let probe = wgpu::BufferDescriptor {
            label: Some("swap-tensor probe"),
            size: GRAIN,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        let (probe, error) = scoped(&device, || device.create_buffer(&probe));
        if let Some(source) = error {
            return Err(WgpuError::Memory { what: "a probe", bytes: GRAIN, source });
        }
        let shared = Shared {
            id: NEXT_ID.fetch_add(1, Relaxed),
            limits: device.limits(),
            mover: Mover::new(&device, &settings),
            flight: Flight::new(),
            uploads: Pool::new(Direction::Up),
            downloads: Pool::new(Direction::Down),
            usage: Arc::default(),
            plain: Plain::default(),
            order: OrderLock::default(),
            submissions: AtomicU64::new(0),
            objects: AtomicU64::new(1),
            lost: OnceLock::new(),
            device,
            queue,
            settings,
            probe: Mutex::new(probe),
        };
        // A device that is lost made a probe that is none: nobody else has it, so any refusal means that.
        match shared.probe_refused() {
            Some(_) => Err(shared.lose("it refused to map a buffer")),
            None => Ok(Arc::new(shared)),
        }
    }

    /// Submissions and wgpu buffers made so far.
    pub(super) fn counted(&self) -> (u64, u64) {
        (self.submissions.load(Relaxed), self.objects.load(Relaxed))
    }

    /// Notes a move that has been checked, to be submitted with what comes next.
    pub(super) fn note_move(&self, memory: &Arc<Memory>, src: Range<u64>, dst: u64) -> Result<(), WgpuError> {
        if src.is_empty() || src.start == dst {
            return Ok(());
        }
        let mut order = self.order.lock()?;
        self.alive()?;
        // Made here, since here a refusal changes nothing.
        if order.scratch.is_none() && self.mover.rules().needs_scratch(&src, dst) {
            let bytes = self.settings.scratch;
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            let buffer = self.make_buffer("move scratch", bytes, usage, false)?;
            order.scratch = Some(Scratch { buffer, _held: self.usage.hold_scratch(bytes) });
        }
        order.moves.push(Move { memory: Arc::clone(memory), src, dst });
        Ok(())
    }

    /// Submits noted moves, and adds a unit that ends with everything submitted to the wgpu queue so far, by
    /// whomever. Returns its number.
    pub(super) fn record(&self) -> Result<u64, WgpuError> {
        self.collect();
        let mut order = self.order.lock()?;
        self.hand_in(&mut order, None, "a move")?;
        let mark = self.flight.mark();
        let number = self.flight.add(order.last.clone(), Arc::clone(&mark), Work::Nothing);
        self.queue.on_submitted_work_done(move || mark.set(true));
        self.check_alive()?;
        drop(order);
        // A submission polls; who records again and again without one leaves callbacks that nobody calls.
        if number.is_multiple_of(RECORDS_PER_POLL) {
            self.progress();
        }
        Ok(number)
    }

    /// Submits noted moves and then `commands`, and adds a unit for them. Returns its number.
    ///
    /// The caller asks for the mapping that sets `mark`.
    pub(super) fn submit(
        &self,
        commands: wgpu::CommandBuffer,
        operation: &'static str,
        mark: &Arc<Mark>,
        work: Work,
    ) -> Result<u64, WgpuError> {
        let mut order = self.order.lock()?;
        self.hand_in(&mut order, Some(commands), operation)?;
        Ok(self.flight.add(order.last.clone(), Arc::clone(mark), work))
    }

    /// Drops moves that wgpu refuses, after it was said that they did not happen.
    pub(super) fn forget_moves(&self) {
        if let Ok(mut order) = self.order.lock() {
            order.moves.clear();
        }
    }

    /// A buffer within the limits, on a device that is alive.
    pub(super) fn make_buffer(
        &self,
        what: &'static str,
        bytes: u64,
        usage: wgpu::BufferUsages,
        mapped: bool,
    ) -> Result<wgpu::Buffer, WgpuError> {
        self.alive()?;
        let allowed = self.limits.max_buffer_size;
        if bytes > allowed {
            return Err(WgpuError::Limit { limit: "max_buffer_size", asked: bytes, allowed });
        }
        let descriptor =
            wgpu::BufferDescriptor { label: Some(what), size: bytes, usage, mapped_at_creation: mapped };
        let (buffer, error) = scoped(&self.device, || self.device.create_buffer(&descriptor));
        match error {
            None => {
                self.objects.fetch_add(1, Relaxed);
                Ok(buffer)
            }
            Some(source @ wgpu::Error::OutOfMemory { .. }) => Err(WgpuError::Memory { what, bytes, source }),
            Some(source) => Err(self.refusal(what, source)),
        }
    }

    /// The error for something that wgpu refused: it may only be that the device is lost.
    pub(super) fn refusal(&self, operation: &'static str, source: wgpu::Error) -> WgpuError {
        self.check_alive().err().unwrap_or(WgpuError::Refused { operation, source })
    }

    /// The error where staging memory cannot be reached: nobody else can unmap or destroy it, so the device is lost.
    pub(super) fn staging_gone(&self) -> WgpuError {
        self.lose("its staging memory is gone")
    }

    /// Memory for an arena, of zeroes.
    pub(super) fn make_arena(&self, bytes: u64) -> Result<(wgpu::Buffer, Option<Direct>), WgpuError> {
        let usage = self.settings.usage;
        if self.settings.direct == Some(true) && bytes <= self.limits.max_buffer_size {
            self.check_alive()?;
            if let Some((buffer, direct)) = self.mover.shared_buffer(&self.device, bytes, usage) {
                self.objects.fetch_add(1, Relaxed);
                return Ok((buffer, Some(direct)));
            }
        }
        let buffer = self.make_buffer("arena", bytes, usage, false)?;
        self.clear(&buffer)?;
        Ok((buffer, None))
    }

    /// Whether everything that anybody submitted to the queue has ended.
    pub(super) fn is_idle(&self) -> Result<bool, WgpuError> {
        let order = self.order.lock()?;
        self.check_alive()?;
        if !order.moves.is_empty() {
            return Ok(false);
        }
        // Submits what the user wrote with `Queue::write_buffer` before, which wgpu keeps for the next submission.
        self.queue.on_submitted_work_done(|| ());
        let idle = self.polled(wgpu::PollType::Poll) == Polled::Ended;
        drop(order);
        self.collect();
        Ok(idle)
    }

    /// Fills a new buffer with zeroes: wgpu would do so later, when a byte nobody wrote is first read, and it cannot
    /// see what raw moves write. Memory is touched here and not inside the first transfer.
    pub(super) fn clear(&self, buffer: &wgpu::Buffer) -> Result<(), WgpuError> {
        let (commands, error) = scoped(&self.device, || {
            let mut encoder =
                self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("clear") });
            encoder.clear_buffer(buffer, 0, None);
            encoder.finish()
        });
        if let Some(source) = error {
            return Err(self.refusal("the clearing of a new buffer", source));
        }
        let mut order = self.order.lock()?;
        self.hand_in(&mut order, Some(commands), "the clearing of a new buffer")?;
        self.check_alive()
    }

    /// Asks for a mapping that sets `mark`. A device that is lost refuses at once: that is an error.
    pub(super) fn map(
        &self,
        buffer: &wgpu::Buffer,
        mode: wgpu::MapMode,
        bytes: u64,
        mark: &Arc<Mark>,
    ) -> Result<(), WgpuError> {
        let told = Arc::clone(mark);
        let callback = move |mapped: Result<(), wgpu::BufferAsyncError>| told.set(mapped.is_ok());
        let ((), _) = scoped(&self.device, || buffer.map_async(mode, ..bytes, callback));
        if mark.has_failed() { Err(self.lose("it refused to map a buffer")) } else { Ok(()) }
    }

    /// Finishes what the device is done with, as far as wgpu has told; never blocks for the device.
    pub(super) fn collect(&self) {
        let sound = self.flight.collect(|work| match work {
            Work::Nothing => true,
            Work::Upload(staging) => {
                self.uploads.put(staging);
                true
            }
            Work::Download(staging, mut to) => {
                let bytes = to.len() as u64;
                match staging.buffer.get_mapped_range(..bytes) {
                    Ok(view) => copy::fill(to.as_mut_slice(), &view),
                    Err(_) => return false,
                }
                let ((), error) = scoped(&self.device, || staging.buffer.unmap());
                if error.is_none() {
                    self.downloads.put(staging);
                }
                true
            }
        });
        if !sound {
            self.staging_gone();
        }
    }

    /// Lets wgpu tell what has ended, and finishes that. Never blocks for the device.
    pub(super) fn progress(&self) {
        self.polled(wgpu::PollType::Poll);
        self.collect();
    }

    /// Polls, waits and finishes work until `enough`, or until the device is lost.
    pub(super) fn wait_until(&self, enough: impl Fn() -> bool) -> Result<(), WgpuError> {
        loop {
            self.collect();
            if enough() {
                return Ok(());
            }
            self.alive()?;
            let Some(Oldest { index, mark, alone }) = self.flight.oldest() else {
                // Another thread has it in hand.
                self.flight.wait(MOMENT, || enough() || self.flight.oldest().is_some());
                continue;
            };
            if mark.is_waiting() && index.is_some() {
                self.polled(wgpu::PollType::Wait { submission_index: index, timeout: None });
            }
            // Still nothing: another thread has polled and is about to call back, or the user's submissions came
            // between ours and the mark.
            if mark.is_waiting() {
                self.flight.wait(if alone { MOMENT } else { MOMENT / 10 }, || !mark.is_waiting());
            }
            if mark.is_waiting() && !alone {
                // Without a timeout: a wait that times out while another thread polls ends in a panic of wgpu's.
                self.polled(wgpu::PollType::Wait { submission_index: None, timeout: None });
            }
        }
    }

    /// An error if the device is known to be lost.
    pub(super) fn alive(&self) -> Result<(), WgpuError> {
        self.lost.get().map_or(Ok(()), |reason| Err(WgpuError::DeviceLost { reason }))
    }

    /// Notes that the device is lost, and sees that host memory is touched no more. The error to return.
    pub(super) fn lose(&self, reason: &'static str) -> WgpuError {
        let reason = self.lost.get_or_init(|| reason);
        self.flight.cancel();
        WgpuError::DeviceLost { reason }
    }

    /// Submits noted moves and `commands` as one submission; nothing if there are neither. On an error the moves
    /// are still noted.
    fn hand_in(
        &self,
        order: &mut Order,
        commands: Option<wgpu::CommandBuffer>,
        operation: &'static str,
    ) -> Result<(), WgpuError> {
        self.alive()?;
        if order.moves.is_empty() && commands.is_none() {
            return Ok(());
        }
        let moves = self
            .mover
            .encode(&self.device, &order.moves, order.scratch.as_ref())
            .map_err(|source| self.refusal("a move", source))?;
        self.submissions.fetch_add(1, Relaxed);
        let (index, error) = scoped(&self.device, || self.queue.submit(moves.into_iter().chain(commands)));
        // Callbacks of the user's run inside a submission, and their errors end up in our scope: ask whether this one
        // was refused.
        if let Some(source) = error
            && self.never_submitted(&index)
        {
            return Err(self.refusal(operation, source));
        }
        order.last = Some(index);
        order.moves.clear();
        Ok(())
    }

    fn never_submitted(&self, index: &wgpu::SubmissionIndex) -> bool {
        let look = wgpu::PollType::Wait { submission_index: Some(index.clone()), timeout: None };
        poll(&self.device, look) == Polled::NeverSubmitted
    }

    /// Asks wgpu whether the device takes work, which it says without being asked only to whoever set its callback.
    /// Submits nothing.
    pub(super) fn check_alive(&self) -> Result<(), WgpuError> {
        match self.probe_refused() {
            // A lost device refuses without an error. With one, another thread's poll was about to map the probe for
            // the last time we asked, and wgpu found it mapped; it looks at the device first, so that is alive.
            Some(None) => Err(self.lose("it refused to map a buffer")),
            Some(Some(_)) | None => Ok(()),
        }
    }

    /// Whether wgpu refuses to map the probe, and why, if it says so.
    fn probe_refused(&self) -> Option<Option<wgpu::Error>> {
        let probe = lock(&self.probe);
        let refused = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&refused);
        let callback = move |mapped: Result<(), wgpu::BufferAsyncError>| told.store(mapped.is_err(), SeqCst);
        let ((), error) = scoped(&self.device, || probe.map_async(wgpu::MapMode::Read, .., callback));
        // What refuses does so at once. Unmapping tells the callback as well, when nobody listens any more.
        let refused = refused.load(SeqCst);
        let ((), _) = scoped(&self.device, || probe.unmap());
        refused.then_some(error)
    }

    fn polled(&self, wait: wgpu::PollType) -> Polled {
        let polled = poll(&self.device, wait);
        match polled {
            Polled::NeverSubmitted => drop(self.lose("it did not take a submission")),
            Polled::Lost => drop(self.lose("the driver failed while it was waited for")),
            Polled::Ended | Polled::NotYet => {}
        }
        polled
    }
}

/// Units from one poll of `record`'s own to the next.
const RECORDS_PER_POLL: u64 = 64;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
