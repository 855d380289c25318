//! Which path works on a file: found out by writing and reading it.

use super::{
    DiskBuf, DiskError, IoChoice,
    fault::{Call, Faults},
    files::Files,
    report::IoPath,
    request::Direction,
};
use rustix::fd::{AsFd, BorrowedFd};
use std::io;

/// What works.
pub(super) struct Probed {
    pub(super) path: IoPath,
    pub(super) registered: bool,
}

/// Finds the best path that works on `files`, gives up direct I/O there if it does not, and says what was refused.
pub(super) fn probe(
    files: &mut Files,
    choice: IoChoice,
    faults: &Faults,
    refusals: &mut Vec<String>,
) -> Result<Probed, DiskError> {
    probe_direct(files, faults, refusals);
    if choice != IoChoice::Threads {
        match probe_ring(files, faults) {
            Ok(registered) => {
                let known = registered.is_ok();
                if let Err(why) = registered {
                    refusals.push(format!("registering memory was refused ({why})"));
                }
                return Ok(Probed { path: IoPath::Uring, registered: known });
            }
            Err(source) if choice == IoChoice::Uring => {
                let path = files.path().to_owned();
                return Err(DiskError::Setup { path, operation: "use io_uring", source });
            }
            Err(why) => refusals.push(format!("io_uring was refused ({why})")),
        }
    }
    through_calls(files.buffered().as_fd(), files.unit()).map_err(|source| DiskError::Setup {
        path: files.path().to_owned(),
        operation: "write and read a page",
        source,
    })?;
    Ok(Probed { path: IoPath::Threads, registered: false })
}

/// File systems may refuse direct I/O when the file is opened, or only when it is used.
fn probe_direct(files: &mut Files, faults: &Faults, refusals: &mut Vec<String>) {
    let Some(direct) = files.direct() else { return };
    let tried = faults.refuse(Call::ProbeDirect).and_then(|()| through_calls(direct.as_fd(), files.unit()));
    if let Err(why) = tried {
        refusals.push(format!("I/O with O_DIRECT was refused ({why})"));
        files.forget_direct();
    }
}

/// Writes a page at the start of the file, reads it back and compares.
fn through_calls(file: BorrowedFd<'_>, unit: u64) -> io::Result<()> {
    let mut page = pattern(unit)?;
    transfer(Direction::Write, file, &mut page)?;
    page.as_mut_slice().fill(0);
    transfer(Direction::Read, file, &mut page)?;
    compare(&page, unit)
}

fn transfer(direction: Direction, file: BorrowedFd<'_>, page: &mut DiskBuf) -> io::Result<()> {
    loop {
        let moved = match direction {
            Direction::Read => rustix::io::pread(file, page.as_mut_slice(), 0),
            Direction::Write => rustix::io::pwrite(file, page.as_slice(), 0),
        };
        match moved {
            Err(rustix::io::Errno::INTR) => {}
            moved => return whole(moved.map_err(io::Error::from), page.as_slice().len()),
        }
    }
}

/// Whether memory can be registered with it.
#[cfg(target_os = "linux")]
fn probe_ring(files: &Files, faults: &Faults) -> io::Result<io::Result<()>> {
    use super::io::ring::Ring;
    let mut ring = Ring::new(1, faults)?;
    faults.refuse(Call::ProbeRing)?;
    let (file, unit) = (files.direct().unwrap_or(files.buffered()).as_fd(), files.unit());
    let mut through = |direction, page: DiskBuf, fixed| {
        let len = page.as_slice().len();
        let (moved, page) = ring.blocking(direction, file, page, fixed);
        whole(moved, len).and_then(|()| page.ok_or(io::ErrorKind::Other.into()))
    };
    let mut page = through(Direction::Write, pattern(unit)?, false)?;
    page.as_mut_slice().fill(0);
    let mut page = through(Direction::Read, page, false)?;
    compare(&page, unit)?;
    page.as_mut_slice().fill(0);
    let registered = through(Direction::Read, page, true).and_then(|page| compare(&page, unit));
    Ok(registered)
}

#[cfg(not(target_os = "linux"))]
fn probe_ring(_: &Files, faults: &Faults) -> io::Result<io::Result<()>> {
    faults.refuse(Call::RingSetup)?;
    faults.refuse(Call::ProbeRing)?;
    faults.refuse(Call::RegisterBuffers)?;
    Err(io::ErrorKind::Unsupported.into())
}

fn whole(moved: io::Result<usize>, len: usize) -> io::Result<()> {
    match moved? {
        moved if moved == len => Ok(()),
        moved => Err(io::Error::other(format!("{moved} bytes of {len} were transferred"))),
    }
}

fn pattern(unit: u64) -> io::Result<DiskBuf> {
    let mut page = DiskBuf::zeroed(unit as usize).map_err(io::Error::other)?;
    page.as_mut_slice().iter_mut().enumerate().for_each(|(at, byte)| *byte = mark(at));
    Ok(page)
}

fn compare(page: &DiskBuf, unit: u64) -> io::Result<()> {
    let same = page.as_slice().len() as u64 == unit
        && page.as_slice().iter().enumerate().all(|(at, byte)| *byte == mark(at));
    if same { Ok(()) } else { Err(io::Error::other("what was written did not come back")) }
}

fn mark(at: usize) -> u8 {
    (at * 31 + at / 251) as u8
}
