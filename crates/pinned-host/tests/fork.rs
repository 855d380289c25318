//! A child of `fork` has its parent's memory and none of its locks, and each counts its own.
//!
//! A process of its own, and one test: the counts looked at are the whole process's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]
#![cfg(target_os = "linux")]

use pinned_host::{
    HostError, HostRegion, HugePages, LockLimit, OnFork, OsLocker, OsMemory, OsRegion, PageLocker, PagePin,
    PinnedPages,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const BYTES: usize = 256 << 10;

#[test]
fn children_inherit_memory_and_no_locks() {
    let limit = LockLimit::current();
    if !limit.privileged && limit.soft.is_some_and(|soft| soft < limit.locked_now + 4 * BYTES as u64) {
        #[allow(clippy::print_stderr)]
        return eprintln!(
            "skipped children_inherit_memory_and_no_locks: {} bytes may not be locked",
            4 * BYTES
        );
    }
    a_child_starts_at_zero_and_leaves_the_parent_alone();
    what_is_kept_from_children_is_zeros_there_and_stays_in_place();
    explicit_pages_are_not_inherited();
    children_of_a_busy_process_lock_memory();
    a_refused_mapping_is_a_typed_error();
}

fn a_child_starts_at_zero_and_leaves_the_parent_alone() {
    let start = counts();
    let region = filled(OsMemory::new(), 7);
    let pin = PagePin::new(region.base(), 4096);
    let parent = counts();
    assert_eq!(parent, (start.0 + BYTES as u64, start.1 + BYTES as u64));
    in_child(|| {
        ensure(counts() == (0, 0), "nothing is locked in a child")?;
        ensure(!region.is_locked() && !pin.is_ours(), "what it inherits is not locked")?;
        ensure(bytes(&region).iter().all(|byte| *byte == 7), "it has a copy")?;
        region.prepare(0, BYTES);
        let fresh = OsLocker.lock(BYTES).map_err(|error| error.to_string())?;
        ensure(fresh.is_locked() && counts() == (BYTES as u64, BYTES as u64), "fresh memory is locked")?;
        // SAFETY: this process alone has the copy, and made no reference into it.
        drop(unsafe { (std::ptr::read(&region), std::ptr::read(&pin)) });
        ensure(counts() == (BYTES as u64, BYTES as u64), "dropping what is inherited changes no count")?;
        ensure(!is_mapped(region.base().addr().get()), "and gives its addresses back")?;
        // A grandchild starts at zero again.
        let status = run_child(|| {
            ensure(counts() == (0, 0) && !fresh.is_locked(), "nothing is locked in a grandchild")?;
            ensure(OsLocker.lock(4096).is_ok_and(|fresh| fresh.is_locked()), "it can lock")
        });
        ensure(status == 0, "the grandchild")?;
        drop(fresh);
        ensure(counts() == (0, 0), "all is given back")
    });
    assert!(region.is_locked() && pin.is_ours());
    assert_eq!(counts(), parent, "the child took nothing from its parent");
    assert!(bytes(&region).iter().all(|byte| *byte == 7));
    drop((region, pin));
    assert_eq!(counts(), start);
}

fn what_is_kept_from_children_is_zeros_there_and_stays_in_place() {
    let region = filled(OsMemory::new().on_fork(OnFork::Zeros), 7);
    let before = frame(region.base().addr().get());
    in_child(|| {
        ensure(bytes(&region).iter().all(|byte| *byte == 0), "a child finds zeros")?;
        ensure(!region.is_locked(), "not locked")?;
        // SAFETY: as above.
        drop(unsafe { std::ptr::read(&region) });
        ensure(!is_mapped(region.base().addr().get()), "its addresses are given back")
    });
    assert!(region.is_locked() && bytes(&region).iter().all(|byte| *byte == 7));
    let Some(before) = before else {
        #[allow(clippy::print_stderr)]
        return eprintln!("skipped the page's place: /proc/self/pagemap does not tell it to this user");
    };
    // A parent that writes while a child has a copy gets another page; one that shared none keeps its own.
    let stays = |region: &OsRegion| {
        let before = frame(region.base().addr().get());
        while_a_child_waits(|| {
            // SAFETY: the test alone has the region.
            unsafe { region.base().write(8) };
            before == frame(region.base().addr().get())
        })
    };
    assert!(stays(&region) && frame(region.base().addr().get()) == Some(before));
    assert!(!stays(&filled(OsMemory::new(), 7)), "else this test would show nothing");
}

fn explicit_pages_are_not_inherited() {
    let region = match OsMemory::new().huge_pages(HugePages::Explicit).lock(1) {
        Ok(region) => region,
        #[allow(clippy::print_stderr)]
        Err(error) => return eprintln!("skipped explicit_pages_are_not_inherited: {error}"),
    };
    let start = region.base().addr().get();
    in_child(|| {
        ensure(!region.is_locked() && !is_mapped(start), "a child has nothing there")?;
        region.prepare(0, 4096);
        // Memory of the child's own at the same addresses is left alone.
        let flags = rustix::mm::MapFlags::PRIVATE | rustix::mm::MapFlags::FIXED_NOREPLACE;
        let access = rustix::mm::ProtFlags::READ;
        // SAFETY: nothing is mapped there.
        let own = unsafe { rustix::mm::mmap_anonymous(start as *mut _, 4096, access, flags) };
        own.map_err(|error| error.to_string())?;
        // SAFETY: as above.
        drop(unsafe { std::ptr::read(&region) });
        ensure(is_mapped(start), "dropping it does nothing")
    });
    assert!(region.is_locked() && is_mapped(start));
}

fn children_of_a_busy_process_lock_memory() {
    let (start, stop) = (counts(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let region = OsLocker.lock(8192).unwrap();
                    let again = PagePin::new(region.base(), 4096);
                    assert!(region.is_locked() && again.is_ours());
                }
            });
        }
        for _ in 0..100 {
            // Whatever the other threads held when it was forked, the child does not wait for them.
            in_child(|| {
                let region = OsLocker.lock(8192).map_err(|error| error.to_string())?;
                ensure(region.is_locked() && PinnedPages::current().locked == 8192, "its own count")
            });
        }
        stop.store(true, Relaxed);
    });
    assert_eq!(counts(), start);
}

fn a_refused_mapping_is_a_typed_error() {
    in_child(|| {
        let maximum = getrlimit(Resource::As).maximum;
        setrlimit(Resource::As, Rlimit { current: Some(64 << 20), maximum }).map_err(|e| e.to_string())?;
        for memory in [OsMemory::new(), OsMemory::for_drivers()] {
            for refused in [memory.lock(96 << 20), memory.pageable(96 << 20).ok_or("none")?] {
                let is_map = matches!(refused, Err(HostError::Map { bytes: 0x600_0000, .. }));
                ensure(is_map, &format!("{refused:?}"))?;
            }
        }
        ensure(counts() == (0, 0), "nothing stays locked")
    });
}

/// Bytes locked, as the kernel counts them and as the process does.
fn counts() -> (u64, u64) {
    (LockLimit::current().locked_now, PinnedPages::current().locked)
}

fn filled(memory: OsMemory, byte: u8) -> OsRegion {
    let region = memory.lock(BYTES).unwrap();
    // SAFETY: the test alone has the region.
    unsafe { region.base().as_ptr().write_bytes(byte, BYTES) };
    region
}

fn bytes(region: &OsRegion) -> &[u8] {
    // SAFETY: nobody writes while this is looked at.
    unsafe { std::slice::from_raw_parts(region.base().as_ptr(), region.len()) }
}

fn is_mapped(address: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().any(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let ends = range.map(|(start, end)| [start, end].map(|end| usize::from_str_radix(end, 16)));
        matches!(ends, Some([Ok(start), Ok(end)]) if (start..end).contains(&address))
    })
}

/// Number of the physical page behind an address; `None` where this user may not know.
fn frame(address: usize) -> Option<u64> {
    use std::os::unix::fs::FileExt;
    let mut entry = [0; 8];
    let at = address / rustix::param::page_size() * 8;
    std::fs::File::open("/proc/self/pagemap").ok()?.read_exact_at(&mut entry, at as u64).ok()?;
    let entry = u64::from_ne_bytes(entry);
    (entry >> 63 == 1).then_some(entry & ((1 << 55) - 1)).filter(|frame| *frame != 0)
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

#[track_caller]
fn in_child(story: impl FnOnce() -> Result<(), String>) {
    assert_eq!(run_child(story), 0, "the child's story failed, see above (14: it hung)");
}

/// Runs `story` in a child and returns how that ended: its exit code, or the signal that killed it.
fn run_child(story: impl FnOnce() -> Result<(), String>) -> i32 {
    // SAFETY: the child runs one thread, uses glibc's heap, which survives a fork, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: takes numbers only.
        unsafe { libc::alarm(60) };
        let story = std::panic::AssertUnwindSafe(story);
        let code = match std::panic::catch_unwind(|| { story }.0()) {
            Ok(Ok(())) => 0,
            Ok(Err(why)) => {
                // Past the harness, whose lock another thread may have had.
                let _ = rustix::io::write(std::io::stderr(), format!("in the child: {why}\n").as_bytes());
                1
            }
            Err(_) => 101,
        };
        // SAFETY: ends this process alone.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the child is this test's, the status a value of ours.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { libc::WTERMSIG(status) }
}

/// What `act` says, done while a child lives.
fn while_a_child_waits(act: impl FnOnce() -> bool) -> bool {
    let (hold, release) = std::io::pipe().unwrap();
    // SAFETY: the child does nothing but read a pipe, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        drop(release);
        let _ = rustix::io::read(&hold, &mut [0_u8; 1]);
        // SAFETY: ends this process alone.
        unsafe { libc::_exit(0) };
    }
    let said = act();
    drop(release);
    let mut status = 0;
    // SAFETY: as in `run_child`.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    said
}
