//! The simulated driver: where these tests find it, and how they control it.
//!
//! Before `main`, a test program starts itself again with a folder at the head of `LD_LIBRARY_PATH` in which the
//! simulator that cargo built beside it is called `libcuda.so`. So plain `cargo test` needs no setting, and a machine's own
//! driver is not touched.
//!
//! With feature `gpu-tests` it is the machine's own driver that is found, and nothing of the simulator's is asked: tests of
//! what only it can do are ignored, and what others ask of it stands behind [`SIMULATED`].

#![allow(dead_code, reason = "each test program uses a part of it")]

use backend_cuda::cudarc::driver::sys;
use std::ffi::CString;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether the tests run on the simulated driver, and may ask it.
pub(crate) const SIMULATED: bool = cfg!(not(feature = "gpu-tests"));

/// A turn on the simulated device, which there is once in a process: fresh when taken, checked when dropped. On the
/// machine's own driver a turn and no more.
///
/// Declare it before everything that uses the device, so that it is dropped last.
pub(crate) struct Sim {
    _turn: MutexGuard<'static, ()>,
    /// Whether the test leaves something behind on purpose.
    leaks: bool,
}

/// What can go wrong at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    OutOfMemory = 1,
    IllegalAddress = 2,
    LaunchFailed = 3,
    EccUncorrectable = 4,
    DeviceLost = 5,
    Contained = 6,
    TensorMemoryLeak = 7,
    /// These three refuse one call of whatever kind, and nothing else.
    NotSupported = 8,
    InvalidValue = 9,
    Unknown = 10,
}

impl Fault {
    /// But for those that only single calls make sense of.
    pub(crate) const ALL: [Fault; 7] = [
        Fault::OutOfMemory,
        Fault::IllegalAddress,
        Fault::LaunchFailed,
        Fault::EccUncorrectable,
        Fault::DeviceLost,
        Fault::Contained,
        Fault::TensorMemoryLeak,
    ];
}

impl Sim {
    /// A fresh device whose order is drawn from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let sim = Sim { _turn: turn, leaks: false };
        if !SIMULATED {
            assert!(backend_cuda::is_present(), "feature `gpu-tests`, and this machine has no CUDA driver");
            return sim;
        }
        assert!(
            backend_cuda::is_present(),
            "the simulated driver was not found: run `cargo test -p backend-cuda`, which builds it, or put it into \
             LD_LIBRARY_PATH as libcuda.so.1"
        );
        assert_eq!(sim.number::<u32>("simVersion"), 1, "not a simulator, or another version of it");
        sim.clear_faults();
        sim.reset(seed);
        sim
    }

    /// For a test that leaves something behind on purpose.
    pub(crate) fn leaking(mut self, leaks: bool) -> Self {
        self.leaks = leaks;
        self
    }

    /// A fresh device. What a test still has from before is void.
    pub(crate) fn reset(&self, seed: u64) {
        // SAFETY: the signatures are those that the simulator documents.
        unsafe { control::<unsafe extern "C" fn(u64)>("simReset")(seed) }
    }

    /// Strikes the `k`-th call from now.
    pub(crate) fn inject(&self, fault: Fault, k: u64) {
        // SAFETY: as above.
        let done =
            unsafe { control::<unsafe extern "C" fn(u32, u64) -> u32>("simInjectFault")(fault as u32, k) };
        assert_eq!(done, 0);
    }

    /// Strikes the `k`-th call of one function from now.
    pub(crate) fn inject_at(&self, fault: Fault, function: &str, k: u64) {
        type Inject = unsafe extern "C" fn(u32, *const core::ffi::c_char, u64) -> u32;
        let function = CString::new(function).unwrap();
        // SAFETY: as above; the name lives until the call returns.
        let done = unsafe { control::<Inject>("simInjectFaultAt")(fault as u32, function.as_ptr(), k) };
        assert_eq!(done, 0);
    }

    pub(crate) fn clear_faults(&self) {
        // SAFETY: as above.
        unsafe { control::<unsafe extern "C" fn()>("simClearFaults")() }
    }

    pub(crate) fn faults_struck(&self) -> u64 {
        self.number("simFaultsStruck")
    }

    pub(crate) fn calls(&self) -> u64 {
        self.number("simCallCount")
    }

    pub(crate) fn calls_of(&self, function: &str) -> u64 {
        type Count = unsafe extern "C" fn(*const core::ffi::c_char) -> u64;
        let function = CString::new(function).unwrap();
        // SAFETY: as above.
        unsafe { control::<Count>("simCallCountOf")(function.as_ptr()) }
    }

    pub(crate) fn pending(&self) -> u64 {
        self.number("simPendingWork")
    }

    /// Bytes that copies within the device have moved.
    pub(crate) fn copied_within(&self) -> u64 {
        // SAFETY: as above.
        unsafe { control::<unsafe extern "C" fn(u32) -> u64>("simCopiedBytes")(2) }
    }

    pub(crate) fn set_memory(&self, bytes: u64) {
        // SAFETY: as above.
        unsafe { control::<unsafe extern "C" fn(u64)>("simSetMemory")(bytes) }
    }

    pub(crate) fn undefined_uses(&self) -> u64 {
        self.number("simUndefinedUses")
    }

    /// For a test that provoked them.
    pub(crate) fn forgive_undefined_uses(&self) {
        // SAFETY: as above.
        unsafe { control::<unsafe extern "C" fn()>("simForgiveUndefinedUses")() }
    }

    /// Live objects on the device.
    pub(crate) fn leaks(&self) -> u64 {
        // SAFETY: as above; no text is asked for.
        unsafe {
            control::<unsafe extern "C" fn(*mut u8, usize) -> u64>("simLeaks")(core::ptr::null_mut(), 0)
        }
    }

    /// Undefined uses and live objects, in words.
    pub(crate) fn report(&self) -> String {
        let report = control::<unsafe extern "C" fn(*mut u8, usize) -> usize>("simReport");
        let mut text = vec![0; 16 << 10];
        // SAFETY: as above; the text has that capacity.
        let len = unsafe { report(text.as_mut_ptr(), text.len()) };
        String::from_utf8_lossy(&text[..len.min(text.len())]).into_owned()
    }

    /// Nothing undefined was done, and nothing is left.
    pub(crate) fn check(&self) {
        assert!(self.undefined_uses() == 0 && self.leaks() == 0, "{}", self.report());
    }

    fn number<T>(&self, function: &str) -> T {
        // SAFETY: as above.
        unsafe { control::<unsafe extern "C" fn() -> T>(function)() }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if !SIMULATED {
            return;
        }
        if !std::thread::panicking() {
            let undefined = self.undefined_uses() == 0;
            assert!(undefined && (self.leaks || self.leaks() == 0), "{}", self.report());
            assert!(!self.leaks || self.leaks() > 0, "nothing was left behind");
        }
        // So that a test that failed does not fail the program's report at exit too.
        self.reset(0);
    }
}

/// A function of the simulator's.
fn control<F: Copy>(name: &str) -> F {
    let symbol = format!("{name}\0");
    // SAFETY: the library is present; `F` is the signature that the simulator documents for the name.
    unsafe { *sys::culib().get::<F>(symbol.as_bytes()).unwrap() }
}

#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
static BEFORE_MAIN: extern "C" fn() = start_again;

/// Runs before `main`, in a program of one thread.
extern "C" fn start_again() {
    use std::os::unix::process::CommandExt;

    if !SIMULATED || std::env::var_os(STARTED).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let Some(folder) = program.parent().map(|folder| folder.join("cuda-sim")) else { return };
    let built = Path::new("../libdriver_sim.so");
    if !folder.join(built).exists() && !program.with_file_name("libdriver_sim.so").exists() {
        // `Sim::new` says what is missing.
        return;
    }
    let _ = std::fs::create_dir_all(&folder);
    for name in ["libcuda.so", "libcuda.so.1"] {
        // Another test program may be doing the same.
        let _ = std::os::unix::fs::symlink(built, folder.join(name));
    }
    let before = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let path = std::iter::once(folder).chain(std::env::split_paths(&before));
    if let Ok(path) = std::env::join_paths(path) {
        let mut again = std::process::Command::new(program);
        again.args(std::env::args_os().skip(1)).env("LD_LIBRARY_PATH", path).env(STARTED, "1");
        // Returns only if it failed; then the driver is looked for as things are.
        let _ = again.exec();
    }
}

const STARTED: &str = "BACKEND_CUDA_TESTS_STARTED";
