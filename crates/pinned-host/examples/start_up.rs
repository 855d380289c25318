//! How long a locked region takes to make, against plain `mmap` and `mlock` of ordinary pages in the same run.
//!
//! `cargo run --release -p pinned-host --example start_up -- [GIB] [ROUNDS]`; 4 GiB and 5 rounds unless said otherwise. Rounds
//! alternate and medians count, so that a slow minute of the machine strikes all. What is measured is made once unmeasured
//! right before: memory that a virtual machine's host has taken back costs whoever touches it first. As much must be lockable:
//! with CAP_IPC_LOCK, or below `ulimit -l`.

use pinned_host::{HugePages, OsLocker, OsMemory, PageLocker};
use std::any::Any;
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let gib: f64 = args.next().map_or(Ok(4.0), |text| text.parse())?;
    let rounds: usize = args.next().map_or(Ok(5), |text| text.parse())?;
    if !(gib > 0.0 && gib < 1e6 && rounds > 0) {
        return Err("more than 0 GiB and more than 0 rounds".into());
    }
    let bytes = (gib * f64::from(1 << 30)) as usize;
    let ordinary = OsMemory::new().huge_pages(HugePages::Never);
    let ways: [(&str, &dyn Fn() -> Made); 4] = [
        ("mmap, mlock, ordinary pages", &|| plain(bytes)),
        ("OsLocker", &|| Ok(Box::new(OsLocker.lock(bytes)?))),
        ("the same by one thread", &|| Ok(Box::new(OsMemory::new().touch_threads(1).lock(bytes)?))),
        ("the same on ordinary pages", &|| Ok(Box::new(ordinary.lock(bytes)?))),
    ];
    let mut taken = vec![Vec::new(); ways.len()];
    for round in 1..=rounds {
        for ((name, make), taken) in ways.iter().zip(&mut taken) {
            drop(make()?);
            let began = Instant::now();
            let made = make()?;
            let seconds = began.elapsed().as_secs_f64();
            drop(made);
            taken.push(seconds);
            println!("round {round}: {seconds:8.3} s  {name}");
        }
    }
    let medians: Vec<f64> = taken.into_iter().map(median).collect();
    println!("medians of {rounds} for {gib} GiB:");
    for ((name, _), median) in ways.iter().zip(&medians) {
        println!("{median:8.3} s  {:6.2} times as fast as the first  {name}", medians[0] / median);
    }
    Ok(())
}

/// What is given back when dropped.
type Made = Result<Box<dyn Any>, Box<dyn Error>>;

/// The way without this crate.
#[cfg(target_os = "linux")]
fn plain(bytes: usize) -> Made {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous};
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the system's choice, which is locked and used by nobody.
    unsafe {
        let base = mmap_anonymous(std::ptr::null_mut(), bytes, access, MapFlags::PRIVATE)?;
        let mapping = Mapping(base, bytes);
        // Where huge pages are given without asking.
        let _ = madvise(base, bytes, Advice::LinuxNoHugepage);
        mlock(base, bytes)?;
        Ok(Box::new(mapping))
    }
}

#[cfg(target_os = "linux")]
struct Mapping(*mut std::ffi::c_void, usize);

#[cfg(target_os = "linux")]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: a whole mapping of `plain`'s, which nobody uses any more.
        let _ = unsafe { rustix::mm::munmap(self.0, self.1) };
    }
}

#[cfg(not(target_os = "linux"))]
fn plain(_bytes: usize) -> Made {
    Err("the plain way is only written for Linux".into())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
