//! An order of use: a doubly linked list over small numbers.

use super::NONE;

/// Numbers from the one touched longest ago to the newest. Every step is O(1); memory grows to the largest
/// number only.
///
/// ```text
/// oldest -> 4 <-> 0 <-> 7 <- newest        links[4] = { older: NONE, newer: 0 }, links[1] is not linked
/// ```
#[derive(Debug)]
pub(crate) struct Recency {
    links: Vec<Link>,
    /// Ends of the list; `NONE` iff it is empty.
    oldest: u32,
    newest: u32,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    older: u32,
    newer: u32,
    linked: bool,
}

impl Default for Recency {
    fn default() -> Self {
        Recency { links: Vec::new(), oldest: NONE, newest: NONE }
    }
}

impl Recency {
    /// Makes `number` the newest.
    pub(crate) fn touch(&mut self, number: u32) {
        if self.newest == number {
            return;
        }
        self.remove(number);
        let len = self.links.len().max(number as usize + 1);
        self.links.resize(len, UNLINKED);
        self.links[number as usize] = Link { older: self.newest, newer: NONE, linked: true };
        match self.links.get_mut(self.newest as usize) {
            Some(link) => link.newer = number,
            None => self.oldest = number,
        }
        self.newest = number;
    }

    /// Takes `number` off the list; `false` if it was not on it.
    pub(crate) fn remove(&mut self, number: u32) -> bool {
        let Some(&Link { older, newer, linked: true }) = self.links.get(number as usize) else {
            return false;
        };
        match self.links.get_mut(older as usize) {
            Some(link) => link.newer = newer,
            None => self.oldest = newer,
        }
        match self.links.get_mut(newer as usize) {
            Some(link) => link.older = older,
            None => self.newest = older,
        }
        self.links[number as usize] = UNLINKED;
        true
    }

    /// Whether `number` is on the list.
    pub(crate) fn contains(&self, number: u32) -> bool {
        self.links.get(number as usize).is_some_and(|link| link.linked)
    }

    /// The number touched last.
    pub(crate) fn newest(&self) -> Option<u32> {
        (self.newest != NONE).then_some(self.newest)
    }

    /// The one touched before `number`, if that is on the list and not the oldest.
    pub(crate) fn older(&self, number: u32) -> Option<u32> {
        self.links.get(number as usize).map(|link| link.older).filter(|&older| older != NONE)
    }

    /// Empties the list and keeps its memory. O(length of the table).
    pub(super) fn clear(&mut self) {
        self.links.fill(UNLINKED);
        (self.oldest, self.newest) = (NONE, NONE);
    }

    /// The numbers, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.oldest;
        core::iter::from_fn(move || {
            let link = self.links.get(at as usize)?;
            let number = at;
            at = link.newer;
            Some(number)
        })
    }
}

const UNLINKED: Link = Link { older: NONE, newer: NONE, linked: false };

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_keeps_the_order_of_a_plain_list(ops in prop::collection::vec((0u8..20, 0u32..12), 0..200)) {
            let (mut list, mut model) = (Recency::default(), Vec::new());
            for (op, number) in ops {
                let there = model.contains(&number);
                model.retain(|&n| n != number);
                match op {
                    0 => {
                        list.clear();
                        model.clear();
                    }
                    1..10 => prop_assert_eq!(list.remove(number), there),
                    _ => {
                        list.touch(number);
                        model.push(number);
                    }
                }
                prop_assert_eq!(list.iter().collect::<Vec<_>>(), model.clone());
                prop_assert_eq!(list.contains(number), model.contains(&number));
                let back = std::iter::successors(list.newest(), |&number| list.older(number));
                prop_assert_eq!(back.collect::<Vec<_>>(), model.iter().rev().copied().collect::<Vec<_>>());
            }
        }
    }
}
