//! The host twins, a row each.
//!
//! To add one, write the kernel's name and the sizes of its parameters, what a launch uses as [`Effect`]s, and a
//! function that does the same to memory. An effect that is missing hides a race; one too many invents it.

use super::copy_many::{COPIES, COUNT, copied, copy_many};
use super::{Effect, Launch, Twin};
use crate::raw;

pub(crate) const TWINS: &[Twin] = &[
    Twin {
        name: "fill_u32",
        params: &[8, 8, 4],
        block: 0,
        effects: |launch| vec![Effect::Write { at: launch.arg(0), len: words(launch, 1), align: 4 }],
        run: fill_u32,
    },
    Twin {
        name: "add_u32",
        params: &[8, 8, 4],
        block: 0,
        effects: |launch| {
            let (at, len) = (launch.arg(0), words(launch, 1));
            vec![Effect::Read { at, len, align: 4 }, Effect::Write { at, len, align: 4 }]
        },
        run: add_u32,
    },
    Twin {
        name: "copy_u32",
        params: &[8, 8, 8],
        block: 0,
        effects: |launch| {
            let (dst, src) = (launch.arg(0), launch.arg(1));
            vec![Effect::Copy { dst, src, len: words(launch, 2), align: 4 }]
        },
        run: copy_u32,
    },
    Twin {
        name: "move_bytes",
        params: &[8, 8, 8],
        block: 0,
        effects: |launch| {
            let (dst, src) = (launch.arg(0), launch.arg(1));
            vec![Effect::Move { dst, src, len: launch.arg(2), align: 1 }]
        },
        run: move_bytes,
    },
    Twin { name: "copy_many", params: &[COPIES, COUNT], block: 256, effects: copied, run: copy_many },
];

/// Bytes of the elements that the launch has threads for, of as many as parameter `count` says.
fn words(launch: &Launch, count: usize) -> u64 {
    4 * launch.arg(count).min(launch.threads)
}

unsafe fn fill_u32(launch: &Launch) {
    let value = (launch.arg(2) as u32).to_le_bytes();
    // SAFETY: the range is the one that the twin's effects name.
    let bytes = unsafe { raw::bytes_mut(launch.arg(0), words(launch, 1)) };
    bytes.chunks_exact_mut(4).for_each(|word| word.copy_from_slice(&value));
}

unsafe fn add_u32(launch: &Launch) {
    // SAFETY: the range is the one that the twin's effects name.
    let bytes = unsafe { raw::bytes_mut(launch.arg(0), words(launch, 1)) };
    for word in bytes.chunks_exact_mut(4) {
        let mut value = [0; 4];
        value.copy_from_slice(word);
        let sum = u32::from_le_bytes(value).wrapping_add(launch.arg(2) as u32);
        word.copy_from_slice(&sum.to_le_bytes());
    }
}

unsafe fn copy_u32(launch: &Launch) {
    // SAFETY: the ranges are those that the twin's effects name.
    unsafe { raw::copy(launch.arg(0), launch.arg(1), words(launch, 2)) }
}

unsafe fn move_bytes(launch: &Launch) {
    // SAFETY: the ranges are those that the twin's effects name.
    unsafe { raw::copy(launch.arg(0), launch.arg(1), launch.arg(2)) }
}
