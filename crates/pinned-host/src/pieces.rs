//! One long piece of work on memory, divided among threads.

use core::num::NonZeroUsize;
use core::ops::Range;

/// Calls `f` on all of `range`, byte offsets into some memory, in pieces, each on a thread of its own.
///
/// Pieces begin at multiples of 2 MiB, so that no two threads fault in one huge page where the memory begins at such a
/// multiple. `threads` is the most there are; `None`: as many as the process may run at once, at most 16. No thread is made
/// for less than 16 MiB, the last piece is the caller's, and a thread that cannot be made costs its piece only time.
///
/// # Panics
/// When `f` does.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
///
/// let (pieces, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
/// pinned_host::in_pieces(0..100 << 20, std::num::NonZeroUsize::new(4), &|piece| {
///     pieces.fetch_add(1, Relaxed);
///     bytes.fetch_add(piece.len(), Relaxed);
/// });
/// assert_eq!((pieces.into_inner(), bytes.into_inner()), (4, 100 << 20));
/// ```
pub fn in_pieces(range: Range<usize>, threads: Option<NonZeroUsize>, f: &(impl Fn(Range<usize>) + Sync)) {
    if range.is_empty() {
        return;
    }
    let most = || threads.map_or_else(processors, NonZeroUsize::get);
    let worth = range.len() / WORTH_A_THREAD;
    let threads = if worth > 1 { worth.min(most()) } else { 1 };
    let piece = range.len().div_ceil(threads);
    // The first multiple at or behind `at`; the end where there is none before.
    let border = |at: usize| at.checked_next_multiple_of(HUGE_PAGE).map_or(range.end, |at| at.min(range.end));
    std::thread::scope(|scope| {
        let mut from = range.start;
        for _ in 1..threads {
            let to = border(from.saturating_add(piece));
            if to == range.end {
                break;
            }
            let worker = std::thread::Builder::new().spawn_scoped(scope, move || f(from..to));
            if worker.is_err() {
                f(from..to);
            }
            from = to;
        }
        f(from..range.end);
    });
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_THREADS)
}

/// Bytes that a thread of its own is worth: some milliseconds of first touch.
const WORTH_A_THREAD: usize = 16 << 20;
const MOST_THREADS: usize = 16;
const HUGE_PAGE: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn pieces(range: Range<usize>, threads: usize) -> Vec<Range<usize>> {
        let seen = Mutex::new(Vec::new());
        in_pieces(range, NonZeroUsize::new(threads), &|piece| seen.lock().unwrap().push(piece));
        let mut seen = seen.into_inner().unwrap();
        seen.sort_by_key(|piece| piece.start);
        seen
    }

    #[test]
    fn pieces_cover_the_range_and_meet_at_huge_pages() {
        const MIB: usize = 1 << 20;
        assert_eq!(pieces(5..5, 8), []);
        assert_eq!(pieces(0..31 * MIB, 8).len(), 1);
        assert_eq!(pieces(0..64 * MIB, 1).len(), 1);
        let ends = [0, 1, 4096, 33 * MIB, 100 * MIB + 7, usize::MAX / 2, usize::MAX];
        for (start, end) in ends.iter().flat_map(|start| ends.iter().map(move |end| (*start, *end))) {
            for threads in [1, 2, 3, 16] {
                let pieces = pieces(start..end, threads);
                if start >= end {
                    assert!(pieces.is_empty());
                    continue;
                }
                assert!(pieces.len() <= threads && pieces.iter().all(|piece| !piece.is_empty()));
                assert_eq!((pieces[0].start, pieces[pieces.len() - 1].end), (start, end));
                for pair in pieces.windows(2) {
                    assert!(pair[0].end == pair[1].start && pair[1].start % HUGE_PAGE == 0);
                }
            }
        }
    }
}
