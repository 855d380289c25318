//! A file that nobody else can reach and that goes with its descriptors.

use super::{
    DiskError,
    fault::{Call, Faults},
};
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, open},
    io::Errno,
};
use std::{
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
};

/// An unlinked file of mode 0600, opened once through the page cache and, where that can be done, once past it.
pub(super) struct Files {
    path: PathBuf,
    buffered: OwnedFd,
    direct: Option<OwnedFd>,
    unit: u64,
    alignment: usize,
}

/// A file that was made, and what was refused on the way.
pub(super) struct Made {
    pub(super) files: Files,
    /// Its length: what was asked for, in whole units.
    pub(super) bytes: u64,
    /// Whether the file system has set the room aside.
    pub(super) reserved: bool,
    pub(super) refusals: Vec<String>,
}

impl Files {
    /// Makes a file of `bytes` bytes in `directory`.
    pub(super) fn make(
        directory: &Path,
        bytes: u64,
        want_direct: bool,
        faults: &Faults,
    ) -> Result<Made, DiskError> {
        let mut refusals = Vec::new();
        let failed = |operation| {
            move |source: io::Error| DiskError::Setup { path: directory.to_owned(), operation, source }
        };
        let (buffered, direct) =
            open_both(directory, faults, &mut refusals).map_err(failed("make a file"))?;
        let direct = match direct {
            Err(why) if want_direct => {
                refusals.push(format!("O_DIRECT was refused ({why})"));
                None
            }
            direct => direct.ok().filter(|_| want_direct),
        };
        let (unit, alignment) = units(direct.as_ref().unwrap_or(&buffered));
        let bytes = bytes.checked_next_multiple_of(unit).unwrap_or(bytes);
        check_limit(bytes)?;
        let reserved = match allocate(&buffered, bytes, faults) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(full(directory, bytes, &buffered));
            }
            Err(error) => {
                refusals.push(format!("fallocate was refused ({error}): a write may find no room"));
                rustix::fs::ftruncate(&buffered, bytes)
                    .map_err(io::Error::from)
                    .map_err(failed("size a file"))?;
                if free_bytes(&buffered).is_some_and(|free| free < bytes) {
                    return Err(full(directory, bytes, &buffered));
                }
                false
            }
        };
        let files = Files { path: directory.to_owned(), buffered, direct, unit, alignment };
        Ok(Made { files, bytes, reserved, refusals })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn buffered(&self) -> &OwnedFd {
        &self.buffered
    }

    pub(super) fn direct(&self) -> Option<&OwnedFd> {
        self.direct.as_ref()
    }

    /// Gives up on going past the page cache.
    pub(super) fn forget_direct(&mut self) {
        self.direct = None;
    }

    /// What offsets and lengths of direct I/O are multiples of, and what an extent begins at: a power of two.
    ///
    /// At least a page: where a direct write meets a page that a buffered one changed, the file system writes that page
    /// first, and below its own block it lets one write in at a time.
    pub(super) fn unit(&self) -> u64 {
        self.unit
    }

    /// What an address for direct I/O is a multiple of.
    pub(super) fn alignment(&self) -> usize {
        self.alignment
    }
}

/// The same file twice; the second past the page cache, or why not.
type Both = (OwnedFd, io::Result<OwnedFd>);

fn open_both(directory: &Path, faults: &Faults, refusals: &mut Vec<String>) -> io::Result<Both> {
    match open_temporary(directory, faults) {
        Ok(both) => Ok(both),
        // Elsewhere these come from file systems that cannot, and from kernels that do not know the flag. What else is wrong
        // with the directory the named file will say.
        Err(why) => {
            let both = open_named(directory, faults)?;
            refusals.push(format!("O_TMPFILE was refused ({why}): the file was made and unlinked"));
            Ok(both)
        }
    }
}

#[cfg(target_os = "linux")]
fn open_temporary(directory: &Path, faults: &Faults) -> io::Result<Both> {
    use rustix::fd::AsRawFd;
    faults.refuse(Call::Temporary)?;
    // Exclusive: nobody can give it a name.
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE | OFlags::EXCL;
    let buffered = open(directory, flags, Mode::RUSR | Mode::WUSR)?;
    // A descriptor of its own, since whether it goes past the page cache is a matter of the open file.
    let name = format!("/proc/self/fd/{}", buffered.as_raw_fd());
    let direct = open_direct(Path::new(&name), faults);
    Ok((buffered, direct))
}

#[cfg(not(target_os = "linux"))]
fn open_temporary(_: &Path, faults: &Faults) -> io::Result<Both> {
    faults.refuse(Call::Temporary)?;
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes a file under a name that nobody can guess, and unlinks it before anything is written.
fn open_named(directory: &Path, faults: &Faults) -> io::Result<Both> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let mut tries = 0;
    let (name, buffered) = loop {
        let name = directory.join(format!(".swap-tensor-{:016x}", RandomState::new().hash_one(tries)));
        match open(&name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => break (name, file),
            Err(Errno::EXIST) if tries < MOST_NAMES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    };
    let direct = open_direct(&name, faults);
    rustix::fs::unlink(&name)?;
    // Somebody may have put another file in its place.
    let direct = direct.and_then(|direct| {
        let (one, other) = (rustix::fs::fstat(&buffered)?, rustix::fs::fstat(&direct)?);
        let same = (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino);
        if same { Ok(direct) } else { Err(io::Error::other("the file was replaced")) }
    });
    Ok((buffered, direct))
}

#[cfg(target_os = "linux")]
fn open_direct(name: &Path, faults: &Faults) -> io::Result<OwnedFd> {
    faults.refuse(Call::OpenDirect)?;
    Ok(open(name, OFlags::RDWR | OFlags::CLOEXEC | OFlags::DIRECT, Mode::empty())?)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path, faults: &Faults) -> io::Result<OwnedFd> {
    faults.refuse(Call::OpenDirect)?;
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn allocate(file: &OwnedFd, bytes: u64, faults: &Faults) -> io::Result<()> {
    faults.refuse(Call::Allocate)?;
    let all = rustix::fs::FallocateFlags::empty();
    Ok(rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, all, 0, bytes))?)
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &OwnedFd, _: u64, faults: &Faults) -> io::Result<()> {
    faults.refuse(Call::Allocate)?;
    Err(io::ErrorKind::Unsupported.into())
}

/// Unit of offsets, and of addresses: what the kernel says, or 4 KiB.
fn units(file: &OwnedFd) -> (u64, usize) {
    let page = rustix::param::page_size().max(LEAST_UNIT);
    let (offset, memory) = direct_units(file).unwrap_or((LEAST_UNIT, LEAST_UNIT));
    (offset.max(page).next_power_of_two() as u64, memory.max(1).next_power_of_two())
}

#[cfg(target_os = "linux")]
fn direct_units(file: &OwnedFd) -> Option<(usize, usize)> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let status = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let known = status.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && status.stx_dio_offset_align > 0;
    known.then_some((status.stx_dio_offset_align as usize, status.stx_dio_mem_align as usize))
}

#[cfg(not(target_os = "linux"))]
fn direct_units(_: &OwnedFd) -> Option<(usize, usize)> {
    None
}

/// A write beyond the limit on the length of files kills the program: better to say so now.
fn check_limit(bytes: u64) -> Result<(), DiskError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    match limit {
        Some(limit) if limit < bytes => Err(DiskError::Config {
            what: "capacity",
            why: format!("{bytes} bytes in one directory: the limit on the length of a file is {limit}"),
        }),
        _ => Ok(()),
    }
}

fn full(directory: &Path, requested: u64, file: &OwnedFd) -> DiskError {
    // What of it was set aside is free again.
    let _ = rustix::fs::ftruncate(file, 0);
    let free = free_bytes(file).unwrap_or(0);
    DiskError::FileSystemFull { path: directory.to_owned(), requested, free }
}

/// Bytes that the file system has left for this user.
fn free_bytes(file: &OwnedFd) -> Option<u64> {
    let status = rustix::fs::fstatvfs(file).ok()?;
    Some(status.f_bavail.saturating_mul(status.f_frsize))
}

const LEAST_UNIT: usize = 4096;
const MOST_NAMES: u32 = 16;
