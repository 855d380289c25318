//! Farthest next use, as plainly as it can be written: it has seen the future and fetches only what is leased.

use crate::{
    simulator::{Bytes, COUNTED, STEPS},
    trace::{Op, Trace},
};
use swap_tensor::policy::Use;

/// When a tensor that is not used again is needed "next".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Never: it is the first to go, and if nothing below has its contents they are copied down for nobody.
    Never,
    /// When it is dropped: its room comes back by itself then.
    AtDrop,
}

/// What every step of the trace would move if whoever is needed farthest ahead were evicted until the lease fits.
pub fn oracle(trace: &Trace, end: End) -> Bytes {
    let capacity = trace.device_bytes();
    let ops: Vec<Op> =
        (0..STEPS).flat_map(|step| if step == 0 { &trace.first } else { &trace.again }).copied().collect();
    let next = next_uses(&ops, trace.bytes.len(), end);
    let (mut resident, mut dirty) = (vec![None; trace.bytes.len()], vec![false; trace.bytes.len()]);
    let (mut used, mut total, mut at_start, mut now) =
        (0, Bytes::default(), Bytes::default(), Bytes::default());
    let starts = |step: usize| if step == 0 { 0 } else { trace.first.len() + (step - 1) * trace.again.len() };
    for (i, op) in ops.iter().enumerate() {
        if i == starts(COUNTED.start) {
            at_start = total;
        }
        if i == starts(COUNTED.end) {
            now = total;
        }
        match *op {
            Op::Create { .. } => {}
            Op::Drop { tensor } => {
                if resident[tensor].take().is_some() {
                    used -= trace.bytes[tensor];
                }
                dirty[tensor] = false;
            }
            Op::Lease { tensor, how } => {
                if resident[tensor].take().is_none() {
                    while used + trace.bytes[tensor] > capacity {
                        let there =
                            (0..resident.len()).filter_map(|t| resident[t].map(|next: usize| (next, t)));
                        let (_, victim) = there.max().expect("one tensor fits");
                        resident[victim] = None;
                        used -= trace.bytes[victim];
                        total.down +=
                            if core::mem::take(&mut dirty[victim]) { trace.bytes[victim] } else { 0 };
                    }
                    used += trace.bytes[tensor];
                    if how != Use::Overwrite {
                        total.up += trace.bytes[tensor];
                        total.waits += 1;
                    }
                }
                resident[tensor] = Some(next[i]);
                dirty[tensor] |= how != Use::Read;
            }
        }
    }
    Bytes { up: now.up - at_start.up, down: now.down - at_start.down, waits: now.waits - at_start.waits }
}

/// For each lease, where its tensor is leased next: never, if it is dropped before.
fn next_uses(ops: &[Op], tensors: usize, end: End) -> Vec<usize> {
    let (mut ahead, mut next) = (vec![usize::MAX; tensors], vec![usize::MAX; ops.len()]);
    for (i, op) in ops.iter().enumerate().rev() {
        match *op {
            Op::Lease { tensor, .. } => next[i] = core::mem::replace(&mut ahead[tensor], i),
            Op::Drop { tensor } if end == End::AtDrop => ahead[tensor] = i,
            Op::Create { tensor } | Op::Drop { tensor } => ahead[tensor] = usize::MAX,
        }
    }
    next
}
