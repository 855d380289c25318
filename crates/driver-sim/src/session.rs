//! One call of the driver: takes the state, asks whether the call goes through, and keeps panics on this side.

use crate::clock::Clock;
use crate::config::Config;
use crate::fault::Class;
use crate::lane::Mark;
use crate::result::{CuError, CuResult, SUCCESS};
use crate::run::{Next, Work};
use crate::sim::Sim;
use crate::types::Context;
use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

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
    SIM.try_lock().ok().map(|mut sim| body(&mut sim))
}

/// The calling thread's context; 0 is none.
pub(crate) fn current_context() -> Context {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

/// Replaces the calling thread's context; 0 takes it away.
pub(crate) fn set_current_context(context: Context) {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        stack.extend((context != 0).then_some(context));
    });
}

/// Puts a context above the calling thread's.
pub(crate) fn push_context(context: Context) {
    CURRENT.with_borrow_mut(|stack| stack.push(context));
}

/// Takes the calling thread's context away.
pub(crate) fn pop_context() -> Option<Context> {
    CURRENT.with_borrow_mut(Vec::pop)
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
    /// `None` only while a host function runs.
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

    /// Runs work until all `marks` have run. The order is adversarial: half of the time as little as they need, half
    /// of the time whoever the seed favours.
    pub(crate) fn run_until(&mut self, marks: &[(usize, u64)]) -> Result<(), CuError> {
        let lazy = self.rng.one_in(2);
        let epoch = self.epoch;
        loop {
            if let Some(error) = self.broken {
                return Err(error);
            }
            let Some(&(lane, _)) = marks.iter().find(|mark| !self.reached(mark.0, mark.1)) else {
                return Ok(());
            };
            match self.next_lane(lane, lazy) {
                Next::Lane(lane) => self.step(lane),
                Next::Busy => self.wait_for_host_function(),
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
            let lazy = self.rng.one_in(2);
            match self.next_lane(mark.lane, lazy) {
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

    /// Runs all work, so that what it uses may go.
    pub(crate) fn drain(&mut self) {
        let ends: Vec<_> =
            self.lanes.iter().enumerate().map(|(lane, state)| (lane, state.submitted)).collect();
        // A device that breaks on the way has discarded the rest.
        let _ = self.run_until(&ends);
    }

    fn host_learns(&mut self, clock: &Clock) {
        self.host.join(clock);
    }

    /// Runs the first operation of `lane`.
    fn step(&mut self, lane: usize) {
        let first = self.lanes[lane].pending.front();
        let Some(Work::HostFunction { function, data }) = first.map(|pending| &pending.work) else {
            return self.execute_first(lane);
        };
        let (function, data) = (*function, *data);
        let doomed = first.is_some_and(|pending| pending.fate.is_some());
        if doomed {
            return self.execute_first(lane);
        }
        let (epoch, number) = (self.epoch, first.map(|pending| pending.operation.number));
        self.lanes[lane].busy = true;
        // The program's function may wait for another thread, which may be in a call: nothing is held meanwhile.
        self.sim = None;
        IN_HOST_FUNCTION.set(true);
        // SAFETY: the program passed the function for this call, with this argument, and the contract of
        // `cuLaunchHostFunc` is that it may be called on any thread.
        unsafe { function(data.0) };
        IN_HOST_FUNCTION.set(false);
        *self = Session::new(self.name);
        if self.epoch == epoch {
            self.lanes[lane].busy = false;
            if self.lanes[lane].pending.front().map(|pending| pending.operation.number) == number {
                self.execute_first(lane);
            }
        }
        ENDED.notify_all();
    }

    fn wait_for_host_function(&mut self) {
        if let Some(sim) = self.sim.take() {
            self.sim = Some(ENDED.wait(sim).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Deref for Session {
    type Target = Sim;

    fn deref(&self) -> &Sim {
        self.sim
            .as_ref()
            .expect("a session lets go of the state only inside `step` and `wait_for_host_function`")
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Sim {
        self.sim
            .as_mut()
            .expect("a session lets go of the state only inside `step` and `wait_for_host_function`")
    }
}
