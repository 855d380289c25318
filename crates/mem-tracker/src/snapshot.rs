//! What all devices hold at one moment, and its printed forms.

use std::sync::Arc;

use crate::{Category, Units, Usage};

/// What each device holds at one moment. Devices that hold nothing are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    rows: Vec<(Arc<str>, Usage)>,
}

impl Snapshot {
    pub(crate) fn new(rows: impl Iterator<Item = (Arc<str>, Usage)>) -> Self {
        Self { rows: rows.filter(|(_, usage)| !usage.is_empty()).collect() }
    }

    /// What a device holds.
    #[must_use]
    pub fn device(&self, name: &str) -> Option<&Usage> {
        self.rows.iter().find(|(device, _)| **device == *name).map(|(_, usage)| usage)
    }

    /// Every device that holds something, in the order in which the devices were made.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Usage)> {
        self.rows.iter().map(|(device, usage)| (&**device, usage))
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &(Arc<str>, Usage)> {
        self.rows.iter()
    }

    /// Whether no device holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As lines, PyTorch's. Devices whose total rounds to zero are left out.
    #[must_use]
    pub fn plain(&self, units: Units) -> String {
        if self.is_empty() {
            return NOTHING.to_owned();
        }
        let mut text = String::new();
        for (device, usage) in self.shown(units) {
            text += &format!("Device: {device}\n");
            for (name, bytes) in columns(usage) {
                text += &format!("\t{name}: {}\n", units.show(bytes));
            }
        }
        text
    }

    /// As a table, PyTorch's.
    #[must_use]
    pub fn table(&self, units: Units) -> String {
        if self.is_empty() {
            return NOTHING.to_owned();
        }
        let head = ["Device"].into_iter().chain(HEAD).map(str::to_owned).collect();
        let rows = self.shown(units).map(|(device, usage)| cells([device.to_owned()], usage, units));
        table(head, rows.collect())
    }

    /// The rows that are printed.
    pub(crate) fn shown(&self, units: Units) -> impl Iterator<Item = (&str, &Usage)> {
        self.iter().filter(move |(_, usage)| !units.is_nothing(usage.total()))
    }
}

/// A row of a table: what names it, and its figures.
pub(crate) fn cells<const N: usize>(names: [String; N], usage: &Usage, units: Units) -> Vec<String> {
    names.into_iter().chain(columns(usage).map(|(_, bytes)| units.show(bytes))).collect()
}

/// The head of a table's figures.
pub(crate) const HEAD: [&str; 8] =
    ["Parameter", "Buffer", "Gradient", "Activation", "Temp", "Optstate", "Other", "Total"];

fn columns(usage: &Usage) -> impl Iterator<Item = (&'static str, u64)> {
    usage
        .by_category()
        .map(|(category, bytes)| (Category::name(category), bytes))
        .chain([("Total", usage.total())])
}

/// A table as Python's `tabulate` makes it with `tablefmt="rst"`: columns to the left, at least two wider than their heads,
/// no spaces at the ends of lines, and `..` where a row's first cell is empty.
pub(crate) fn table(head: Vec<String>, mut rows: Vec<Vec<String>>) -> String {
    for first in rows.iter_mut().filter_map(|row| row.first_mut()).filter(|first| first.is_empty()) {
        ".".repeat(2).clone_into(first);
    }
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        cells.max(head[at].chars().count() + 2)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let rule = line(&widths.iter().map(|width| "=".repeat(*width)).collect::<Vec<_>>());
    let body: String = rows.iter().map(|row| line(row)).collect();
    format!("{rule}{}{rule}{body}{rule}", line(&head))
}

const NOTHING: &str = "No memory tracked.\n";
