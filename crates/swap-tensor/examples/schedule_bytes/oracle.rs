//! Farthest next use, as plainly as it can be written: it has seen the future and fetches only what is
//! leased.

use crate::{
    simulator::{Bytes, STEPS},
    trace::{Op, Trace},
};
use swap_tensor::policy::Use;

/// When a tensor that is not used again is needed "next".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Never: it is the first to go, and if nothing below has its contents they are copied down for nobody.
    Never,
    /// When it is dropped: its room comes back by itself then.
    AtDrop,
}

/// What each step but the last would move if whoever is needed farthest ahead were evicted until the lease
/// fits.
pub(crate) fn oracle(trace: &Trace, end: End) -> Vec<Bytes> {
    let capacity = trace.device_bytes();
    let step = |step: usize| if step == 0 { &trace.first } else { &trace.again };
    let ops: Vec<Op> = (0..STEPS).flat_map(step).copied().collect();
    let next = next_uses(&ops, trace.bytes.len(), end);
    let (mut resident, mut dirty) = (vec![None; trace.bytes.len()], vec![false; trace.bytes.len()]);
    let (mut used, mut i, mut steps) = (0, 0, Vec::new());
    for ops in (0..STEPS - 1).map(step) {
        let mut moved = Bytes::default();
        for op in ops {
            match *op {
                Op::Create { .. } => {}
                Op::Drop { tensor } => {
                    used -= resident[tensor].take().map_or(0, |_: usize| trace.bytes[tensor]);
                    dirty[tensor] = false;
                }
                Op::Lease { tensor, how } => {
                    if resident[tensor].take().is_none() {
                        while used + trace.bytes[tensor] > capacity {
                            let there = (0..resident.len()).filter_map(|t| resident[t].map(|next| (next, t)));
                            let (_, victim) = there.max().expect("one tensor fits");
                            resident[victim] = None;
                            used -= trace.bytes[victim];
                            moved.down +=
                                if core::mem::take(&mut dirty[victim]) { trace.bytes[victim] } else { 0 };
                        }
                        used += trace.bytes[tensor];
                        if how != Use::Overwrite {
                            moved.up += trace.bytes[tensor];
                            moved.waits += 1;
                        }
                    }
                    resident[tensor] = Some(next[i]);
                    dirty[tensor] |= how != Use::Read;
                }
            }
            i += 1;
        }
        steps.push(moved);
    }
    steps
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
