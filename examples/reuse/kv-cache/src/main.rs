//! A KV cache for an inference server: one device buffer, sequences that grow token by token.
//!
//! Attention keeps the keys and values of every token of a sequence. How long a sequence gets is known only when it ends,
//! so a server either reserves the worst case for each, and runs few at once, or lets them grow. Here they grow:
//!
//! 1. The grain is a *page* of 16 tokens. Inside its last page a sequence grows for nothing.
//! 2. At a page's end `resize_block` takes the hole behind the block, if there is one: no byte moves. A placement of this
//!    program's own, `Apart`, puts new blocks into the middle of the longest hole, so that there mostly is one.
//! 3. Else a longer block is allocated and the sequence is copied there.
//! 4. When only fragmentation is in the way, `plan_room` says which blocks to move, and the cheapest way is taken.
//! 5. When the pool is full, the sequence that came last is put back into the queue, as servers do.
//!
//! The program runs the same queue with worst-case reservations, compares, and checks every token's bytes when its
//! sequence ends, is copied, or is put back. It exits with an error if any is wrong.
//!
//! # To carry it over
//! `Device` is the only part that touches memory: put a `cuMemcpyDtoDAsync` or a `vkCmdCopyBuffer` into `copy`. If the device
//! has queues, the copies, the kernels that append tokens and those that read them must run on one queue, or wait for each
//! other, and a block in use on another queue should be leased meanwhile: `lease` makes it a wall for every plan. A kernel
//! takes `block(handle).range.start`; ask again each step, moves change it. An attention kernel that takes page tables can
//! do without all of this; one that wants contiguous keys cannot.
//!
//! Run it with `cargo run`.

use std::collections::VecDeque;
use std::error::Error;

use allocator_core::{AllocError, Fit, Handle, Holes, OffsetAllocator, Placement, Plan, Request, Spot};

/// Bytes of keys and values of one token, for all layers: some 100 KiB in a real model.
const TOKEN: u64 = 64;
const PAGE: u64 = 16 * TOKEN;
const POOL: u64 = 512 * PAGE;
/// Tokens a sequence has at most.
const MOST_TOKENS: u64 = 1024;
/// Sequences to be served.
const SEQUENCES: u64 = 300;
/// What stays free when a sequence is taken in, for those there are to grow into. With a sixteenth the queue is served 12 %
/// sooner, and nine times as many bytes move.
const RESERVE: u64 = POOL / 3;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// The memory: here a vector.
struct Device(Vec<u8>);

impl Device {
    fn copy(&mut self, from: u64, to: u64, len: u64) {
        self.0.copy_within(from as usize..(from + len) as usize, to as usize);
    }

    fn write_token(&mut self, at: u64, sequence: u64, token: u64) {
        self.0[at as usize..(at + TOKEN) as usize].fill(tag(sequence, token));
    }

    fn check(&self, start: u64, sequence: &Sequence) -> Fallible<()> {
        let bytes = &self.0[start as usize..(start + sequence.tokens * TOKEN) as usize];
        let ours = |(token, bytes): (u64, &[u8])| bytes.iter().all(|byte| *byte == tag(sequence.id, token));
        if (0..).zip(bytes.chunks(TOKEN as usize)).all(ours) {
            return Ok(());
        }
        Err(format!("sequence {} lost bytes", sequence.id).into())
    }
}

fn tag(sequence: u64, token: u64) -> u8 {
    ((sequence * 1024 + token).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// In the middle of the longest hole: blocks that grow want room behind them.
struct Apart;

impl Placement for Apart {
    fn place(&self, holes: Holes<'_>, fit: &Fit) -> Option<Spot> {
        // Within the longest class holes differ by 1/32 at most; the first that fits will do.
        let class = holes.by_size(fit.size).last()?;
        class.holes().find_map(|hole| {
            let range = hole.range();
            let room = (range.end - range.start).checked_sub(fit.size)?;
            let middle = fit.lowest_in(&(range.start + room / 2..range.end));
            Some(hole.at(middle.or_else(|| fit.lowest_in(&range))?))
        })
    }
}

#[derive(Clone, Copy)]
struct Job {
    id: u64,
    prompt: u64,
    end: u64,
}

/// A sequence that has a block.
struct Sequence {
    id: u64,
    job: Job,
    block: Handle,
    tokens: u64,
}

#[derive(Default)]
struct Report {
    steps: u64,
    in_place: u64,
    copied: u64,
    copied_bytes: u64,
    put_back: u64,
    most_at_once: usize,
    peak_tokens: u64,
}

struct Cache {
    offsets: OffsetAllocator<Apart>,
    device: Device,
    plan: Plan,
    report: Report,
}

impl Cache {
    fn new() -> Fallible<Self> {
        let offsets = OffsetAllocator::with_placement(POOL, PAGE, Apart)?;
        let (device, plan, report) = (Device(vec![0; POOL as usize]), Plan::default(), Report::default());
        Ok(Self { offsets, device, plan, report })
    }

    /// Takes a new sequence in, if enough stays free.
    fn admit(&mut self, job: Job) -> Fallible<Option<Sequence>> {
        let bytes = job.prompt * TOKEN;
        if self.offsets.stats().free < bytes + RESERVE {
            return Ok(None);
        }
        let Some(block) = self.make_room(Request::new(bytes))? else { return Ok(None) };
        let start = self.start(block)?;
        for token in 0..job.prompt {
            self.device.write_token(start + token * TOKEN, job.id, token);
        }
        Ok(Some(Sequence { id: job.id, job, block, tokens: job.prompt }))
    }

    /// Makes room for one more token and writes it. `false` when the pool is full.
    fn append(&mut self, sequence: &mut Sequence) -> Fallible<bool> {
        let needed = (sequence.tokens + 1) * TOKEN;
        let whole_page = (sequence.tokens * TOKEN).is_multiple_of(PAGE);
        match self.offsets.resize_block(sequence.block, needed) {
            Ok(_) => self.report.in_place += u64::from(whole_page),
            Err(AllocError::CannotGrow { .. }) => {
                let Some(longer) = self.make_room(Request::new(needed))? else { return Ok(false) };
                // Only now: making room may have moved the sequence.
                let (from, to) = (self.start(sequence.block)?, self.start(longer)?);
                self.device.copy(from, to, sequence.tokens * TOKEN);
                self.offsets.free(std::mem::replace(&mut sequence.block, longer))?;
                self.report.copied += 1;
                self.report.copied_bytes += sequence.tokens * TOKEN;
                self.device.check(to, sequence)?;
            }
            Err(other) => return Err(other.into()),
        }
        let at = self.start(sequence.block)? + sequence.tokens * TOKEN;
        self.device.write_token(at, sequence.id, sequence.tokens);
        sequence.tokens += 1;
        Ok(true)
    }

    /// A block, after moves if only fragmentation is in the way; `None` when the pool is full.
    fn make_room(&mut self, request: Request) -> Fallible<Option<Handle>> {
        if self.offsets.plan_room_into(request, &mut self.plan).is_err() {
            return Ok(None);
        }
        for step in self.plan.moves() {
            self.device.copy(step.src.start, step.dst, step.len());
            self.offsets.commit_move(step)?;
        }
        Ok(Some(self.offsets.allocate(request)?))
    }

    /// Checks a sequence and gives its block back.
    fn end(&mut self, sequence: &Sequence) -> Fallible<()> {
        self.device.check(self.start(sequence.block)?, sequence)?;
        self.offsets.free(sequence.block)?;
        Ok(())
    }

    fn start(&self, block: Handle) -> Fallible<u64> {
        Ok(self.offsets.block(block)?.range.start)
    }

    /// Serves all of the queue.
    fn serve(&mut self, mut queue: VecDeque<Job>) -> Fallible<()> {
        let mut running: Vec<Sequence> = Vec::new();
        while !(queue.is_empty() && running.is_empty()) {
            while let Some(job) = queue.front()
                && let Some(sequence) = self.admit(*job)?
            {
                queue.pop_front();
                running.push(sequence);
            }
            let mut at = 0;
            while at < running.len() {
                if running[at].tokens == running[at].job.end {
                    self.end(&running.remove(at))?;
                } else if self.append(&mut running[at])? {
                    at += 1;
                } else {
                    let last = running.pop().ok_or("a pool too small for one sequence")?;
                    self.end(&last)?;
                    queue.push_front(last.job);
                    self.report.put_back += 1;
                }
            }
            self.report.steps += 1;
            self.report.most_at_once = self.report.most_at_once.max(running.len());
            self.report.peak_tokens = self.report.peak_tokens.max(self.offsets.stats().requested);
        }
        Ok(())
    }
}

/// Steps until the queue is served when each sequence has the worst case reserved.
fn steps_with_reservations(queue: &VecDeque<Job>) -> u64 {
    let mut slots = vec![0_u64; (POOL / (MOST_TOKENS * TOKEN)) as usize];
    for job in queue {
        if let Some(free) = slots.iter_mut().min() {
            *free += job.end - job.prompt + 1;
        }
    }
    slots.into_iter().max().unwrap_or(0)
}

fn main() -> Fallible<()> {
    let mut random = 1_u64;
    let mut below = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    // Short answers are common, long ones rare.
    let queue: VecDeque<Job> = (0..SEQUENCES)
        .map(|id| {
            let prompt = 16 + below(100);
            Job { id, prompt, end: (prompt + 8 + below(30) * below(30)).min(MOST_TOKENS) }
        })
        .collect();
    let mut cache = Cache::new()?;
    cache.serve(queue.clone())?;

    let (report, stats) = (&cache.report, cache.offsets.stats());
    let grown = report.in_place + report.copied;
    let reserved = (POOL / (MOST_TOKENS * TOKEN), steps_with_reservations(&queue));
    println!("{SEQUENCES} sequences, pool of {} KiB, pages of {} tokens", POOL >> 10, PAGE / TOKEN);
    println!("pages begun      {grown}, {:.1} % in place", 100.0 * report.in_place as f64 / grown as f64);
    println!("copied to grow   {} sequences, {} KiB", report.copied, report.copied_bytes >> 10);
    println!("moved for room   {} blocks, {} KiB", stats.moves, stats.moved_bytes >> 10);
    println!("put back         {} times", report.put_back);
    println!(
        "peak             {:.1} % of the pool held tokens",
        100.0 * report.peak_tokens as f64 / POOL as f64
    );
    println!(
        "at once          {} sequences; with the worst case reserved {}",
        report.most_at_once, reserved.0
    );
    println!("steps            {}; with the worst case reserved {}", report.steps, reserved.1);
    let all_back = stats.blocks == 0 && stats.free == POOL;
    let better = report.steps < reserved.1 && report.peak_tokens > POOL / 10 * 8;
    if all_back && better {
        Ok(())
    } else {
        Err("the pool leaks, or growing is no better than reserving".into())
    }
}
