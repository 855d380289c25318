//! A simulator of what goes wrong with disks: which system calls fail, and how. For tests; it measures nothing.
//!
//! Faults strike where the system calls are made, so that what retries, checks and gives up is the real engine, on either
//! path. Operations are struck in the order in which they are sent, which is the order of requests where one thread sends
//! them (io_uring, or one thread of a pool): then a plan and a seed do the same every time.

use super::request::Direction;
use std::{
    fmt, io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

/// A kind of system call that a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// An anonymous file made with `O_TMPFILE`.
    Temporary,
    /// A file opened with `O_DIRECT`.
    OpenDirect,
    /// Room reserved with `fallocate`.
    Allocate,
    /// A ring set up.
    RingSetup,
    /// Memory registered with a ring.
    RegisterBuffers,
    /// Part of a read, or all of it.
    Read,
    /// Part of a write, or all of it.
    Write,
    /// The write past the page cache with which a directory is probed.
    ProbeDirect,
    /// The write by a ring with which a directory is probed.
    ProbeRing,
}

/// What a fault does to the call it strikes.
///
/// All but the first concern reads and writes only; another call that they strike passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The call fails with this error of the system's, as `errno` has it; nothing is transferred.
    Os(i32),
    /// About half of the bytes are transferred, where the unit of I/O allows it.
    Short,
    /// One bit of what was transferred is wrong, in memory or in the file, and nothing says so.
    BitFlip,
    /// The operation ends later than those sent after it that are in flight with it.
    Delay,
    /// The operation ends when [`DiskStore::release`](super::DiskStore::release) is called, and not before.
    Hang,
}

impl Fault {
    /// The device cannot do it: `EIO`.
    pub const IO: Fault = Fault::Os(rustix::io::Errno::IO.raw_os_error());
    /// The file system is full: `ENOSPC`.
    pub const NO_SPACE: Fault = Fault::Os(rustix::io::Errno::NOSPC.raw_os_error());
    /// A signal came first: `EINTR`.
    pub const INTERRUPTED: Fault = Fault::Os(rustix::io::Errno::INTR.raw_os_error());
    /// Not now: `EAGAIN`.
    pub const AGAIN: Fault = Fault::Os(rustix::io::Errno::AGAIN.raw_os_error());
    /// Not so: `EINVAL`, as from file systems without direct I/O.
    pub const INVALID: Fault = Fault::Os(rustix::io::Errno::INVAL.raw_os_error());
    /// Not allowed: `EPERM`, as from seccomp or `kernel.io_uring_disabled`.
    pub const NOT_PERMITTED: Fault = Fault::Os(rustix::io::Errno::PERM.raw_os_error());
    /// Not known: `ENOSYS`, as from old kernels and from containers.
    pub const UNKNOWN_CALL: Fault = Fault::Os(rustix::io::Errno::NOSYS.raw_os_error());
    /// Not supported: `EOPNOTSUPP`, as from file systems without `O_TMPFILE` or `fallocate`.
    pub const NOT_SUPPORTED: Fault = Fault::Os(rustix::io::Errno::OPNOTSUPP.raw_os_error());
    /// Beyond a limit: `ENOMEM`, as from `RLIMIT_MEMLOCK`.
    pub const NO_MEMORY: Fault = Fault::Os(rustix::io::Errno::NOMEM.raw_os_error());
}

/// Which calls go wrong: scripted by number, drawn from the seed, or both.
///
/// ```
/// use swap_tensor::disk::{Call, Fault, FaultPlan};
/// let plan = FaultPlan::seeded(7)
///     .always(Call::RingSetup, Fault::NOT_PERMITTED)  // as in most containers
///     .at(Call::Write, 2, Fault::NO_SPACE)            // the second write
///     .randomly(Call::Read, 100, Fault::BitFlip);     // one read in a hundred
/// assert_ne!(plan, FaultPlan::seeded(7));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultPlan {
    seed: u64,
    scripted: Vec<(Call, u64, Fault)>,
    random: Vec<(Call, u32, Fault)>,
}

impl FaultPlan {
    /// Nothing goes wrong, yet; `seed` decides what [`randomly`](Self::randomly) strikes.
    pub fn seeded(seed: u64) -> Self {
        FaultPlan { seed, ..Self::default() }
    }

    /// Strikes the `k`-th `call`, counted from 1.
    #[must_use]
    pub fn at(mut self, call: Call, k: u64, fault: Fault) -> Self {
        self.scripted.push((call, k, fault));
        self
    }

    /// Strikes one `call` in `one_in`, at random; 0 is never.
    #[must_use]
    pub fn randomly(mut self, call: Call, one_in: u32, fault: Fault) -> Self {
        self.random.push((call, one_in, fault));
        self
    }

    /// Strikes every `call`.
    #[must_use]
    pub fn always(self, call: Call, fault: Fault) -> Self {
        self.randomly(call, 1, fault)
    }
}

/// A plan at work, shared by all that make calls.
#[derive(Clone)]
pub(super) struct Faults(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

struct State {
    plan: FaultPlan,
    random: u64,
    counts: [u64; Call::ProbeRing as usize + 1],
    /// What has struck so far, how often.
    struck: Vec<(Call, Fault, u64)>,
    /// Hung operations of earlier releases go on.
    releases: u64,
}

impl Faults {
    pub(super) fn new(plan: FaultPlan) -> Self {
        let state = State {
            random: plan.seed,
            plan,
            counts: [0; Call::ProbeRing as usize + 1],
            struck: Vec::new(),
            releases: 0,
        };
        Faults(Arc::new(Shared { state: Mutex::new(state), released: Condvar::new() }))
    }

    /// Refuses a call that is no transfer, if the plan says so.
    pub(super) fn refuse(&self, call: Call) -> io::Result<()> {
        match self.state().strike(call) {
            Some(Fault::Os(errno)) => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }

    /// What strikes the transfer that is about to be sent.
    pub(super) fn strike(&self, direction: Direction) -> Mark {
        let call = if direction == Direction::Write { Call::Write } else { Call::Read };
        let mut state = self.state();
        Mark { fault: state.strike(call), releases: state.releases }
    }

    /// Sleeps where the mark says that the operation takes longer.
    pub(super) fn hold(&self, mark: Mark) {
        match mark.fault {
            Some(Fault::Delay) => std::thread::sleep(LATE),
            Some(Fault::Hang) => {
                let hangs = |state: &mut State| state.releases == mark.releases;
                drop(self.0.released.wait_while(self.state(), hangs));
            }
            _ => {}
        }
    }

    /// Whether an operation that has ended is not to be known of yet; `alone`: nothing else is in flight with it.
    pub(super) fn holds(&self, mark: Mark, alone: bool) -> bool {
        match mark.fault {
            Some(Fault::Delay) => !alone,
            Some(Fault::Hang) => self.state().releases == mark.releases,
            _ => false,
        }
    }

    /// Lets what hangs go on, and what would have hung by now not hang.
    pub(super) fn release(&self) {
        self.state().releases += 1;
        self.0.released.notify_all();
    }

    /// What has struck so far, how often.
    pub(super) fn struck(&self) -> Vec<(Call, Fault, u64)> {
        self.state().struck.clone()
    }

    /// Nothing goes wrong from now on.
    pub(super) fn clear(&self) {
        let mut state = self.state();
        state.plan = FaultPlan::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        super::lock(&self.0.state)
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::new(FaultPlan::default())
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faults").field(&self.state().plan).finish()
    }
}

impl State {
    /// Counts a call, says what strikes it, and counts that.
    fn strike(&mut self, call: Call) -> Option<Fault> {
        let fault = self.draw(call)?;
        match self.struck.iter_mut().find(|known| (known.0, known.1) == (call, fault)) {
            Some(known) => known.2 += 1,
            None => self.struck.push((call, fault, 1)),
        }
        Some(fault)
    }

    /// Counts a call and says what strikes it.
    fn draw(&mut self, call: Call) -> Option<Fault> {
        self.counts[call as usize] += 1;
        let number = self.counts[call as usize];
        let scripted = self.plan.scripted.iter().position(|&(kind, k, _)| kind == call && k == number);
        if let Some(index) = scripted {
            return Some(self.plan.scripted.swap_remove(index).2);
        }
        // Every line draws on every call of its kind, so that one line striking does not shift the others.
        let mut struck = None;
        for &(kind, one_in, fault) in &self.plan.random {
            if kind == call && one_in > 0 && next(&mut self.random).is_multiple_of(u64::from(one_in)) {
                struck = struck.or(Some(fault));
            }
        }
        struck
    }
}

/// What strikes one transfer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    fault: Option<Fault>,
    releases: u64,
}

impl Mark {
    /// The error with which the transfer fails before it is made.
    pub(super) fn error(self) -> Option<io::Error> {
        match self.fault {
            Some(Fault::Os(errno)) => Some(io::Error::from_raw_os_error(errno)),
            _ => None,
        }
    }

    /// How many of `len` bytes are transferred at all, in whole `unit`s.
    pub(super) fn limit(self, len: usize, unit: usize) -> usize {
        let half = len / 2 / unit * unit;
        if self.fault == Some(Fault::Short) && half > 0 { half } else { len }
    }

    /// Whether a bit of what was transferred is to be wrong.
    pub(super) fn flips(self) -> bool {
        self.fault == Some(Fault::BitFlip)
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// By how much a thread's delayed operation is late.
const LATE: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_the_call_it_was_told_to() {
        let plan = FaultPlan::seeded(0)
            .at(Call::Write, 2, Fault::NO_SPACE)
            .always(Call::RingSetup, Fault::NOT_PERMITTED);
        let faults = Faults::new(plan);
        assert!(faults.strike(Direction::Write).error().is_none());
        assert!(faults.strike(Direction::Read).error().is_none());
        let error = faults.strike(Direction::Write).error().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(faults.strike(Direction::Write).error().is_none());
        assert!(faults.refuse(Call::RingSetup).is_err() && faults.refuse(Call::RingSetup).is_err());
        let struck = [(Call::Write, Fault::NO_SPACE, 1), (Call::RingSetup, Fault::NOT_PERMITTED, 2)];
        assert_eq!(faults.struck(), struck);
        faults.clear();
        assert!(faults.refuse(Call::RingSetup).is_ok());
    }

    #[test]
    fn random_faults_keep_to_their_rate_and_seed() {
        let strikes = |seed| {
            let faults = Faults::new(FaultPlan::seeded(seed).randomly(Call::Read, 10, Fault::BitFlip));
            (0..10_000).map(|_| faults.strike(Direction::Read).flips()).collect::<Vec<_>>()
        };
        let struck = strikes(3);
        let hits = struck.iter().filter(|hit| **hit).count();
        assert!((800..1200).contains(&hits), "{hits}");
        assert_eq!(struck, strikes(3));
        assert_ne!(struck, strikes(4));
    }
}
