//! The tracker's answers in the form of PyTorch's results.

use mem_tracker::{ModState, ModuleStats, Snapshot};
use serde_json::{Map, Value, json};

/// A snapshot.
pub(crate) fn json(snapshot: &Snapshot) -> Value {
    let device = |usage: &mem_tracker::Usage| {
        let mut row: Map<String, Value> =
            usage.by_category().map(|(category, bytes)| (category.name().to_owned(), bytes.into())).collect();
        row.insert("Total".to_owned(), usage.total().into());
        Value::Object(row)
    };
    Value::Object(snapshot.iter().map(|(name, usage)| (name.to_owned(), device(usage))).collect())
}

/// A module, without its type, which only PyTorch knows.
pub(crate) fn module(stats: &ModuleStats) -> Value {
    let peaks: Map<String, Value> =
        stats.local_peaks().map(|(device, bytes)| (device.to_owned(), bytes.into())).collect();
    let calls = |state: ModState| Value::Array(stats.snapshots(state).iter().map(json).collect());
    let states: Map<String, Value> =
        stats.states().iter().map(|state| (state.name().to_owned(), calls(*state))).collect();
    json!({
        "fqn": stats.name,
        "parameter_mem": stats.parameter_mem,
        "buffer_mem": stats.buffer_mem,
        "input_mem": stats.input_mem,
        "output_mem": stats.output_mem,
        "local_peak": peaks,
        "snapshots": states,
    })
}

/// PyTorch's modules, by name, without their types.
pub(crate) fn modules(truth: &Value) -> Vec<Value> {
    let mut modules = truth["modules"].as_array().unwrap().clone();
    for module in &mut modules {
        module.as_object_mut().unwrap().remove("type").unwrap();
    }
    modules.sort_by_key(name);
    modules
}

pub(crate) fn name(module: &Value) -> String {
    module["fqn"].as_str().unwrap().to_owned()
}
