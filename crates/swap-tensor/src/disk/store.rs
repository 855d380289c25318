//! The store: room in several files, and reads and writes of it.

use super::{
    DiskConfig, DiskError, DiskStats, DriveReport, Extent, IoBuf, IoReport, IoTicket,
    drive::Drive,
    engine::{Engine, Settings},
    fault::Faults,
    files::{Files, Made},
    io::flight::{Flight, Launch},
    parts,
    probe::{Probed, probe},
    request::{Direction, Request},
    room::Room,
    stats::Counters,
};
use core::ops::Range;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Room in anonymous files of one directory or several, and the threads that read and write it. Clones are the same store.
///
/// Dropping the last one refuses what has not been begun, waits for what has (for [`grace`](DiskConfig::grace) at most) and ends
/// the threads. The files go with the last extent. Nothing may be asked of the store in a child of `fork`: threads stay behind.
#[derive(Clone)]
pub struct DiskStore(Arc<Shared>);

struct Shared {
    engine: Engine,
    drives: Vec<Arc<Drive>>,
    counters: Arc<Counters>,
    chunk: u64,
    /// Where the search for room began last.
    turn: AtomicUsize,
}

impl DiskStore {
    /// Makes a file in each directory, reserves its room and finds out which path of I/O works. Starts no thread.
    ///
    /// # Errors
    /// [`DiskError::Config`]; [`DiskError::FileSystemFull`]; [`DiskError::Setup`] where a file cannot be made, written or read, or
    /// io_uring was demanded and refused.
    pub fn open(config: DiskConfig) -> Result<Self, DiskError> {
        config.check()?;
        let counters = Arc::new(Counters::default());
        #[cfg(feature = "conformance")]
        let faults = Faults::new(config.faults.clone());
        #[cfg(not(feature = "conformance"))]
        let faults = Faults;
        let share = config.capacity.div_ceil(config.directories.len() as u64);
        let drives = config.directories.iter().enumerate();
        let drives = drives
            .map(|(index, directory)| open_drive(index, directory, share, &config, &faults, &counters))
            .collect::<Result<Vec<_>, _>>()?;
        let settings = Settings {
            depth: config.depth,
            threads: config.threads,
            queue: config.queue,
            grace: config.grace,
        };
        let engine = Engine::new(drives.clone(), settings, faults).map_err(|source| DiskError::Setup {
            path: config.directories[0].clone(),
            operation: "make an event descriptor",
            source,
        })?;
        let turn = AtomicUsize::new(0);
        Ok(DiskStore(Arc::new(Shared { engine, drives, counters, chunk: config.chunk, turn })))
    }

    /// Which path I/O takes, and why no better one.
    pub fn path(&self) -> IoReport {
        IoReport { drives: self.0.drives.iter().map(|drive| drive.report()).collect() }
    }

    /// Has the whole mapping that `piece` is a piece of registered with the rings, so that requests with buffers in it cost the
    /// kernel less; worth it for memory that many requests will use.
    ///
    /// It keeps `piece` until its threads have ended, so that the mapping stays: take a small one. A ring takes notice before its
    /// next request; a refusal (`RLIMIT_MEMLOCK`) is added to the [report](Self::path) and costs only the gain. Without a ring it
    /// does nothing but keep `piece`.
    pub fn register(&self, piece: impl IoBuf) {
        self.0.engine.register(piece);
    }

    /// Takes room for `bytes` bytes, in the directory with the most free room; in turn, where they have equally much.
    ///
    /// An extent takes whole units of I/O, usually 4 KiB: put small tensors together in one. O(directories).
    ///
    /// # Errors
    /// [`DiskError::Full`].
    pub fn reserve(&self, bytes: u64) -> Result<Extent, DiskError> {
        let drives = &self.0.drives;
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let mut order: Vec<_> = (0..drives.len()).map(|at| &drives[(turn + at) % drives.len()]).collect();
        order.sort_by_key(|drive| core::cmp::Reverse(drive.free_bytes().0));
        for drive in order {
            if let Some(extent) = drive.reserve(bytes)? {
                return Ok(extent);
            }
        }
        let holes = drives.iter().map(|drive| drive.free_bytes());
        let (free, largest) = holes.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1.max(one.1)));
        Err(DiskError::Full { requested: bytes, free, largest, capacity: self.capacity() })
    }

    /// Writes the first `bytes` bytes of `buffer` to an extent, as one part.
    ///
    /// See [`write_parts`](Self::write_parts).
    pub fn write<B: IoBuf>(&self, extent: &Extent, buffer: B, bytes: u64) -> IoTicket<B> {
        self.send_write(extent, buffer, core::iter::once(0..bytes).collect())
    }

    /// Writes the first bytes of `buffer` to an extent, up to the end of the last of `parts`: each can be read by itself then.
    ///
    /// Parts are in order and do not overlap; what lies between them is written too. An extent is written once, and can be read
    /// when the ticket says that all of it was. A buffer that is whole units of I/O long from an aligned address on, even if its
    /// end is not part of what is to be written, goes past the page cache as a whole.
    ///
    /// The ticket says what is wrong, and has the buffer: [`DiskError::Parts`], [`DiskError::Length`], [`DiskError::State`],
    /// [`DiskError::ForeignExtent`], [`DiskError::Busy`] (after which, as nothing was written, the extent can still be),
    /// [`DiskError::NoSpace`], [`DiskError::Io`], [`DiskError::Closed`].
    pub fn write_parts<B: IoBuf>(&self, extent: &Extent, buffer: B, parts: &[Range<u64>]) -> IoTicket<B> {
        self.send_write(extent, buffer, parts.into())
    }

    /// Reads a part of an extent into `buffer`, which is at least as long as the part and best as long as
    /// [`Extent::read_len`] says; the ticket says [where in it](IoTicket::range) the part's bytes are.
    ///
    /// What else is in the buffer afterwards is unspecified. The ticket says what is wrong, and has the buffer:
    /// [`DiskError::State`], [`DiskError::NoPart`], [`DiskError::Length`], [`DiskError::ForeignExtent`], [`DiskError::Busy`],
    /// [`DiskError::Io`], [`DiskError::Corrupt`], [`DiskError::Closed`].
    pub fn read<B: IoBuf>(&self, extent: &Extent, part: usize, buffer: B) -> IoTicket<B> {
        let room = &extent.0;
        let mut range = 0..0;
        let launch = Flight::new(buffer, |address, len| {
            self.check_own(room)?;
            let part = room.readable(part)?;
            let bytes = part.bytes();
            if (len as u64) < bytes {
                return Err(DiskError::Length { given: len as u64, needed: bytes });
            }
            let place = room.place(&part.range);
            let cover = room.drive.cover(&place);
            let covers = room.drive.is_direct_at(address) && cover.end - cover.start <= len as u64;
            let window = if covers && bytes > 0 { cover } else { place.clone() };
            let skip = place.start - window.start;
            range = skip as usize..(skip + bytes) as usize;
            Ok(Request::read(room, part, window, skip, self.0.chunk))
        });
        self.send(room, Direction::Read, launch, range)
    }

    /// What it has done so far, and what it holds. O(directories).
    pub fn stats(&self) -> DiskStats {
        let free: u64 = self.0.drives.iter().map(|drive| drive.free_bytes().0).sum();
        let capacity = self.capacity();
        self.0.counters.stats(capacity, capacity - free)
    }

    /// Lets simulated operations that hang go on.
    #[cfg(feature = "conformance")]
    pub fn release(&self) {
        self.0.engine.release();
    }

    /// Simulated faults that have struck so far: which call, how, and how often. O(kinds).
    #[cfg(feature = "conformance")]
    pub fn faults_struck(&self) -> Vec<(super::Call, super::Fault, u64)> {
        self.0.engine.faults_struck()
    }

    /// No simulated fault from now on; what hangs, hangs.
    #[cfg(feature = "conformance")]
    pub fn clear_faults(&self) {
        self.0.engine.clear_faults();
    }

    fn send_write<B: IoBuf>(&self, extent: &Extent, buffer: B, parts: Box<[Range<u64>]>) -> IoTicket<B> {
        let room = &extent.0;
        let mut range = 0..0;
        let launch = Flight::new(buffer, |address, len| {
            self.check_own(room)?;
            let needed = parts::check(&parts)?;
            let given = len as u64;
            if given < needed {
                return Err(DiskError::Length { given, needed });
            }
            let padded = room.drive.cover(&(0..needed)).end;
            let pads = room.drive.is_direct_at(address) && padded <= given;
            range = 0..needed as usize;
            Request::write(room, if pads { padded } else { needed }, parts, self.0.chunk)
        });
        self.send(room, Direction::Write, launch, range)
    }

    fn send<B: IoBuf>(
        &self,
        room: &Room,
        direction: Direction,
        launch: Launch<B>,
        range: Range<usize>,
    ) -> IoTicket<B> {
        match launch {
            Ok((flight, pending)) => {
                self.0.engine.send(&room.drive, direction, pending);
                IoTicket::flying(flight, range)
            }
            Err((buffer, error)) => IoTicket::refused(buffer, error),
        }
    }

    fn check_own(&self, room: &Room) -> Result<(), DiskError> {
        let own = self.0.drives.get(room.drive.index).is_some_and(|drive| Arc::ptr_eq(drive, &room.drive));
        if own { Ok(()) } else { Err(DiskError::ForeignExtent) }
    }

    fn capacity(&self) -> u64 {
        self.0.drives.iter().map(|drive| drive.capacity()).sum()
    }
}

impl core::fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DiskStore").field("path", &self.path()).finish_non_exhaustive()
    }
}

fn open_drive(
    index: usize,
    directory: &Path,
    share: u64,
    config: &DiskConfig,
    faults: &Faults,
    counters: &Arc<Counters>,
) -> Result<Arc<Drive>, DiskError> {
    let Made { mut files, bytes, reserved, mut refusals } =
        Files::make(directory, share, config.direct, faults)?;
    if !config.chunk.is_multiple_of(files.unit()) {
        let why = format!("{} bytes: not a multiple of {}, the unit of I/O", config.chunk, files.unit());
        return Err(DiskError::Config { what: "chunk", why });
    }
    let Probed { path, registered } = probe(&mut files, config.io, faults, &mut refusals)?;
    let report = DriveReport {
        directory: directory.to_owned(),
        path,
        direct: files.direct().is_some(),
        registered,
        unit: files.unit(),
        alignment: files.alignment(),
        reserved,
        refusals,
    };
    Drive::new(index, files, bytes, Arc::clone(counters), report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

        /// No byte of a file belongs to two extents, and what is free and what is reserved make the store.
        #[test]
        fn extents_share_no_byte(steps in prop::collection::vec((0u64..300_000, any::<bool>(), 0usize..64), 1..80)) {
            let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let config = DiskConfig::new(folders[0].path(), 2 << 20).and(folders[1].path());
            let store = config.io(crate::disk::IoChoice::Threads).open().unwrap();
            let unit = store.path().drives[0].unit;
            let mut kept: Vec<Extent> = Vec::new();
            for (bytes, drops, at) in steps {
                if drops && !kept.is_empty() {
                    kept.swap_remove(at % kept.len());
                }
                match store.reserve(bytes) {
                    Ok(extent) => kept.push(extent),
                    Err(DiskError::Full { requested, largest, .. }) => {
                        prop_assert!(requested == bytes && largest < bytes.next_multiple_of(unit));
                    }
                    Err(error) => return Err(TestCaseError::fail(error.to_string())),
                }
                check(&store, &kept, unit)?;
            }
            kept.clear();
            prop_assert_eq!((store.stats().reserved, store.stats().extents), (0, 0));
        }
    }

    fn check(store: &DiskStore, kept: &[Extent], unit: u64) -> Result<(), TestCaseError> {
        let mut places: Vec<_> = kept
            .iter()
            .filter(|extent| extent.len() > 0)
            .map(|extent| (extent.0.drive.index, extent.0.start, extent.len().next_multiple_of(unit)))
            .collect();
        places.sort_unstable();
        for pair in places.windows(2) {
            prop_assert!(pair[0].0 < pair[1].0 || pair[0].1 + pair[0].2 <= pair[1].1);
        }
        for &(drive, start, bytes) in &places {
            prop_assert!(start.is_multiple_of(unit));
            prop_assert!(start + bytes <= store.0.drives[drive].capacity());
        }
        let reserved: u64 = places.iter().map(|place| place.2).sum();
        prop_assert_eq!((store.stats().reserved, store.stats().extents), (reserved, kept.len() as u64));
        Ok(())
    }
}
