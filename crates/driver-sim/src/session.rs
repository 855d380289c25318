//! One call of the driver: takes the state, asks whether the call goes through, and keeps panics on this side.

use crate::clock::Clock;
use crate::config::Config;
use crate::fault::Class;
use crate::lane::{Mark, Pending};
use crate::result::{CuError, CuResult, SUCCESS};
use crate::run::{HostData, Next, Work};
use crate::sim::Sim;
use crate::types::{Context, HostFn};
use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

thread_local! {
    static CURRENT: RefCell<Vec<Context>> = const { RefCell::new(Vec::new()) };
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

static SIM: LazyLock<Mutex<Sim>> = LazyLock::new(|| {
    crate::exit::at_exit();
    let (config, faults) = Config::read(|name| std::env::var(name).ok());
    Mutex::new(Sim::new(config, faults, 0))
});

/// Told whenever a host function ends, for threads that wait for one of another thread.
static ENDED: Condvar = Condvar::new();

/// Carries out a call of the driver's function `name`, which needs a current context.
pub(crate) fn call(
    name: &'static str,
    class: Class,
    body: impl FnOnce(&mut Session) -> Result<(), CuError>,
) -> CuResult {
    answer(name, || {
        let session = open(name, class)?;
        if class != Class::Always {
            let current = current_context();
            let known = session.contexts.primary.is_some_and(|primary| primary.0 == current)
                || session.contexts.made.contains_key(&current);
            if !known {
                return Err(if current == 0 {
                    CuError::INVALID_CONTEXT
                } else {
                    CuError::CONTEXT_IS_DESTROYED
                });
            }
        }
        session.carry_out(class, body)
    })
}

/// The same, for a function that needs no current context.
pub(crate) fn call_anywhere(
    name: &'static str,
    class: Class,
    body: impl FnOnce(&mut Session) -> Result<(), CuError>,
) -> CuResult {
    answer(name, || open(name, class)?.carry_out(class, body))
}

/// The state, for the control functions, which are no calls.
pub(crate) fn control<R: Default>(body: impl FnOnce(&mut Session) -> R) -> R {
    let body = AssertUnwindSafe(|| body(&mut Session::new("control")));
    catch_unwind(body).unwrap_or_else(|payload| {
        std::mem::forget(payload);
        R::default()
    })
}

/// The state if nobody holds it, for the end of the process.
pub(crate) fn try_control<R>(body: impl FnOnce(&mut Sim) -> R) -> Option<R> {
    match SIM.try_lock() {
        Ok(mut sim) => Some(body(&mut sim)),
        Err(TryLockError::Poisoned(sim)) => Some(body(&mut sim.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// The calling thread's context; 0 is none, also on a thread that is ending.
pub(crate) fn current_context() -> Context {
    CURRENT.try_with(|stack| stack.borrow().last().copied().unwrap_or(0)).unwrap_or(0)
}

/// Replaces the calling thread's context; 0 takes it away.
pub(crate) fn set_current_context(context: Context) {
    pop_context();
    if context != 0 {
        push_context(context);
    }
}

/// Puts a context above the calling thread's.
pub(crate) fn push_context(context: Context) {
    // A thread that is ending has no use for one.
    let _ = CURRENT.try_with(|stack| stack.borrow_mut().push(context));
}

/// Takes the calling thread's context away.
pub(crate) fn pop_context() -> Option<Context> {
    CURRENT.try_with(|stack| stack.borrow_mut().pop()).ok().flatten()
}

fn open(name: &'static str, class: Class) -> Result<Session, CuError> {
    let mut session = Session::new(name);
    if session.config.trace {
        eprintln!("driver-sim: {name}");
    }
    if class == Class::Always {
        return Ok(session);
    }
    if IN_HOST_FUNCTION.get() {
        session.report(format!("{name}: called from a host function"));
        return Err(CuError::NOT_PERMITTED);
    }
    if session.initialized { Ok(session) } else { Err(CuError::NOT_INITIALIZED) }
}

/// Turns what a call found into a number, and a panic into an answer.
fn answer(name: &'static str, body: impl FnOnce() -> Result<(), CuError>) -> CuResult {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(error)) => error.code(),
        Err(payload) => {
            // Dropping a payload may panic, and this is no place to unwind through.
            std::mem::forget(payload);
            eprintln!("driver-sim: {name} failed inside; this is a defect of the simulator");
            CuError::UNKNOWN.code()
        }
    }
}

/// The state, held for one call.
pub(crate) struct Session {
    pub(crate) name: &'static str,
    /// `None` only while it waits for a host function.
    sim: Option<MutexGuard<'static, Sim>>,
}

impl Session {
    fn new(name: &'static str) -> Self {
        Session { name, sim: Some(SIM.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    fn carry_out(
        mut self,
        class: Class,
        body: impl FnOnce(&mut Session) -> Result<(), CuError>,
    ) -> Result<(), CuError> {
        if let (Some(doomed), true) = (self.doomed, class.is_counted())
            && self.rng.one_in(4)
        {
            // The device got that far meanwhile; what it met is answered below.
            let _ = self.run_until(&[doomed]);
        }
        let name = self.name;
        let admitted = self.admit(name, class);
        if let Err(error) = admitted {
            if class == Class::Release && self.broken.is_some() {
                // Accounted as released; what it would have answered does not matter any more.
                let _ = body(&mut self);
            }
            return Err(error);
        }
        let answer = body(&mut self);
        if let Some(error) = self.fate.take() {
            // The call enqueued nothing that could have failed, so the failure is seen at the next.
            self.break_with(error);
        }
        answer
    }

    /// Runs work until all `marks` have run, in an order that the seed draws.
    pub(crate) fn run_until(&mut self, marks: &[(usize, u64)]) -> Result<(), CuError> {
        let (epoch, mood) = (self.epoch, self.draw_mood());
        let first = self.rng.below(marks.len().max(1) as u64) as usize;
        loop {
            if let Some(error) = self.broken {
                return Err(error);
            }
            let mut rotated = marks.iter().cycle().skip(first).take(marks.len());
            let Some(&(lane, _)) = rotated.find(|mark| !self.reached(mark.0, mark.1)) else {
                return Ok(());
            };
            match self.next_lane(lane, mood) {
                Next::Lane(lane) => self.step(lane),
                Next::Busy => self.wait_for_host_function(None),
            }
            if self.epoch != epoch {
                return Err(CuError::CONTEXT_IS_DESTROYED);
            }
        }
    }

    /// Waits for `marks` on behalf of the host, which then knows all that they know.
    pub(crate) fn wait(&mut self, marks: &[Mark]) -> Result<(), CuError> {
        let points: Vec<_> = marks.iter().map(|mark| (mark.lane, mark.number)).collect();
        self.run_until(&points)?;
        marks.iter().for_each(|mark| self.host_learns(&mark.clock));
        Ok(())
    }

    /// Whether `mark` has run, after up to two operations, so that polling it ends: one of them may be what it needs.
    pub(crate) fn poll(&mut self, mark: &Mark) -> Result<bool, CuError> {
        let epoch = self.epoch;
        for _ in 0..self.rng.below(3) {
            if self.broken.is_some() || self.epoch != epoch || self.reached(mark.lane, mark.number) {
                break;
            }
            let mood = self.draw_mood();
            match self.next_lane(mark.lane, mood) {
                Next::Lane(lane) => self.step(lane),
                Next::Busy => break,
            }
        }
        if let Some(error) = self.broken {
            return Err(error);
        }
        let reached = self.epoch == epoch && self.reached(mark.lane, mark.number);
        if reached {
            self.host_learns(&mark.clock);
        }
        Ok(reached)
    }

    /// Runs all work, so that what it uses may go, as a host that waits would have: one mistake is reported once.
    pub(crate) fn drain(&mut self) {
        let ends: Vec<_> = (0..self.lanes.len()).map(|lane| self.mark(lane)).collect();
        // A device that breaks on the way has discarded the rest.
        let _ = self.wait(&ends);
    }

    fn host_learns(&mut self, clock: &Clock) {
        self.host.join(clock);
    }

    /// Runs the first operation of `lane`, or begins to when it is a host function.
    fn step(&mut self, lane: usize) {
        match self.lanes[lane].pending.front() {
            Some(Pending { work: Work::HostFunction { function, data }, fate: None, operation, .. }) => {
                let (function, data, number, epoch) = (*function, *data, operation.number, self.epoch);
                self.lanes[lane].busy = true;
                let run = move || run_host_function(function, data, Place { epoch, lane, number });
                if std::thread::Builder::new().name("host function".into()).spawn(run).is_err() {
                    self.break_with(CuError::UNKNOWN);
                    return;
                }
                // Most functions are short: waiting for them keeps the run a matter of the seed. One that waits for
                // another thread must not hold up whoever it waits for.
                self.wait_for_host_function(Some(PATIENCE));
            }
            _ => self.execute_first(lane),
        }
    }

    /// Lets go of the state until a host function ends, or for as long as is said.
    fn wait_for_host_function(&mut self, patience: Option<Duration>) {
        let Some(sim) = self.sim.take() else { return };
        self.sim = Some(match patience {
            Some(patience) => ENDED.wait_timeout(sim, patience).unwrap_or_else(PoisonError::into_inner).0,
            None => ENDED.wait(sim).unwrap_or_else(PoisonError::into_inner),
        });
    }
}

/// Where a host function was when it was begun.
struct Place {
    epoch: u64,
    lane: usize,
    number: u64,
}

/// Calls a function of the program's on the present thread, as a driver does on one of its own, and ends its operation.
fn run_host_function(function: HostFn, data: HostData, place: Place) {
    IN_HOST_FUNCTION.set(true);
    // SAFETY: the program passed the function for this call, with this argument, and the contract of
    // `cuLaunchHostFunc` is that it may be called on any thread.
    unsafe { function(data.0) };
    IN_HOST_FUNCTION.set(false);
    let mut session = Session::new("a host function");
    let Place { epoch, lane, number } = place;
    // The device may have been reset or broken meanwhile.
    if session.epoch == epoch {
        session.lanes[lane].busy = false;
        if session.lanes[lane].pending.front().is_some_and(|first| first.operation.number == number) {
            session.execute_first(lane);
        }
    }
    drop(session);
    ENDED.notify_all();
}

impl Deref for Session {
    type Target = Sim;

    fn deref(&self) -> &Sim {
        self.sim.as_ref().expect("a session lets go of the state inside `wait_for_host_function` only")
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Sim {
        self.sim.as_mut().expect("a session lets go of the state inside `wait_for_host_function` only")
    }
}

/// How long a call waits for a host function that it began, before it goes on without.
const PATIENCE: Duration = Duration::from_millis(20);
