//! The threads that do the I/O, and how they come and go.

use super::{
    drive::Drive,
    fault::Faults,
    io::{IoBuf, Region, flight::Pending},
    lane::{Lane, MustStart},
    regions::Regions,
    request::Direction,
};
use std::{
    io,
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle, ThreadId},
    time::{Duration, Instant},
};

/// The lanes of a store and the threads that serve them.
pub(super) struct Engine {
    /// Two for each drive, reads first.
    lanes: Vec<Arc<Lane>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    crew: Arc<Crew>,
    settings: Settings,
}

/// How many of what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) depth: usize,
    pub(super) threads: usize,
    pub(super) queue: usize,
    pub(super) grace: Duration,
}

/// What all the threads of an engine share.
pub(super) struct Crew {
    pub(super) drives: Vec<Arc<Drive>>,
    pub(super) faults: Faults,
    pub(super) regions: Regions,
    /// Threads that have not ended.
    alive: Mutex<usize>,
    gone: Condvar,
}

impl Engine {
    pub(super) fn new(drives: Vec<Arc<Drive>>, settings: Settings, faults: Faults) -> io::Result<Self> {
        let lane = |drive: &Arc<Drive>, direction| Lane::new(direction, drive.index, settings.queue);
        let both = [Direction::Read, Direction::Write];
        let lanes = drives.iter().flat_map(|drive| both.map(|direction| lane(drive, direction)));
        let lanes = lanes.map(|lane| lane.map(Arc::new)).collect::<io::Result<_>>()?;
        let crew =
            Crew { drives, faults, regions: Regions::default(), alive: Mutex::new(0), gone: Condvar::new() };
        Ok(Engine { lanes, threads: Mutex::default(), crew: Arc::new(crew), settings })
    }

    /// Has the mapping of `piece` registered with the rings, and keeps it until the threads have ended.
    pub(super) fn register(&self, piece: impl IoBuf) {
        self.crew.regions.add(Region::new(piece));
        self.lanes.iter().for_each(|lane| lane.ring());
    }

    /// Hands a request to the threads of its lane, and starts them if it is the first.
    pub(super) fn send(&self, drive: &Drive, direction: Direction, pending: Pending) {
        let at = drive.index * 2 + usize::from(direction == Direction::Write);
        let Some(lane) = self.lanes.get(at) else { return };
        match lane.push(pending) {
            Ok(MustStart(false)) => {}
            Ok(MustStart(true)) => self.start(lane),
            Err((pending, refusal)) => pending.refuse(refusal.into_error(drive.path(), direction)),
        }
    }

    /// Lets simulated operations that hang go on.
    #[cfg(feature = "conformance")]
    pub(super) fn release(&self) {
        self.crew.faults.release();
        self.lanes.iter().for_each(|lane| lane.ring());
    }

    #[cfg(feature = "conformance")]
    pub(super) fn faults_struck(&self) -> Vec<(super::Call, super::Fault, u64)> {
        self.crew.faults.struck()
    }

    #[cfg(feature = "conformance")]
    pub(super) fn clear_faults(&self) {
        self.crew.faults.clear();
    }

    fn start(&self, lane: &Arc<Lane>) {
        let Some(drive) = self.crew.drives.get(lane.drive) else { return };
        #[cfg(target_os = "linux")]
        if drive.path_taken() == super::IoPath::Uring {
            match super::io::ring::Ring::new(self.settings.depth, &self.crew.faults) {
                Ok(ring) => {
                    let crew = Arc::clone(&self.crew);
                    let run = move |lane: &Lane| super::reactor::run(lane, ring, &crew);
                    if let Err(why) = self.spawn(lane, run) {
                        lane.refuse(drive.path(), &why);
                    }
                    return;
                }
                // It worked when the store was opened.
                Err(why) => {
                    let all = lane.direction.name();
                    drive.note(format!("a ring to {all} with was refused ({why}): threads {all}"));
                }
            }
        }
        let spawn = |_| {
            let crew = Arc::clone(&self.crew);
            self.spawn(lane, move |lane| super::pool::run(lane, &crew.faults))
        };
        let started: Vec<io::Result<()>> = (0..self.settings.threads).map(spawn).collect();
        let some = started.iter().any(io::Result::is_ok);
        if let Some(why) = started.into_iter().find_map(io::Result::err) {
            // With fewer threads it is only slower.
            match some {
                true => drive.note(format!("a thread was refused ({why})")),
                false => lane.refuse(drive.path(), &why),
            }
        }
    }

    fn spawn(&self, lane: &Arc<Lane>, run: impl FnOnce(&Lane) + Send + 'static) -> io::Result<()> {
        let name = format!("disk-{}-{}", lane.direction.name(), lane.drive);
        let member = Member::new(lane, &self.crew);
        let thread = thread::Builder::new().name(name).spawn(move || run(&member.lane))?;
        super::lock(&self.threads).push(thread);
        Ok(())
    }
}

impl Drop for Engine {
    /// Refuses what has not been begun, and waits for what has, though not for ever: then threads end by themselves, and
    /// what they work with goes with them.
    fn drop(&mut self) {
        self.lanes.iter().for_each(|lane| lane.close());
        let threads = core::mem::take(&mut *super::lock(&self.threads));
        let own: ThreadId = thread::current().id();
        if threads.iter().any(|thread| thread.thread().id() == own) {
            // Called back by one of them, which cannot wait for itself.
            return;
        }
        if self.crew.wait_gone(self.settings.grace) {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}

impl Crew {
    /// Whether every thread ends within so long.
    fn wait_gone(&self, grace: Duration) -> bool {
        let deadline = Instant::now().checked_add(grace);
        let mut alive = super::lock(&self.alive);
        while *alive > 0 {
            let left = deadline.map_or(grace, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            alive = self.gone.wait_timeout(alive, left).unwrap_or_else(|e| e.into_inner()).0;
        }
        true
    }
}

/// One thread of the crew, however it ends.
struct Member {
    lane: Arc<Lane>,
    crew: Arc<Crew>,
}

impl Member {
    fn new(lane: &Arc<Lane>, crew: &Arc<Crew>) -> Self {
        *super::lock(&crew.alive) += 1;
        Member { lane: Arc::clone(lane), crew: Arc::clone(crew) }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut alive = super::lock(&self.crew.alive);
        *alive -= 1;
        drop(alive);
        self.crew.gone.notify_all();
        if thread::panicking() {
            // A buffer's own code panicked in it. Nobody is to wait for a thread that is not there.
            self.lane.close();
        }
    }
}
