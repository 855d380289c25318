//! The process's pinned pages, each counted once however many pin it.

use crate::process::Process;
use core::ops::Range;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering::{AcqRel, Acquire};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How much memory of this process is pinned: by `mlock`, by a driver, or by both. Bytes, whole pages.
///
/// A page that two pin (locked here, then registered with a driver) counts once, where the system may count it twice. Only
/// what holds a [`PagePin`] is known: the regions of this workspace's lockers.
///
/// Fork: a child starts at zero, for it inherits neither locks nor registrations.
///
/// ```
/// use pinned_host::{HostRegion, OsLocker, PageLocker, PinnedPages};
///
/// let region = OsLocker.lock(4096)?;
/// let now = PinnedPages::current();
/// assert!(now.locked >= region.len() as u64 && now.peak >= now.locked && now.pins >= 1);
/// # Ok::<(), pinned_host::HostError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PinnedPages {
    /// Pinned now.
    pub locked: u64,
    /// The most that was pinned at once.
    pub peak: u64,
    /// Pins held now, a count.
    pub pins: usize,
}

impl PinnedPages {
    /// The counts of this process. O(1).
    pub fn current() -> Self {
        ledger().books().counts
    }
}

/// Says that pages are pinned, until dropped: to be held by the region that pins them.
///
/// It pins nothing by itself. In a child of `fork` it says nothing, and dropping it there changes no count.
///
/// ```
/// use pinned_host::{HostRegion, OsLocker, PageLocker, PagePin, PinnedPages};
///
/// let region = OsLocker.pageable(8192).expect("the system locker has pageable memory")?;
/// let before = PinnedPages::current().locked;
/// // Once by a driver, and a part of it by another.
/// let first = PagePin::new(region.base(), region.len());
/// let second = PagePin::new(region.base(), 100);
/// assert_eq!(PinnedPages::current().locked - before, region.len() as u64);
/// drop((first, second));
/// # Ok::<(), pinned_host::HostError>(())
/// ```
#[derive(Debug)]
#[must_use = "the pages count as pinned until it is dropped"]
pub struct PagePin {
    pages: Range<usize>,
    process: Process,
}

impl PagePin {
    /// Counts the pages of the `bytes` bytes at `base`, partly covered ones included.
    ///
    /// O(log n) in the pins held, and one step for every other pin that shares pages with it.
    pub fn new(base: NonNull<u8>, bytes: usize) -> Self {
        let page = page_size();
        let start = base.addr().get() / page * page;
        let end = base.addr().get().saturating_add(bytes);
        let pages = start..end.checked_next_multiple_of(page).unwrap_or(end);
        let ledger = ledger();
        ledger.books().pin(&pages);
        PagePin { pages, process: ledger.process }
    }

    /// Whether this process made it: `false` in a child of `fork`, where nothing is pinned that the parent pinned.
    pub fn is_ours(&self) -> bool {
        self.process == Process::current()
    }
}

impl Drop for PagePin {
    fn drop(&mut self) {
        let ledger = ledger();
        if ledger.process == self.process {
            ledger.books().unpin(&self.pages);
        }
    }
}

/// What one process has pinned. A child makes its own, for a lock of the parent's may have been held when it was forked.
struct Ledger {
    process: Process,
    books: Mutex<Books>,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ledger() -> &'static Ledger {
    static CURRENT: AtomicPtr<Ledger> = AtomicPtr::new(null_mut());
    let process = Process::current();
    let mut known = CURRENT.load(Acquire);
    loop {
        // SAFETY: null, or a box that was leaked below.
        if let Some(ledger) = unsafe { known.as_ref() }
            && ledger.process == process
        {
            return ledger;
        }
        let new = Box::into_raw(Box::new(Ledger { process, books: Mutex::default() }));
        match CURRENT.compare_exchange(known, new, AcqRel, Acquire) {
            // SAFETY: leaked: what is published is never freed.
            Ok(_) => return unsafe { &*new },
            Err(theirs) => {
                // SAFETY: from `into_raw`, and published to nobody.
                drop(unsafe { Box::from_raw(new) });
                known = theirs;
            }
        }
    }
}

/// Runs of addresses that do not overlap, each with the number of its pins, which neighbours that touch do not share.
#[derive(Default)]
struct Books {
    runs: BTreeMap<usize, Run>,
    counts: PinnedPages,
}

#[derive(Debug, PartialEq, Eq)]
struct Run {
    end: usize,
    pins: usize,
}

impl Books {
    fn pin(&mut self, range: &Range<usize>) {
        self.cut(range.start);
        self.cut(range.end);
        let mut at = range.start;
        while at < range.end {
            match self.runs.range_mut(at..range.end).next() {
                Some((&start, run)) if start == at => {
                    run.pins += 1;
                    at = run.end;
                }
                next => {
                    let end = next.map_or(range.end, |(&start, _)| start);
                    self.runs.insert(at, Run { end, pins: 1 });
                    self.counts.locked += (end - at) as u64;
                    at = end;
                }
            }
        }
        self.join(range.start);
        self.join(range.end);
        self.counts.pins += 1;
        self.counts.peak = self.counts.peak.max(self.counts.locked);
    }

    fn unpin(&mut self, range: &Range<usize>) {
        self.cut(range.start);
        self.cut(range.end);
        let mut at = range.start;
        while let Some((&start, run)) = self.runs.range_mut(at..range.end).next() {
            at = run.end;
            run.pins -= 1;
            if run.pins == 0 {
                self.runs.remove(&start);
                self.counts.locked -= (at - start) as u64;
            }
        }
        self.join(range.start);
        self.join(range.end);
        self.counts.pins -= 1;
    }

    /// Makes a run end at `at`, if one goes across it.
    fn cut(&mut self, at: usize) {
        if let Some((_, run)) = self.runs.range_mut(..at).next_back()
            && run.end > at
        {
            let rest = Run { end: run.end, pins: run.pins };
            run.end = at;
            self.runs.insert(at, rest);
        }
    }

    /// Makes one run of two that meet at `at` and have as many pins.
    fn join(&mut self, at: usize) {
        let Some(&Run { end, pins }) = self.runs.get(&at) else { return };
        if let Some((_, before)) = self.runs.range_mut(..at).next_back()
            && before.end == at
            && before.pins == pins
        {
            before.end = end;
            self.runs.remove(&at);
        }
    }
}

#[cfg(unix)]
fn page_size() -> usize {
    rustix::param::page_size()
}

#[cfg(not(unix))]
fn page_size() -> usize {
    4096
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Pages, each with its pins, which is what the runs stand for.
    #[derive(Default)]
    struct Model(HashMap<usize, usize>);

    impl Model {
        fn change(&mut self, range: &Range<usize>, by: isize) {
            for page in range.clone() {
                let pins = self.0.entry(page).or_default();
                *pins = pins.checked_add_signed(by).unwrap();
            }
            self.0.retain(|_, pins| *pins > 0);
        }
    }

    fn check(books: &Books, model: &Model, held: usize) {
        let pages: HashMap<usize, usize> = books
            .runs
            .iter()
            .flat_map(|(&start, run)| (start..run.end).map(move |page| (page, run.pins)))
            .collect();
        assert_eq!(pages, model.0);
        assert_eq!((books.counts.locked, books.counts.pins), (model.0.len() as u64, held));
        let runs: Vec<_> = books.runs.iter().collect();
        for pair in runs.windows(2) {
            let ((_, left), (&start, right)) = (pair[0], pair[1]);
            assert!(left.end < start || left.end == start && left.pins != right.pins, "{left:?} {right:?}");
        }
        assert!(books.runs.len() <= 2 * held);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn runs_are_what_single_pages_would_be(
            steps in proptest::collection::vec((any::<bool>(), 1..60_usize, 1..20_usize), 1..80)
        ) {
            let (mut books, mut model, mut held, mut peak) = (Books::default(), Model::default(), vec![], 0);
            for (pin, start, len) in steps {
                if pin || held.is_empty() {
                    let range = start..start + len;
                    books.pin(&range);
                    model.change(&range, 1);
                    held.push(range);
                } else {
                    let range = held.swap_remove(start % held.len());
                    books.unpin(&range);
                    model.change(&range, -1);
                }
                peak = peak.max(model.0.len() as u64);
                check(&books, &model, held.len());
                prop_assert_eq!(books.counts.peak, peak);
            }
            for range in held.drain(..) {
                books.unpin(&range);
            }
            prop_assert!(books.runs.is_empty() && books.counts.locked == 0 && books.counts.pins == 0);
        }
    }
}
