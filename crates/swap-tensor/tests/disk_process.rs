//! What a disk store takes of the process: descriptors, threads, files. One test, for it counts what the process has.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::{Duration, Instant},
};
use swap_tensor::disk::{Call, DiskBuf, DiskConfig, DiskError, DiskStore, Fault, FaultPlan, IoChoice};

#[test]
fn nothing_is_left_of_a_store() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = DiskConfig::new(folder.path(), 4 << 20).chunk(64 << 10);
    let named = FaultPlan::seeded(0).always(Call::Temporary, Fault::NOT_SUPPORTED);
    let hung = FaultPlan::seeded(0).at(Call::Write, 3, Fault::Delay);
    for (config, what) in [
        (config.clone(), "the best path"),
        (config.clone().io(IoChoice::Threads), "threads"),
        (config.clone().direct(false), "the page cache"),
        (config.clone().faults(named), "a file made and unlinked"),
        (config.clone().faults(hung), "a store dropped in flight"),
    ] {
        let before = descriptors();
        let store = config.open().unwrap();
        assert_eq!(threads(), 0, "{what}: a thread before it is needed");
        check_files(folder.path(), what);
        use_it(store);
        assert_eq!(descriptors(), before, "{what}");
        // One that was joined is listed a moment longer.
        let deadline = Instant::now() + Duration::from_secs(60);
        while threads() > 0 {
            assert!(Instant::now() < deadline, "{what}: a thread is left");
            std::thread::yield_now();
        }
    }
    limit_on_files(&config);
    on_memory();
}

/// Writes and reads, and drops the store with a write in flight.
fn use_it(store: DiskStore) {
    let extent = store.reserve(1 << 20).unwrap();
    assert_eq!(threads(), 0);
    let wait = Duration::from_secs(60);
    let buffer = store.write(&extent, DiskBuf::zeroed(1 << 20).unwrap(), 1 << 20).wait_for(wait).unwrap();
    assert!(threads() > 0);
    let buffer = store.read(&extent, 0, buffer).wait_for(wait).unwrap();
    let other = store.reserve(1 << 20).unwrap();
    drop(store.write(&other, buffer, 1 << 20));
}

/// The store's files: of mode 0600, and without a name.
fn check_files(folder: &Path, what: &str) {
    assert_eq!(folder.read_dir().unwrap().count(), 0, "{what}: a name is left");
    let folder = folder.canonicalize().unwrap();
    let mut found = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if target.starts_with(&folder) && target.to_string_lossy().ends_with("(deleted)") {
            let status = fs::metadata(entry.path()).unwrap();
            assert_eq!((status.nlink(), status.permissions().mode() & 0o7777), (0, 0o600), "{what}");
            assert_eq!(status.len(), 4 << 20);
            found += 1;
        }
    }
    assert!(found > 0, "{what}: no file at all");
}

/// A file longer than the process may have would end it: that is refused before.
fn limit_on_files(config: &DiskConfig) {
    let old = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(1 << 20), maximum: old.maximum }).unwrap();
    let error = config.clone().open().unwrap_err();
    setrlimit(Resource::Fsize, old).unwrap();
    assert!(matches!(error, DiskError::Config { what: "capacity", .. }), "{error}");
}

/// A file system without drives works too, by whatever path it has.
fn on_memory() {
    let folder = Path::new("/dev/shm");
    match DiskConfig::new(folder, 4 << 20).open() {
        Ok(store) => {
            println!("{}", store.path());
            use_it(store);
        }
        Err(why) => println!("SKIPPED tmpfs: {why}"),
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Threads of stores.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("disk-")).count()
}
