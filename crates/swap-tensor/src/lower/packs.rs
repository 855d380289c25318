//! Packs of small tensors, whose living parts move together once most of them is dead.
//!
//! The room of one part of an extent is not used again before all of the extent goes. Tensors that change one by one would so come to
//! hold many times their size, each pack kept by its last living part. So, as in a file system made of logs (Rosenblum and
//! Ousterhout, 1992), the packs with the least alive are read and their living parts written into a new one: what was moved is less
//! than what became free, and all packs together hold no more than twice what is alive, and one pack.

use super::disk::{PAGED, wait};
use crate::disk::{DiskBuf, DiskError, DiskStore, Extent, IoBuf, IoTicket};
use std::{
    mem::replace,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak},
    time::{Duration, Instant},
};

/// Where a piece is. One of a pack can move; who reads it does not notice.
pub(super) struct Place {
    store: DiskStore,
    bytes: u64,
    at: Mutex<(Extent, usize)>,
}

impl Place {
    /// An extent of one part.
    pub(super) fn new(store: &DiskStore, extent: Extent, bytes: u64) -> Arc<Place> {
        Arc::new(Place { store: store.clone(), bytes, at: Mutex::new((extent, 0)) })
    }

    /// The parts of an extent that is written.
    pub(super) fn parts(store: &DiskStore, extent: &Extent) -> Vec<Arc<Place>> {
        let place = |part| {
            let bytes = extent.part(part).map_or(0, |range| range.end - range.start);
            Arc::new(Place { store: store.clone(), bytes, at: Mutex::new((extent.clone(), part)) })
        };
        (0..extent.parts()).map(place).collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of a buffer that can be read into past the page cache, where it lies now.
    pub(super) fn read_len(&self) -> u64 {
        let at = self.at();
        at.0.read_len(at.1).unwrap_or_default()
    }

    pub(super) fn read<B: IoBuf>(&self, buffer: B) -> IoTicket<B> {
        // Under the lock: a part that has moved is discarded. A read that has begun keeps its extent.
        let at = self.at();
        self.store.read(&at.0, at.1, buffer)
    }

    /// It is there from now on; its old room is dead.
    fn moves(&self, to: (Extent, usize)) {
        let (extent, part) = replace(&mut *self.at(), to);
        // Fails only for an extent that was never written.
        let _ = extent.discard(part);
    }

    fn at(&self) -> MutexGuard<'_, (Extent, usize)> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let at = self.at.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Its bytes are dead from now on. Fails only for an extent that was never written.
        let _ = at.0.discard(at.1);
    }
}

/// The packs of a pool.
#[derive(Debug, Default)]
pub(super) struct Packs {
    all: Mutex<Vec<Pack>>,
    /// Held by who moves parts.
    moving: Mutex<()>,
}

struct Pack {
    /// Bytes that were written.
    bytes: u64,
    places: Vec<Weak<Place>>,
}

impl Packs {
    /// Writes a new pack.
    pub(super) fn write(&self, store: &DiskStore, contents: &[&[u8]]) -> Result<Vec<Arc<Place>>, DiskError> {
        let extent = write(store, contents)?;
        let places = Place::parts(store, &extent);
        self.list().push(Pack::of(&places));
        Ok(places)
    }

    /// Moves parts together until no more is dead than alive, but for a pack. O(parts) to find out.
    pub(super) fn tidy(&self, store: &DiskStore) {
        while self.merge(store, |all, alive| all > 2 * alive + PACK) {}
    }

    /// Makes what room can be made by moving parts together; whether it was any.
    pub(super) fn squeeze(&self, store: &DiskStore) -> bool {
        let mut any = false;
        while self.merge(store, |all, alive| all > alive) {
            any = true;
        }
        any
    }

    /// Moves the living parts of the packs with the least alive into one new pack, if `worth` says so of the bytes of all packs and
    /// of those alive; whether room was made. If not, all is as before.
    fn merge(&self, store: &DiskStore, worth: impl Fn(u64, u64) -> bool) -> bool {
        let _moving = match self.moving.try_lock() {
            Ok(moving) => moving,
            Err(TryLockError::Poisoned(moving)) => moving.into_inner(),
            Err(TryLockError::WouldBlock) => return false, // somebody is at it
        };
        let Some(chosen) = self.choose(worth) else { return false };
        let before: u64 = chosen.iter().map(|pack| pack.bytes).sum();
        let places: Vec<_> = chosen.iter().flat_map(|pack| &pack.places).filter_map(Weak::upgrade).collect();
        match carry(store, &places) {
            Ok(()) => {
                let pack = Pack::of(&places);
                let after = pack.bytes;
                self.list().push(pack);
                after < before
            }
            // Whoever reads the part will be told; it is where it was, and its pack is left alone from now on.
            Err(DiskError::Corrupt { .. }) => false,
            Err(_) => {
                self.list().extend(chosen);
                false
            }
        }
    }

    /// Takes packs with the least alive off the list, of which something is dead and that make one together.
    fn choose(&self, worth: impl Fn(u64, u64) -> bool) -> Option<Vec<Pack>> {
        let mut list = self.list();
        list.retain(|pack| pack.alive() > 0);
        let sum = |of: fn(&Pack) -> u64| list.iter().map(of).sum::<u64>();
        if !worth(sum(|pack| pack.bytes), sum(Pack::alive)) {
            return None;
        }
        list.sort_by_key(Pack::alive);
        let mut alive = 0;
        let fits = |pack: &&Pack| {
            alive += pack.alive();
            alive <= PACK && pack.alive() < pack.bytes
        };
        let count = list.iter().take_while(fits).count();
        (count > 0).then(|| list.drain(..count).collect())
    }

    fn list(&self) -> MutexGuard<'_, Vec<Pack>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pack {
    fn of(places: &[Arc<Place>]) -> Pack {
        Pack {
            bytes: places.iter().map(|place| place.bytes).sum(),
            places: places.iter().map(Arc::downgrade).collect(),
        }
    }

    fn alive(&self) -> u64 {
        self.places.iter().filter_map(Weak::upgrade).map(|place| place.bytes).sum()
    }
}

impl core::fmt::Debug for Pack {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Pack").field("bytes", &self.bytes).field("alive", &self.alive()).finish()
    }
}

/// Copies parts into a new extent, where they are from then on.
fn carry(store: &DiskStore, places: &[Arc<Place>]) -> Result<(), DiskError> {
    let until = Instant::now() + PATIENCE;
    let mut read = Vec::with_capacity(places.len());
    for few in places.chunks(DEPTH) {
        let mut tickets = Vec::with_capacity(few.len());
        for place in few {
            tickets.push(place.read(DiskBuf::zeroed((place.read_len() as usize).max(1))?));
        }
        for ticket in tickets {
            let range = ticket.range();
            let buffer = ticket.wait(until).map_err(|failed| failed.error)?;
            read.push(buffer.as_slice()[range].to_vec());
        }
    }
    let contents: Vec<&[u8]> = read.iter().map(Vec::as_slice).collect();
    let extent = write(store, &contents)?;
    for (part, place) in places.iter().enumerate() {
        place.moves((extent.clone(), part));
    }
    Ok(())
}

/// Writes contents into one extent, each a part.
fn write(store: &DiskStore, contents: &[&[u8]]) -> Result<Extent, DiskError> {
    let mut parts = Vec::with_capacity(contents.len());
    let mut end = 0;
    for bytes in contents {
        parts.push(end..end + bytes.len() as u64);
        end += bytes.len() as u64;
    }
    let extent = store.reserve(end)?;
    let mut buffer = DiskBuf::zeroed((end as usize).next_multiple_of(PAGED))?;
    for (part, bytes) in parts.iter().zip(contents) {
        buffer.as_mut_slice()[part.start as usize..part.end as usize].copy_from_slice(bytes);
    }
    match wait(store.write_parts(&extent, buffer, &parts)) {
        Ok(_) => Ok(extent),
        Err(failed) => Err(failed.error),
    }
}

/// Bytes of a pack, about.
pub(crate) const PACK: u64 = 1 << 20;
/// Parts that are read at once.
const DEPTH: usize = 32;
/// How long parts are waited for. Nothing is lost when they do not come.
const PATIENCE: Duration = Duration::from_secs(10);
