//! The correctness pass: who owns which bytes, kept beside the engine.

use crate::engine::{Engine, Seat};
use crate::stream::Stream;
use std::collections::BTreeMap;
use std::ops::Range;

/// The live ranges of an engine: end by start.
#[derive(Default)]
pub(crate) struct Shadow(BTreeMap<u64, u64>);

impl Shadow {
    /// Adds a block of at least `bytes` within `capacity`, or says what is wrong with it.
    pub(crate) fn add(&mut self, block: Range<u64>, bytes: u64, capacity: u64) -> Result<(), String> {
        let Range { start, end } = block;
        if end < start + bytes || end > capacity {
            return Err(format!("{bytes} bytes were given {start}..{end} of {capacity}"));
        }
        let below = self.0.range(..end).next_back();
        if let Some((other, other_end)) = below.filter(|(_, other_end)| **other_end > start) {
            return Err(format!("{start}..{end} overlaps the live {other}..{other_end}"));
        }
        self.0.insert(start, end);
        Ok(())
    }

    pub(crate) fn remove(&mut self, block: &Range<u64>) -> Result<(), String> {
        match self.0.remove(&block.start) {
            Some(_) => Ok(()),
            None => Err(format!("{}..{} was moved behind the caller's back", block.start, block.end)),
        }
    }
}

/// Runs a stream, untimed, and checks that no two live blocks share a byte.
pub(crate) fn check<E: Engine>(stream: &Stream) -> Result<(), String> {
    let mut engine = E::new(&stream.setup);
    let mut seats = Seat::row(stream.fill.len());
    let mut shadow = Shadow::default();
    let mut lengths = stream.fill.clone();
    let pairs = stream.pairs.iter().map(|pair| (pair.seat as usize, pair.bytes));
    for (at, bytes) in stream.fill.iter().copied().enumerate().chain(pairs) {
        let seat: &mut Seat<E::Ticket> = &mut seats[at];
        let named = |why| format!("{}: {why}", E::NAME);
        if let Some(ticket) = seat.0.take() {
            shadow.remove(&engine.range(&ticket, lengths[at].into())).map_err(named)?;
            engine.free(ticket);
        }
        if let Some(ticket) = engine.alloc(bytes.into()) {
            let range = engine.range(&ticket, bytes.into());
            shadow.add(range, bytes.into(), stream.setup.capacity).map_err(named)?;
            seat.0 = Some(ticket);
            lengths[at] = bytes;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found_on_both_sides() {
        let mut shadow = Shadow::default();
        shadow.add(10..20, 10, 100).unwrap();
        shadow.add(20..30, 10, 100).unwrap();
        assert!(shadow.add(5..11, 6, 100).is_err());
        assert!(shadow.add(29..40, 11, 100).is_err());
        assert!(shadow.add(12..14, 2, 100).is_err());
        assert!(shadow.add(0..100, 100, 100).is_err());
        assert!(shadow.add(95..101, 6, 100).is_err());
        assert!(shadow.add(40..44, 5, 100).is_err());
        shadow.remove(&(10..20)).unwrap();
        assert!(shadow.remove(&(10..20)).is_err());
        shadow.add(0..20, 20, 100).unwrap();
    }
}
