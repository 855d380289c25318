//! What is alive: at the end of a process, what it left.

use crate::memory::Origin;
use crate::sim::Sim;

/// Live objects by kind.
#[derive(Debug, Default)]
pub(crate) struct Leaks(Vec<Row>);

#[derive(Debug)]
struct Row {
    kind: &'static str,
    count: u64,
    /// `None` where bytes mean nothing.
    bytes: Option<u64>,
}

impl Leaks {
    pub(crate) fn of(sim: &Sim) -> Self {
        let mut leaks = Leaks::default();
        let memory = |wanted: fn(Origin) -> bool| {
            sim.memory
                .mappings()
                .filter(|mapping| wanted(mapping.origin) && mapping.freed.is_none())
                .fold((0, 0), |(count, bytes), mapping| (count + 1, bytes + mapping.len))
        };
        leaks.add_bytes("device memory", memory(|origin| origin == Origin::Plain));
        leaks.add_bytes("memory from a pool", memory(|origin| matches!(origin, Origin::Pool(_))));
        // On a broken device nobody can know when host memory may go, so keeping it, with its context and what was loaded
        // there, is careful.
        let kept = sim.broken.is_some();
        if !kept {
            leaks.add_bytes("host memory", memory(|origin| matches!(origin, Origin::HostAlloc(_))));
            leaks.add_bytes(
                "registered host memory",
                memory(|origin| matches!(origin, Origin::Registered(_))),
            );
        }
        leaks.add_bytes("mapping of physical memory", memory(|origin| matches!(origin, Origin::Physical(_))));
        leaks.add_bytes("physical memory", sim.memory.created());
        leaks.add_bytes("reserved addresses", sim.memory.reserved());
        leaks.add("stream", sim.streams.len());
        leaks.add("event", sim.events.len());
        leaks.add("memory pool", sim.pools.all.len() - usize::from(sim.pools.default.is_some()));
        if !kept {
            leaks.add("module", sim.modules.len());
            leaks.add("context", sim.contexts.made.len() + usize::from(sim.contexts.primary.is_some()));
        }
        leaks
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|row| row.count).sum()
    }

    fn add(&mut self, kind: &'static str, count: usize) {
        self.push(Row { kind, count: count as u64, bytes: None });
    }

    fn add_bytes(&mut self, kind: &'static str, (count, bytes): (u64, u64)) {
        self.push(Row { kind, count, bytes: Some(bytes) });
    }

    fn push(&mut self, row: Row) {
        if row.count > 0 {
            self.0.push(row);
        }
    }
}

impl core::fmt::Display for Leaks {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for Row { kind, count, bytes } in &self.0 {
            match bytes {
                Some(bytes) => writeln!(f, "  {count} × {kind}, {bytes} bytes")?,
                None => writeln!(f, "  {count} × {kind}")?,
            }
        }
        Ok(())
    }
}
