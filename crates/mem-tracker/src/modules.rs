//! What is known of modules, and its printed forms.

use std::sync::Arc;

use crate::book::{Book, Record};
use crate::snapshot::{HEAD, cells, table};
use crate::usage::Moment;
use crate::{ModState, Snapshot, Units};

/// What is known of a module that was entered.
///
/// Source: `_ModMemStats` of `torch/distributed/_tools/mem_tracker.py`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleStats {
    /// Its name.
    pub name: String,
    /// Bytes its parameters occupied when they were named, each as often as it was.
    pub parameter_mem: u64,
    /// The same for its buffers.
    pub buffer_mem: u64,
    /// Bytes that the inputs of its latest forward pass occupied, where they were named.
    pub input_mem: u64,
    /// The same for the outputs.
    pub output_mem: u64,
    local_peak: Vec<(Arc<str>, u64)>,
    states: Vec<(ModState, Calls)>,
}

/// The calls that met a state.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Calls {
    /// How many came before those that are kept.
    dropped: usize,
    kept: Vec<Snapshot>,
}

impl ModuleStats {
    /// Bytes that a device held at the peak of the module's latest pass, forward or backward.
    #[must_use]
    pub fn local_peak(&self, device: &str) -> u64 {
        self.local_peak.iter().find(|(name, _)| **name == *device).map_or(0, |(_, bytes)| *bytes)
    }

    /// The same for every device that held anything.
    pub fn local_peaks(&self) -> impl Iterator<Item = (&str, u64)> {
        self.local_peak.iter().map(|(name, bytes)| (&**name, *bytes))
    }

    /// The states it met, in the order in which it met them first.
    #[must_use]
    pub fn states(&self) -> Vec<ModState> {
        self.states.iter().map(|(state, _)| *state).collect()
    }

    /// What the devices held at a state, for each call in order: all, or those that [`Tracker::keep_calls`] left.
    ///
    /// [`Tracker::keep_calls`]: crate::Tracker::keep_calls
    #[must_use]
    pub fn snapshots(&self, state: ModState) -> &[Snapshot] {
        self.calls(state).map_or(&[], |calls| &calls.kept)
    }

    /// How many calls met a state before the first of [`snapshots`](Self::snapshots).
    #[must_use]
    pub fn dropped_calls(&self, state: ModState) -> usize {
        self.calls(state).map_or(0, |calls| calls.dropped)
    }

    fn calls(&self, state: ModState) -> Option<&Calls> {
        self.states.iter().find(|(met, _)| *met == state).map(|(_, calls)| calls)
    }

    /// Parts of its name.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.name.matches('.').count() + 1
    }
}

/// Names of devices, and the modules that were entered.
pub(crate) type Copied = (Vec<Arc<str>>, Vec<Record>);

/// What the answer is made of, so that this is all that is done under the lock.
pub(crate) fn copy(book: &mut Book) -> Copied {
    book.settle();
    let names = book.devices.iter().map(|device| Arc::clone(&device.name)).collect();
    (names, book.modules.iter().filter(|record| record.entered).cloned().collect())
}

/// Every module that was entered, in natural order of the names.
pub(crate) fn collect((names, records): Copied) -> Vec<ModuleStats> {
    let usage = |moment: &Moment| moment.usage;
    let snapshot = |row: &[Moment]| Snapshot::new(names.iter().map(Arc::clone).zip(row.iter().map(usage)));
    let mut found: Vec<ModuleStats> = Vec::new();
    for record in &records {
        let states = record.order.iter().map(|state| {
            let dropped = record.dropped(*state);
            let kept = (dropped..record.len(*state)).map(|call| snapshot(record.row(*state, call)));
            (*state, Calls { dropped, kept: kept.collect() })
        });
        let peak = record.latest.map_or(&[][..], |(state, call)| record.row(state, call));
        found.push(ModuleStats {
            name: record.name.to_string(),
            parameter_mem: record.parameters,
            buffer_mem: record.buffers,
            input_mem: record.inputs,
            output_mem: record.outputs,
            local_peak: snapshot(peak)
                .rows()
                .map(|(name, usage)| (Arc::clone(name), usage.total()))
                .collect(),
            states: states.collect(),
        });
    }
    found.sort_by_cached_key(|stats| natural(&stats.name));
    found
}

/// The text for modules of at most this depth.
pub(crate) fn display(modules: &[ModuleStats], depth: usize, units: Units, as_table: bool) -> String {
    let shown = modules.iter().filter(|stats| stats.depth() <= depth);
    shown
        .map(|stats| {
            let states = if as_table { states_table(stats, units) } else { states_plain(stats, units) };
            format!("Module:  {}\n{states}", stats.name)
        })
        .collect()
}

fn states_plain(stats: &ModuleStats, units: Units) -> String {
    let mut text = String::new();
    for (state, calls) in &stats.states {
        text += &format!("{state}\n");
        for (call, snapshot) in (calls.dropped + 1..).zip(&calls.kept) {
            text += &format!("# {call}:\n{}", snapshot.plain(units));
        }
    }
    text + "\n"
}

fn states_table(stats: &ModuleStats, units: Units) -> String {
    let mut rows = Vec::new();
    for (state, calls) in &stats.states {
        for (call, snapshot) in (calls.dropped + 1..).zip(&calls.kept) {
            for (at, (device, usage)) in snapshot.shown(units).enumerate() {
                let named = if at == 0 { format!("{state} # {call}") } else { String::new() };
                rows.push(cells([named, device.to_owned()], usage, units));
            }
        }
    }
    if rows.is_empty() {
        return "\n".to_owned();
    }
    let head = ["State & Call", "Device"].into_iter().chain(HEAD).map(str::to_owned).collect();
    table(head, rows)
}

/// A key that sorts numbers in names as numbers, and letters without case: a text, then each number with the text after it.
fn natural(name: &str) -> Vec<(u64, String)> {
    let text_end = |text: &str| text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
    let number_end = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (text, mut rest) = name.split_at(text_end(name));
    let mut key = vec![(0, text.to_lowercase())];
    while !rest.is_empty() {
        let (number, after) = rest.split_at(number_end(rest));
        let (text, after) = after.split_at(text_end(after));
        // A number that is too long for the type comes last.
        key.push((number.parse().unwrap_or(u64::MAX), text.to_lowercase()));
        rest = after;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["Net.b.10", "net.B.9", "Net", "Net.b.2.x1", "Net.b.2", "Net.b", "0", "Net.b.2.x"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["0", "Net", "Net.b", "Net.b.2", "Net.b.2.x", "Net.b.2.x1", "net.B.9", "Net.b.10"]);
    }
}
