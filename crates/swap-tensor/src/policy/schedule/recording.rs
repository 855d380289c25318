//! What a program did between two marks.

use std::{collections::HashMap, sync::Arc};

/// How a lease uses a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// Its contents are read.
    Read,
    /// Its contents are read and written: other copies are stale from then on.
    Write,
    /// Its contents are written without being read: room is needed, and no copy.
    Overwrite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Created,
    Leased(Use),
    Dropped,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) op: Op,
    pub(super) name: u32,
    /// Of the tensor's copy on the device.
    pub(super) bytes: u64,
}

/// The first and last of a name's creations and drops.
#[derive(Clone, Copy)]
struct Life {
    first: Option<Op>,
    last: Option<Op>,
}

/// The creations, leases and drops of one step, in order. Each is O(1); a name is stored once.
///
/// A pool records by itself; a recording made by hand, from a trace say, shows what a
/// [`Schedule`](super::Schedule) would come to.
#[derive(Debug, Default)]
pub struct Recording {
    pub(super) events: Vec<Event>,
    pub(super) names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
}

impl Recording {
    /// Nothing yet.
    pub fn new() -> Self {
        Recording::default()
    }

    /// A tensor of `bytes` came to be, with contents in host memory or none.
    pub fn created(&mut self, name: &str, bytes: u64) {
        let name = self.number(name);
        self.push(Op::Created, name, bytes);
    }

    /// A tensor of `bytes` was leased.
    pub fn leased(&mut self, name: &str, bytes: u64, how: Use) {
        let name = self.number(name);
        self.push(Op::Leased(how), name, bytes);
    }

    /// A tensor is gone; another may come under its name.
    pub fn dropped(&mut self, name: &str) {
        let name = self.number(name);
        self.push(Op::Dropped, name, 0);
    }

    /// Creations, leases and drops.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn push(&mut self, op: Op, name: u32, bytes: u64) {
        self.events.push(Event { op, name, bytes });
    }

    /// The number of a name, given to it if it is new.
    pub(super) fn intern(&mut self, name: &Arc<str>) -> u32 {
        match self.numbers.get(name) {
            Some(&number) => number,
            None => {
                let number = self.names.len() as u32;
                self.names.push(Arc::clone(name));
                self.numbers.insert(Arc::clone(name), number);
                number
            }
        }
    }

    /// Takes out what cannot happen again in the next step: the creation of a tensor that is alive at the
    /// end, since it is alive at the next beginning too, and everything up to the drop of one that is not
    /// there at the end.
    pub(super) fn keep_what_recurs(&mut self) {
        let mut lives = vec![Life { first: None, last: None }; self.names.len()];
        for event in self.events.iter().filter(|event| !matches!(event.op, Op::Leased(_))) {
            let life = &mut lives[event.name as usize];
            life.first = life.first.or(Some(event.op));
            life.last = Some(event.op);
        }
        self.events.retain(|event| {
            let life = &mut lives[event.name as usize];
            match (life.first, life.last) {
                (Some(Op::Created), Some(Op::Created)) if event.op == Op::Created => {
                    *life = Life { first: None, last: None };
                    false
                }
                (Some(Op::Dropped), Some(Op::Dropped)) => {
                    if event.op == Op::Dropped {
                        *life = Life { first: None, last: None };
                    }
                    false
                }
                _ => true,
            }
        });
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// Forgets everything and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.events.clear();
        self.names.clear();
        self.numbers.clear();
    }

    /// An empty one that can take as much as this one without allocating.
    pub(super) fn empty_like(&self) -> Recording {
        Recording {
            events: Vec::with_capacity(self.events.len() + self.events.len() / 4),
            names: Vec::with_capacity(self.names.len() + self.names.len() / 4),
            numbers: HashMap::with_capacity(self.names.len() + self.names.len() / 4),
        }
    }

    fn number(&mut self, name: &str) -> u32 {
        self.find(name).unwrap_or_else(|| self.intern(&Arc::from(name)))
    }
}
