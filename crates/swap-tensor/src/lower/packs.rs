//! Packs of small tensors, whose living parts move together once most of them is dead.
//!
//! The room of one part of an extent is not used again before all of the extent goes. Tensors that change one by one would so come to
//! hold many times their size, each pack kept by its last living part. So, as in a file system made of logs (Rosenblum and
//! Ousterhout, 1992), the packs with the least alive are read and their living parts written into a new one: what was moved is less
//! than what became free, and all packs together hold no more than twice what is alive, and one pack.

use super::{
    PACK,
    disk::{PAGED, wait},
};
use crate::disk::{DiskBuf, DiskError, DiskStore, Extent, IoBuf, IoTicket};
use std::{
    mem::replace,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Where a piece is. One of a pack can move; who reads it does not notice.
pub(super) struct Place {
    store: DiskStore,
    bytes: u64,
    at: Mutex<At>,
}

/// A part of an extent, and of a pack, if it is one of several.
struct At {
    extent: Extent,
    part: usize,
    pack: Option<Arc<Alive>>,
}

/// Bytes of a pack that somebody may still read.
#[derive(Debug, Default)]
struct Alive(AtomicU64);

impl Place {
    /// An extent of one part.
    pub(super) fn new(store: &DiskStore, extent: Extent, bytes: u64) -> Arc<Place> {
        let at = At { extent, part: 0, pack: None };
        Arc::new(Place { store: store.clone(), bytes, at: Mutex::new(at) })
    }

    /// The parts of an extent that is written.
    pub(super) fn parts(store: &DiskStore, extent: &Extent) -> Vec<Arc<Place>> {
        Place::of(store, extent, None)
    }

    fn of(store: &DiskStore, extent: &Extent, pack: Option<&Arc<Alive>>) -> Vec<Arc<Place>> {
        let place = |part| {
            let bytes = extent.part(part).map_or(0, |range| range.end - range.start);
            let at = At { extent: extent.clone(), part, pack: pack.cloned() };
            Arc::new(Place { store: store.clone(), bytes, at: Mutex::new(at) })
        };
        (0..extent.parts()).map(place).collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of a buffer that can be read into past the page cache, where it lies now.
    pub(super) fn read_len(&self) -> u64 {
        let at = self.at();
        at.extent.read_len(at.part).unwrap_or_default()
    }

    pub(super) fn read<B: IoBuf>(&self, buffer: B) -> IoTicket<B> {
        // Under the lock: a part that has moved is discarded. A read that has begun keeps its extent.
        let at = self.at();
        self.store.read(&at.extent, at.part, buffer)
    }

    /// It is there from now on; its old room is dead.
    fn moves(&self, to: At) {
        replace(&mut *self.at(), to).leave(self.bytes);
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl At {
    /// So many bytes there are dead from now on.
    fn leave(&self, bytes: u64) {
        // Fails only for an extent that was never written.
        let _ = self.extent.discard(self.part);
        if let Some(pack) = &self.pack {
            pack.0.fetch_sub(bytes, Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.at.get_mut().unwrap_or_else(PoisonError::into_inner).leave(self.bytes);
    }
}

/// The packs of a pool.
#[derive(Debug, Default)]
pub(super) struct Packs {
    all: Mutex<Vec<Pack>>,
    /// Held by who moves parts.
    moving: Mutex<()>,
}

#[derive(Debug)]
struct Pack {
    /// Bytes that were written.
    bytes: u64,
    alive: Arc<Alive>,
    places: Vec<Weak<Place>>,
}

impl Packs {
    /// Writes a new pack. O(its parts).
    pub(super) fn write(&self, store: &DiskStore, contents: &[&[u8]]) -> Result<Vec<Arc<Place>>, DiskError> {
        let extent = store.reserve(contents.iter().map(|bytes| bytes.len() as u64).sum())?;
        write(store, &extent, contents)?;
        let alive = Arc::default();
        let places = Place::of(store, &extent, Some(&alive));
        self.add(alive, &places);
        Ok(places)
    }

    /// Moves parts together until no more is dead than alive, but for a pack, or enough was done for now. O(packs) to find out.
    pub(super) fn tidy(&self, store: &DiskStore) {
        let Ok(_moving) = self.moving.try_lock() else { return }; // somebody is at it
        let worth = |all, alive| all > 2 * alive + PACK;
        for _ in 0..MOST_AT_ONCE {
            if !self.merge(store, worth, PACK) {
                return;
            }
        }
    }

    /// Makes room, as far as moving parts together makes any: false if it made none, and nobody else did meanwhile.
    pub(super) fn squeeze(&self, store: &DiskStore) -> bool {
        let _moving = match self.moving.try_lock() {
            Ok(moving) => moving,
            Err(TryLockError::Poisoned(moving)) => moving.into_inner(),
            Err(TryLockError::WouldBlock) => {
                // Room is being made.
                drop(self.moving.lock().unwrap_or_else(PoisonError::into_inner));
                return true;
            }
        };
        // Little room may be left to move through.
        let mut limit = PACK;
        let mut any = false;
        while limit >= LEAST {
            match self.merge(store, |all, alive| all >= alive + LEAST, limit) {
                true => any = true,
                false => limit /= 4,
            }
        }
        any
    }

    /// Moves the living parts of the packs with the least alive into one new pack of at most `limit` bytes, if `worth` says so of the
    /// bytes of all packs and of those alive; whether room was made. If not, all is as before. The caller holds `moving`.
    fn merge(&self, store: &DiskStore, worth: impl Fn(u64, u64) -> bool, limit: u64) -> bool {
        let Some(chosen) = self.choose(worth, limit) else { return false };
        let before: u64 = chosen.iter().map(|pack| pack.bytes).sum();
        let places: Vec<_> = chosen.iter().flat_map(|pack| &pack.places).filter_map(Weak::upgrade).collect();
        match carry(store, &places) {
            Ok((alive, moved)) => {
                let after: u64 = moved.iter().map(|place| place.bytes).sum();
                self.add(alive, &moved);
                after < before
            }
            Err(_) => {
                self.list().extend(chosen);
                false
            }
        }
    }

    /// Takes packs with the least alive off the list, of which something is dead and that make one together.
    fn choose(&self, worth: impl Fn(u64, u64) -> bool, limit: u64) -> Option<Vec<Pack>> {
        let mut list = self.list();
        list.retain(|pack| pack.alive() > 0);
        // Once: parts die all the while.
        let mut alive: Vec<(u64, usize)> = list.iter().map(Pack::alive).zip(0..).collect();
        if !worth(list.iter().map(|pack| pack.bytes).sum(), alive.iter().map(|(alive, _)| alive).sum()) {
            return None;
        }
        alive.retain(|&(alive, at)| alive < list[at].bytes);
        alive.sort_unstable();
        let mut sum = 0;
        let fits = |&&(alive, _): &&(u64, usize)| {
            sum += alive;
            sum <= limit
        };
        let mut chosen: Vec<usize> = alive.iter().take_while(fits).map(|&(_, at)| at).collect();
        // From the end, so that what is still to be taken stays where it is.
        chosen.sort_unstable_by(|a, b| b.cmp(a));
        (!chosen.is_empty()).then(|| chosen.into_iter().map(|at| list.swap_remove(at)).collect())
    }

    fn add(&self, alive: Arc<Alive>, places: &[Arc<Place>]) {
        let bytes = places.iter().map(|place| place.bytes).sum();
        alive.0.fetch_add(bytes, Relaxed);
        let pack = Pack { bytes, alive, places: places.iter().map(Arc::downgrade).collect() };
        self.list().push(pack);
    }

    fn list(&self) -> MutexGuard<'_, Vec<Pack>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pack {
    fn alive(&self) -> u64 {
        self.alive.0.load(Relaxed)
    }
}

/// Copies parts into a new extent, where they are from then on: those that could be read. The others stay, and keep their old room.
fn carry(store: &DiskStore, places: &[Arc<Place>]) -> Result<(Arc<Alive>, Vec<Arc<Place>>), DiskError> {
    // First, because without it reading is for nothing.
    let extent = store.reserve(places.iter().map(|place| place.bytes).sum())?;
    let (mut moved, mut contents) = (Vec::with_capacity(places.len()), Vec::with_capacity(places.len()));
    for few in places.chunks(DEPTH) {
        let until = Instant::now() + PATIENCE;
        let tickets: Vec<_> = few.iter().map(begin).collect::<Result<_, _>>()?;
        for (place, ticket) in few.iter().zip(tickets) {
            let read = match end(ticket, until) {
                // Once more, as whoever needs it would.
                Err(DiskError::Corrupt { .. }) => end(begin(place)?, until),
                read => read,
            };
            match read {
                Ok(bytes) => {
                    moved.push(Arc::clone(place));
                    contents.push(bytes);
                }
                // Whoever reads it will be told.
                Err(DiskError::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    write(store, &extent, &contents)?;
    let pack = Arc::default();
    for (part, place) in moved.iter().enumerate() {
        place.moves(At { extent: extent.clone(), part, pack: Some(Arc::clone(&pack)) });
    }
    Ok((pack, moved))
}

fn begin(place: &Arc<Place>) -> Result<IoTicket<DiskBuf>, DiskError> {
    Ok(place.read(DiskBuf::zeroed((place.read_len() as usize).max(1))?))
}

fn end(ticket: IoTicket<DiskBuf>, until: Instant) -> Result<Vec<u8>, DiskError> {
    let range = ticket.range();
    let buffer = ticket.wait(until).map_err(|failed| failed.error)?;
    Ok(buffer.as_slice()[range].to_vec())
}

/// Writes contents into an extent, each a part.
fn write(store: &DiskStore, extent: &Extent, contents: &[&[u8]]) -> Result<(), DiskError> {
    let mut parts = Vec::with_capacity(contents.len());
    let mut end = 0;
    for bytes in contents {
        parts.push(end..end + bytes.len() as u64);
        end += bytes.len() as u64;
    }
    let mut buffer = DiskBuf::zeroed((end as usize).next_multiple_of(PAGED).max(PAGED))?;
    for (part, bytes) in parts.iter().zip(contents) {
        buffer.as_mut_slice()[part.start as usize..part.end as usize].copy_from_slice(bytes);
    }
    wait(store.write_parts(extent, buffer, &parts)).map(drop).map_err(|failed| failed.error)
}

/// Less is not worth moving anything for.
const LEAST: u64 = 4 << 10;
/// New packs that are made before other work is looked at.
const MOST_AT_ONCE: usize = 4;
/// Parts that are read at once.
const DEPTH: usize = 32;
/// How long parts are waited for. Nothing is lost when they do not come.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{DiskConfig, IoChoice};

    const PART: usize = 4096;

    fn store(mebibytes: u64) -> DiskConfig {
        DiskConfig::new(std::env::temp_dir(), mebibytes << 20).io(IoChoice::Threads)
    }

    /// So many packs of a mebibyte, with so many of their parts alive.
    fn packs(store: &DiskStore, count: usize, alive: usize) -> (Packs, Vec<Arc<Place>>) {
        let (packs, mut kept) = (Packs::default(), Vec::new());
        for number in 0..count {
            let contents: Vec<Vec<u8>> = (0..256).map(|part| vec![(number * 7 + part) as u8; PART]).collect();
            let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
            kept.extend(packs.write(store, &contents).unwrap().into_iter().take(alive));
        }
        (packs, kept)
    }

    fn reads(kept: &[Arc<Place>], alive: usize) {
        let until = Instant::now() + Duration::from_secs(20);
        for (at, place) in kept.iter().enumerate() {
            let wanted = vec![(at / alive * 7 + at % alive) as u8; PART];
            assert!(end(begin(place).unwrap(), until).unwrap() == wanted, "part {at}");
        }
    }

    #[test]
    fn a_small_pack_that_is_all_alive_is_in_nobodys_way() {
        let store = store(64).open().unwrap();
        let (packs, kept) = packs(&store, 32, 8);
        let small = packs.write(&store, &[&[1; 100], &[2; 100]]).unwrap();
        for _ in 0..10 {
            packs.tidy(&store);
        }
        let alive = (kept.len() * PART) as u64;
        assert!(store.stats().reserved <= 2 * alive + PACK + LEAST, "{:?}", store.stats());
        reads(&kept, 8);
        drop((small, kept));
        assert_eq!((store.stats().extents, store.stats().dead_bytes), (0, 0));
    }

    #[test]
    fn little_free_room_is_enough_to_make_more() {
        let store = DiskConfig::new(std::env::temp_dir(), (4 << 20) + (256 << 10)).io(IoChoice::Threads);
        let store = store.open().unwrap();
        let (packs, kept) = packs(&store, 4, 50);
        assert!(packs.squeeze(&store));
        assert!(store.stats().reserved <= (kept.len() * PART) as u64 + LEAST, "{:?}", store.stats());
        reads(&kept, 50);
        assert!(!packs.squeeze(&store), "there is nothing more to be had");
    }

    #[test]
    fn who_finds_no_room_waits_for_who_makes_it() {
        let store = store(8).open().unwrap();
        let (packs, _kept) = packs(&store, 2, 8);
        std::thread::scope(|scope| {
            let moving = packs.moving.lock().unwrap();
            let squeezed = scope.spawn(|| packs.squeeze(&store));
            drop(moving);
            assert!(squeezed.join().unwrap());
        });
    }

    /// Their bytes fall while packs are put in order by them.
    #[test]
    fn parts_may_die_at_any_moment() {
        let store = store(80).open().unwrap();
        let (packs, mut kept) = packs(&store, 60, 40);
        std::thread::scope(|scope| {
            let dies = kept.split_off(kept.len() / 8);
            let shares: Vec<_> = dies.chunks(dies.len() / 4 + 1).map(<[_]>::to_vec).collect();
            drop(dies);
            for share in shares {
                scope.spawn(move || share.into_iter().rev().for_each(drop));
            }
            for _ in 0..20 {
                packs.tidy(&store);
            }
        });
        reads(&kept, 40);
        packs.squeeze(&store);
        assert!(store.stats().reserved <= (kept.len() * PART) as u64 + PACK, "{:?}", store.stats());
        reads(&kept, 40);
    }

    #[cfg(feature = "conformance")]
    #[test]
    fn a_part_that_cannot_be_read_keeps_no_other_from_moving() {
        use crate::disk::{Call, Fault, FaultPlan};
        for (faults, lost) in [(1, 0), (2, 1)] {
            // One is read badly, once or when it is tried again too.
            let plan = (0..faults)
                .fold(FaultPlan::seeded(1), |plan, at| plan.at(Call::Read, 5 + at, Fault::BitFlip));
            let store = store(64).faults(plan).open().unwrap();
            let (packs, kept) = packs(&store, 32, 8);
            for _ in 0..10 {
                packs.tidy(&store);
            }
            let most = 2 * (kept.len() * PART) as u64 + (1 + lost) * PACK + LEAST;
            assert!(store.stats().reserved <= most, "{lost}: {:?}", store.stats());
            store.clear_faults();
            reads(&kept, 8);
        }
    }
}
