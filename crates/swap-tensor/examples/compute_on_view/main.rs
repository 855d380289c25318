//! A kernel works on a block of the arena as it is, before and after the block moved, and on a tensor just swapped in.
//!
//! `cargo run -p swap-tensor --features vulkan --example compute_on_view` runs the story on Vulkan (a SPIR-V shader through
//! ash), `--features wgpu` on wgpu (WGSL), `--features cuda` on CUDA (PTX through cudarc); with several features it runs on
//! each, or on the one that the argument names. It prints what it checked, and ends with an error if a word is not what the
//! kernel should have made of it.

#![cfg_attr(
    not(any(feature = "cuda", feature = "vulkan", feature = "wgpu")),
    allow(
        dead_code,
        unused_imports,
        reason = "with none of the features there is nobody to tell the story to"
    )
)]

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "vulkan")]
mod vulkan;
#[cfg(feature = "wgpu")]
mod webgpu;

use allocator_core::{Arena, Request};
use pinned_host::{Queue, QueuedBuffer, Transfer};
use std::error::Error;
use swap_tensor::{DType, SwapPool, TensorSpec};

/// A kernel that adds a number to each word of a view.
trait AddKernel<T: Transfer> {
    /// Alignment of blocks that can be bound, in bytes.
    fn align(&self) -> u64;

    /// Adds it to the work of `queue`; an event recorded there says when it is done.
    fn add(&self, queue: &T::Queue, buffer: &T::Buffer, range: core::ops::Range<u64>, addend: u32) -> Done;
}

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let wanted = std::env::args().nth(1);
    let wants = |backend: &str| wanted.as_deref().is_none_or(|name| name == backend);
    #[allow(unused_mut, reason = "with none of the features there is nobody to tell the story to")]
    let mut told: Vec<&str> = Vec::new();
    #[cfg(feature = "cuda")]
    if wants("cuda") {
        let (device, kernel) = cuda::open()?;
        story(device, kernel)?;
        told.push("cuda");
    }
    #[cfg(feature = "vulkan")]
    if wants("vulkan") {
        let (device, kernel) = vulkan::open()?;
        story(device, kernel)?;
        told.push("vulkan");
    }
    #[cfg(feature = "wgpu")]
    if wants("wgpu") {
        let (device, kernel) = webgpu::open()?;
        story(device, kernel)?;
        told.push("wgpu");
    }
    let _ = wants;
    if told.is_empty() {
        return Err(
            "nothing to run on: build with --features cuda, vulkan or wgpu, and name one of those built"
                .into(),
        );
    }
    println!("told on {}", told.join(", "));
    Ok(())
}

fn story<T: Transfer, K: AddKernel<T>>(device: T, kernel: K) -> Done {
    on_a_block(&device, &kernel)?;
    on_a_tensor(device, kernel)
}

/// A block of an arena, worked on where it is, and again where a compaction put it.
fn on_a_block<T: Transfer, K: AddKernel<T>>(device: &T, kernel: &K) -> Done {
    let buffer = device.buffer(4 * BYTES)?;
    let queue = buffer.queue().clone();
    let mut arena = Arena::new(buffer.clone())?;
    let request = Request::new(BYTES).align(kernel.align());
    let (neighbour, block) = (arena.allocate(request)?, arena.allocate(request)?);
    let before = arena.range(block)?;
    device.write_now(arena.buffer_mut(), before.start, &bytes(&words(0)))?;
    kernel.add(&queue, arena.buffer(), before.clone(), 1)?;
    queue.drain()?;
    check(device, &buffer, before.start, 1)?;

    // With its neighbour gone, the block moves down; the kernel, the move and the kernel follow each other on the queue.
    kernel.add(&queue, arena.buffer(), before.clone(), 10)?;
    arena.release(neighbour)?;
    arena.compact(u64::MAX)?;
    let after = arena.range(block)?;
    assert_ne!(before, after, "the block was to move");
    kernel.add(&queue, arena.buffer(), after.clone(), 100)?;
    queue.drain()?;
    check(device, &buffer, after.start, 111)?;
    println!("  a block at {before:?}, and moved to {after:?}: {WORDS} words are right");
    Ok(())
}

/// Tensors that do not fit the device together, each worked on just after it was swapped in.
fn on_a_tensor<T: Transfer, K: AddKernel<T>>(device: T, kernel: K) -> Done {
    let pool = SwapPool::builder(device).device_memory(2 * BYTES).host_memory(8 * BYTES).build()?;
    let tensors = (0..4u32)
        .map(|number| {
            let spec = TensorSpec::new(format!("t{number}"), DType::U32, [WORDS as u64])?;
            Ok(pool.create(spec, &bytes(&words(number)))?)
        })
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    for round in 1..=2 {
        for (number, tensor) in tensors.iter().enumerate() {
            let lease = tensor.write()?;
            // The queue waits for the upload; the host does not.
            let range = lease.range();
            kernel.add(lease.queue(), lease.buffer(), range, 1000)?;
            let event = lease.queue().record()?;
            lease.finish(event)?;
            let mut found = vec![0; BYTES as usize];
            tensor.copy_to(&mut found)?;
            let expected: Vec<u32> = words(number as u32).iter().map(|word| word + 1000 * round).collect();
            if found != bytes(&expected) {
                return Err(format!("tensor {number} is wrong in round {round}").into());
            }
        }
    }
    let stats = pool.stats();
    println!("  4 tensors in room for 2, twice: all right, {} evictions", stats.evictions);
    assert!(stats.evictions >= 4, "they were to be swapped");
    drop(tensors);
    pool.settle()?;
    Ok(())
}

fn words(seed: u32) -> Vec<u32> {
    (0..WORDS as u32).map(|at| at * 7 + seed).collect()
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn check<T: Transfer>(device: &T, buffer: &T::Buffer, at: u64, added: u32) -> Done {
    let mut found = vec![0; BYTES as usize];
    device.read_now(buffer, at, &mut found)?;
    let expected: Vec<u32> = words(0).iter().map(|word| word + added).collect();
    if found == bytes(&expected) { Ok(()) } else { Err(format!("wrong words after adding {added}").into()) }
}

const WORDS: usize = 16 << 10;
const BYTES: u64 = 4 * WORDS as u64;
