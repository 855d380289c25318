//! Who held which bytes during a run, for people and for programs.

use crate::output::visible;
use mem_tracker::{Amount, Attribution, Device, StorageShare, Tracker, Usage, When};
use serde_json::{Map, Value, json};
use std::fmt::Display;

/// For each tier that held something: PyTorch's table, and who held it when it was most.
pub(crate) fn text(tracker: &Tracker) -> String {
    let tiers: Vec<String> = used(tracker).map(|tier| lines(&tier).join("\n")).collect();
    tiers.join("\n")
}

fn lines(tier: &Device) -> Vec<String> {
    let mut lines = vec![String::new(), format!("memory of {}", tier.name())];
    lines.extend(tier.memory_summary(true).lines().map(str::to_owned));
    let peak = tier.attribution(When::Peak, LARGEST);
    let most = Amount(peak.usage.total());
    lines.push(format!("at its peak: {most} in {} tensors, {}", peak.storages, peak.usage));
    lines.push("the largest modules then".to_owned());
    let (named, others) = peak.modules.split_at(peak.modules.len().min(MODULES));
    lines.extend(named.iter().map(entry));
    if !others.is_empty() {
        let rest = Amount(others.iter().map(|share| share.usage.total()).sum());
        lines.push(entry(format_args!("{rest} {} others", others.len())));
    }
    lines.push("the largest tensors then".to_owned());
    lines.extend(peak.largest.iter().map(entry));
    lines
}

/// Of a list; names are the model's.
fn entry(of: impl Display) -> String {
    format!("  {}", visible(&of.to_string()))
}

/// The same figures, by tier.
pub(crate) fn json(tracker: &Tracker) -> Value {
    let tiers = used(tracker).map(|tier| {
        let peak = tier.attribution(When::Peak, LARGEST);
        let figures = json!({
            "memory_stats": tier.memory_stats_map(),
            "current_bytes": by_category(&tier.usage(When::Current)),
            "peak_bytes": by_category(&peak.usage),
            "peak_modules": modules(&peak),
            "peak_largest": peak.largest.iter().map(storage).collect::<Vec<_>>(),
        });
        (tier.name(), figures)
    });
    Value::Object(tiers.collect())
}

/// The tiers that ever held something.
fn used(tracker: &Tracker) -> impl Iterator<Item = Device> {
    tracker.devices().into_iter().filter(|tier| !tier.usage(When::Peak).is_empty())
}

fn by_category(usage: &Usage) -> Value {
    let held = usage.by_category().map(|(category, bytes)| (category.name().to_owned(), bytes.into()));
    Value::Object(held.collect::<Map<_, _>>())
}

fn modules(of: &Attribution) -> Value {
    let modules = of.modules.iter().take(MODULES);
    modules.map(|share| json!({ "module": share.module, "bytes": share.usage.total() })).collect()
}

fn storage(share: &StorageShare) -> Value {
    json!({
        "module": share.module,
        "name": share.label,
        "category": share.category.name(),
        "bytes": share.allocated,
    })
}

/// Modules that are named.
const MODULES: usize = 10;
/// Tensors that are named.
const LARGEST: usize = 5;
