//! Which tensor has not been used for longest: a doubly linked list over slot numbers, O(1) per use.

/// Order of use of the tensors on the device. Allocates only when a slot number is new.
#[derive(Debug, Default)]
pub(crate) struct Lru {
    links: Vec<Link>,
    /// Least and most recently used; `NONE` iff the list is empty.
    oldest: u32,
    newest: u32,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    older: u32,
    newer: u32,
    linked: bool,
}

impl Lru {
    pub(crate) fn new() -> Self {
        Lru { links: Vec::new(), oldest: NONE, newest: NONE }
    }

    /// Makes `slot` the most recently used.
    pub(crate) fn touch(&mut self, slot: u32) {
        if self.newest == slot {
            return;
        }
        self.remove(slot);
        let len = self.links.len().max(slot as usize + 1);
        self.links.resize(len, UNLINKED);
        self.links[slot as usize] = Link { older: self.newest, newer: NONE, linked: true };
        match self.links.get_mut(self.newest as usize) {
            Some(link) => link.newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
    }

    /// Takes `slot` off the list, if it is on it.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(&Link { older, newer, linked: true }) = self.links.get(slot as usize) else { return };
        match self.links.get_mut(older as usize) {
            Some(link) => link.newer = newer,
            None => self.oldest = newer,
        }
        match self.links.get_mut(newer as usize) {
            Some(link) => link.older = older,
            None => self.newest = older,
        }
        self.links[slot as usize] = UNLINKED;
    }

    /// The slots, least recently used first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.oldest;
        core::iter::from_fn(move || {
            let link = self.links.get(at as usize)?;
            let slot = at;
            at = link.newer;
            Some(slot)
        })
    }
}

const NONE: u32 = u32::MAX;
const UNLINKED: Link = Link { older: NONE, newer: NONE, linked: false };

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_keeps_the_order_of_a_plain_list(ops in prop::collection::vec((any::<bool>(), 0u32..12), 0..200)) {
            let (mut lru, mut model) = (Lru::new(), Vec::new());
            for (touch, slot) in ops {
                model.retain(|&s| s != slot);
                if touch {
                    lru.touch(slot);
                    model.push(slot);
                } else {
                    lru.remove(slot);
                }
                prop_assert_eq!(lru.iter().collect::<Vec<_>>(), model.clone());
            }
        }
    }
}
