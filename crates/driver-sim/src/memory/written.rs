//! Which bytes of a range were written, across the stores that it is made of.

use super::{Memory, Part};
use std::ops::Range;

impl Memory {
    /// The written bytes of `parts`, relative to the first of them.
    pub(crate) fn written(&self, parts: &[Part]) -> Vec<Range<u64>> {
        let mut found = Vec::new();
        for (base, part) in based(parts) {
            let Some(store) = self.stores.get(&part.store) else { continue };
            match &store.written {
                None => found.push(base..base + (part.range.end - part.range.start)),
                Some(written) => found.extend(written.within(&part.range).into_iter().map(|inside| {
                    base + (inside.start - part.range.start)..base + (inside.end - part.range.start)
                })),
            }
        }
        found
    }

    /// Makes exactly the bytes of `written`, relative to the first of `parts`, those that were written.
    pub(crate) fn set_written(&mut self, parts: &[Part], written: &[Range<u64>]) {
        for (base, part) in based(parts) {
            let Some(books) = self.stores.get_mut(&part.store).and_then(|store| store.written.as_mut())
            else {
                continue;
            };
            books.remove(&part.range);
            let end = base + (part.range.end - part.range.start);
            for inside in written {
                let (from, to) = (inside.start.max(base), inside.end.min(end));
                if from < to {
                    let shift = part.range.start;
                    books.insert(&(from - base + shift..to - base + shift));
                }
            }
        }
    }

    /// Makes all bytes of `parts` written.
    pub(crate) fn set_all_written(&mut self, parts: &[Part]) {
        self.set_written(parts, std::slice::from_ref(&ALL));
    }

    /// The first bytes of `parts` that nobody wrote: the store, and the range in it.
    pub(crate) fn first_poison(&self, parts: &[Part]) -> Option<(u64, Range<u64>)> {
        parts.iter().find_map(|part| {
            let written = self.stores.get(&part.store)?.written.as_ref()?;
            Some((part.store, written.first_poison(&part.range)?))
        })
    }
}

/// Each part with the distance of its first byte from that of the first part.
fn based(parts: &[Part]) -> impl Iterator<Item = (u64, &Part)> {
    parts.iter().scan(0, |next, part| {
        let base = *next;
        *next += part.range.end - part.range.start;
        Some((base, part))
    })
}

/// As written bytes: all there are.
pub(crate) const ALL: Range<u64> = 0..u64::MAX;
