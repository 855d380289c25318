//! Using the core in your allocator: a walk through the decisions, each with code that runs.
//!
//! You have a buffer, and blocks in it that come and go: pages of a KV cache, meshes, textures, messages in shared memory. What
//! you need of this crate is [`OffsetAllocator`](crate::OffsetAllocator), which knows offsets and touches no memory, or
//! [`Arena`](crate::Arena), which adds a buffer and makes the copies. The first when your memory is not one
//! [`DeviceBuffer`](crate::DeviceBuffer), or blocks are to change their length; else the second. Three whole programs are in the
//! repository's `examples/reuse`: a KV cache, a mesh streamer, a shared-memory segment.
//!
//! [Units](#units) · [Handles and tables beside them](#handles-and-tables-beside-them) · [Several arenas](#several-arenas) ·
//! [Work in flight](#work-in-flight) · [Compaction in small doses](#compaction-in-small-doses) ·
//! [Moves on a device with queues](#moves-on-a-device-with-queues) · [Short and long lives](#short-and-long-lives) ·
//! [A placement of your own](#a-placement-of-your-own) · [When a request fails](#when-a-request-fails) ·
//! [Growing and shrinking](#growing-and-shrinking) · [Threads](#threads) · [Without std](#without-std)
//!
//! # Units
//! Sizes and offsets are `u64`, and what they count is yours: bytes, vertices, pages. The documentation and the messages say
//! bytes. The *grain* is the unit of all offsets and lengths, a power of two; requests are rounded up to it, and the block
//! remembers what was asked. Take the coarsest grain your blocks bear: it leaves fewer, longer holes, and blocks grow for
//! nothing inside their last grain. An alignment below the grain has no effect; one above it is kept by every move.
//!
//! ```
//! use allocator_core::{OffsetAllocator, Request};
//!
//! // Words of 4 bytes: a vertex has 8, an index 1. Vertices are aligned, so that a base vertex is a whole number.
//! let mut words = OffsetAllocator::new(1 << 20)?;
//! let indices = words.allocate(Request::new(36))?;
//! let vertices = words.allocate(Request::new(24 * 8).align(8))?;
//! assert_eq!(words.block(indices)?.range, 0..36);
//! assert_eq!(words.block(vertices)?.range.start / 8, 5); // the base vertex
//!
//! // Bytes in pages of 256, as a device may ask for.
//! let mut bytes = OffsetAllocator::with_grain(1 << 20, 256)?;
//! let block = bytes.allocate(Request::new(1000))?;
//! let block = bytes.block(block)?;
//! assert_eq!((block.range.clone(), block.used()), (0..1024, 0..1000));
//! # Ok::<(), allocator_core::AllocError>(())
//! ```
//!
//! # Handles and tables beside them
//! A [`Handle`](crate::Handle) names a block for as long as it lives, wherever it moves; keep the handle and ask
//! [`block`](crate::OffsetAllocator::block) where it is when you need to know. Once the block is freed, the handle is an error for
//! ever. What you know about a block goes into a table of your own. [`Handle::index`](crate::Handle::index) is small, dense and
//! used again, so a vector will do; keep the handle in the row, to tell the tenants of a slot apart.
//!
//! ```
//! use allocator_core::{AllocError, Handle, OffsetAllocator, Request};
//!
//! /// Rows by slot.
//! #[derive(Default)]
//! struct Names(Vec<Option<(Handle, String)>>);
//!
//! impl Names {
//!     fn set(&mut self, handle: Handle, name: &str) {
//!         if self.0.len() <= handle.index() {
//!             self.0.resize(handle.index() + 1, None);
//!         }
//!         self.0[handle.index()] = Some((handle, name.to_owned()));
//!     }
//!
//!     fn get(&self, handle: Handle) -> Option<&str> {
//!         let row = self.0.get(handle.index())?.as_ref();
//!         row.filter(|(tenant, _)| *tenant == handle).map(|(_, name)| name.as_str())
//!     }
//! }
//!
//! let (mut offsets, mut names) = (OffsetAllocator::new(1024)?, Names::default());
//! let weights = offsets.allocate(Request::new(512))?;
//! names.set(weights, "weights");
//! offsets.free(weights)?;
//!
//! let bias = offsets.allocate(Request::new(512))?; // the same slot, the same bytes
//! names.set(bias, "bias");
//! assert_eq!(weights.index(), bias.index());
//! assert_eq!((names.get(bias), names.get(weights)), (Some("bias"), None));
//! assert_eq!(offsets.block(weights), Err(AllocError::StaleHandle { handle: weights }));
//! # Ok::<(), AllocError>(())
//! ```
//!
//! The other way round, from an offset to a block, is a walk over [`blocks`](crate::OffsetAllocator::blocks), in address order.
//!
//! # Several arenas
//! [`find`](crate::OffsetAllocator::find) takes nothing: ask every arena, compare, and
//! [`commit`](crate::OffsetAllocator::commit) one candidate. It is good until its allocator changes; then it is refused, and you
//! ask again. The same two steps serve when something between them may fail, such as recording a command.
//!
//! ```
//! use allocator_core::{AllocError, Handle, OffsetAllocator, Request};
//!
//! /// Takes room in the arena that is fullest and still has some. Whole arenas become empty, and can be given back.
//! fn place(arenas: &mut [OffsetAllocator], request: Request) -> Option<(usize, Handle)> {
//!     let found = arenas.iter().enumerate().filter_map(|(at, arena)| Some((at, arena.find(request).ok()?)));
//!     let (at, candidate) = found.min_by_key(|(at, _)| arenas[*at].stats().free)?;
//!     Some((at, arenas[at].commit(candidate).ok()?))
//! }
//!
//! let mut arenas = [OffsetAllocator::new(1000)?, OffsetAllocator::new(1000)?];
//! arenas[1].allocate(Request::new(600))?;
//! assert_eq!(place(&mut arenas, Request::new(300)).map(|(at, _)| at), Some(1));
//! assert_eq!(place(&mut arenas, Request::new(300)).map(|(at, _)| at), Some(0));
//! assert_eq!(place(&mut arenas, Request::new(1001)), None);
//! # Ok::<(), AllocError>(())
//! ```
//!
//! A handle of one arena is refused by every other: [`ForeignHandle`](crate::AllocError::ForeignHandle). It does not say which
//! arena it is of; keep the number beside it, as above.
//!
//! # Work in flight
//! While a kernel, a draw or a reader uses a block, it must neither move nor leave. A *lease* says so; leases count. End it when
//! the fence or event fires, not when the work was submitted.
//!
//! ```
//! use allocator_core::{AllocError, Handle, OffsetAllocator, Request};
//! use std::collections::VecDeque;
//!
//! let mut offsets = OffsetAllocator::new(300)?;
//! let blocks: Vec<_> = (0..3).map(|_| offsets.allocate(Request::new(100))).collect::<Result<_, _>>()?;
//! offsets.free(blocks[0])?;
//!
//! // What each frame uses, the oldest in front.
//! let mut in_flight: VecDeque<Vec<Handle>> = VecDeque::new();
//! for frame in 0..4 {
//!     if in_flight.len() == 2 {
//!         // … wait for the fence of that frame here …
//!         for used in in_flight.pop_front().into_iter().flatten() {
//!             offsets.unlease(used)?;
//!         }
//!     }
//!     if frame == 0 {
//!         offsets.lease(blocks[2])?;
//!         in_flight.push_back(vec![blocks[2]]);
//!         // In use: it cannot be freed, and every plan goes around it.
//!         assert_eq!(offsets.free(blocks[2]), Err(AllocError::Leased { handle: blocks[2], leases: 1 }));
//!         assert_eq!(offsets.plan_slide().moves().len(), 1);
//!     } else {
//!         in_flight.push_back(vec![]);
//!     }
//! }
//! assert_eq!(offsets.free(blocks[2]), Ok(200..300));
//! # Ok::<(), AllocError>(())
//! ```
//!
//! What is in use without a pause is a wall for good. To move it all the same, allocate a second block, copy, use the second from
//! the next frame on, and free the first when the last frame that used it has ended.
//!
//! # Compaction in small doses
//! [`plan_compact`](crate::OffsetAllocator::plan_compact) moves at most so many bytes and comes closer to one hole each time. Call
//! it once a frame, into a [`Plan`](crate::Plan) that is used again, and only while you need it: bytes that are moved for no
//! request are wasted.
//!
//! ```
//! use allocator_core::{OffsetAllocator, Plan, Request};
//!
//! /// Bytes moved; zero when there is a hole as long as `enough`, or none can be made.
//! fn tidy(offsets: &mut OffsetAllocator, memory: &mut [u8], plan: &mut Plan, enough: u64) -> u64 {
//!     if offsets.stats().largest_hole >= enough {
//!         return 0;
//!     }
//!     offsets.plan_compact_into(64, plan);
//!     for step in plan.moves() {
//!         let src = step.src.start as usize..step.src.end as usize;
//!         if offsets.commit_move(step).is_ok() {
//!             memory.copy_within(src, step.dst as usize);
//!         }
//!     }
//!     plan.bytes()
//! }
//!
//! let (mut memory, mut plan) = ([0_u8; 256], Plan::default());
//! let mut offsets = OffsetAllocator::new(256)?;
//! let blocks: Vec<_> = (0..8).map(|_| offsets.allocate(Request::new(32))).collect::<Result<_, _>>()?;
//! for (tag, block) in (1..).zip(&blocks) {
//!     let at = offsets.block(*block)?.range.start as usize;
//!     memory[at..at + 32].fill(tag);
//! }
//! for gone in blocks.iter().step_by(2) {
//!     offsets.free(*gone)?;
//! }
//! let frames: Vec<u64> = (0..4).map(|_| tidy(&mut offsets, &mut memory, &mut plan, 128)).collect();
//! assert_eq!(frames, [64, 64, 0, 0]);
//! let last = offsets.block(blocks[7])?.range;
//! assert_eq!((last.clone(), memory[last.start as usize]), (96..128, 8));
//! # Ok::<(), allocator_core::AllocError>(())
//! ```
//!
//! When a request is at hand, [`plan_room`](crate::OffsetAllocator::plan_room) finds the least moves for that one instead. A plan
//! may be carried out in part, with frees and allocations in between: what they made impossible is refused, the rest stands.
//!
//! # Moves on a device with queues
//! A move is a copy whose source and destination may overlap. With [`Arena::apply`](crate::Arena::apply) the copy is enqueued in
//! a closure, and the books change only if that returned `Ok`. Order it there: after whatever last used either range, before
//! whatever comes next. Where one queue does everything, there is nothing to order.
#![cfg_attr(feature = "conformance", doc = "```")]
#![cfg_attr(not(feature = "conformance"), doc = "```ignore")]
//! use allocator_core::conformance::VecBuffer; // in place of your device's buffer
//! use allocator_core::{Arena, DeviceBuffer, Move, Plan, RangeError, Request};
//!
//! /// Stands for a queue: what it was told, in order.
//! #[derive(Default)]
//! struct Queue(Vec<String>);
//!
//! impl Queue {
//!     fn copy(&mut self, buffer: &mut VecBuffer, step: &Move) -> Result<(), RangeError> {
//!         self.0.push(format!("wait for users of {:?} and {:?}", step.src, step.dst_range()));
//!         buffer.copy_within(step.src.clone(), step.dst)?; // `Err` says: nothing was enqueued
//!         self.0.push(format!("signal: {} is at {}", step.handle.index(), step.dst));
//!         Ok(())
//!     }
//! }
//!
//! let mut arena = Arena::new(VecBuffer::new(100))?;
//! let first = arena.allocate(Request::new(40))?;
//! let second = arena.allocate(Request::new(40))?;
//! arena.release(first)?;
//!
//! let (mut queue, mut plan) = (Queue::default(), Plan::default());
//! arena.plan_room_into(Request::new(60), &mut plan)?;
//! for step in plan.moves() {
//!     arena.apply(step, |buffer, step| queue.copy(buffer, step))?;
//! }
//! assert_eq!(queue.0.len(), 2 * plan.moves().len());
//! assert!(arena.allocate_in_place(Request::new(60)).is_ok() && arena.range(second).is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! Most devices forbid a copy onto itself. [`disjoint_steps`](crate::disjoint_steps) splits a move into pieces that do not
//! overlap, each after the one before it; [`CopyCost`](crate::CopyCost) says when a scratch buffer is cheaper.
//!
//! ```
//! use allocator_core::disjoint_steps;
//!
//! let copies: Vec<_> = disjoint_steps(30..100, 0, 0).collect();
//! assert_eq!(copies, [(30..60, 0), (60..90, 30), (90..100, 60)]);
//! ```
//!
//! # Short and long lives
//! Blocks that die together should lie together. [`Lifetime::Short`](crate::Lifetime::Short) takes the high end of its hole,
//! everything else the low end; it is a hint to the placement, no promise.
//!
//! ```
//! use allocator_core::{Lifetime, OffsetAllocator, Request};
//!
//! let mut offsets = OffsetAllocator::new(1000)?;
//! let weights = offsets.allocate(Request::new(100).lifetime(Lifetime::Long))?;
//! let scratch = offsets.allocate(Request::new(100).lifetime(Lifetime::Short))?;
//! assert_eq!(offsets.block(weights)?.range, 0..100);
//! assert_eq!(offsets.block(scratch)?.range, 900..1000);
//! # Ok::<(), allocator_core::AllocError>(())
//! ```
//!
//! # A placement of your own
//! [`GoodFit`](crate::GoodFit) is the default, [`BestFit`](crate::BestFit) and [`LowestOffset`](crate::LowestOffset) are there.
//! Another is a type with one method; a spot that is none is refused, so a faulty one corrupts nothing.
//!
//! ```
//! use allocator_core::{Fit, Holes, OffsetAllocator, Placement, Request, Spot};
//!
//! /// In the middle of the longest hole: blocks that grow want room behind them.
//! struct Apart;
//!
//! impl Placement for Apart {
//!     fn place(&self, holes: Holes<'_>, fit: &Fit) -> Option<Spot> {
//!         holes.by_size(fit.size).last()?.holes().find_map(|hole| {
//!             let range = hole.range();
//!             let room = (range.end - range.start).checked_sub(fit.size)?;
//!             let middle = fit.lowest_in(&(range.start + room / 2..range.end));
//!             Some(hole.at(middle.or_else(|| fit.lowest_in(&range))?))
//!         })
//!     }
//! }
//!
//! let mut offsets = OffsetAllocator::with_placement(1000, 1, Apart)?;
//! let first = offsets.allocate(Request::new(100))?;
//! let second = offsets.allocate(Request::new(100))?;
//! assert_eq!(offsets.block(first)?.range, 450..550);
//! assert_eq!(offsets.resize_block(first, 200)?, 450..650);
//! assert!(offsets.block(second).is_ok());
//! # Ok::<(), allocator_core::AllocError>(())
//! ```
//!
//! # When a request fails
//! [`OutOfMemory`](crate::AllocError::OutOfMemory) carries the numbers that tell *full* from *fragmented*.
//! [`explain`](crate::OffsetAllocator::explain) says in words what would help; it plans, so it is for messages, not for hot paths.
//!
//! ```
//! use allocator_core::{AllocError, OffsetAllocator, Request, Verdict};
//!
//! let mut offsets = OffsetAllocator::new(300)?;
//! let blocks: Vec<_> = (0..3).map(|_| offsets.allocate(Request::new(100))).collect::<Result<_, _>>()?;
//! offsets.free(blocks[0])?;
//! offsets.free(blocks[2])?;
//! offsets.lease(blocks[1])?;
//!
//! let request = Request::new(200);
//! let refused = offsets.allocate(request);
//! assert!(matches!(refused, Err(AllocError::OutOfMemory { free: 200, largest_hole: 100, .. })));
//! match offsets.explain(request).verdict {
//!     Verdict::Leased => {} // wait for a lease to end, then plan
//!     Verdict::Fragmented { .. } => unreachable!("plan_room would make room"),
//!     Verdict::Full { .. } => unreachable!("something must be freed"),
//!     other => unreachable!("{other:?}"),
//! }
//! println!("{}", offsets.explain(request));
//! # Ok::<(), AllocError>(())
//! ```
//!
//! # Growing and shrinking
//! [`resize_block`](crate::OffsetAllocator::resize_block) lets a block grow into the hole behind it, under the same handle; when
//! something is in the way it says how long the block could be, and you allocate a longer one and copy. A leased block may grow,
//! not shrink. [`resize`](crate::OffsetAllocator::resize) does the same for the whole range, and
//! [`least_size`](crate::OffsetAllocator::least_size) is how short it can get: compact first.
//!
//! ```
//! use allocator_core::{AllocError, OffsetAllocator, Request};
//!
//! let mut memory = vec![0_u8; 100];
//! let mut offsets = OffsetAllocator::new(100)?;
//! let list = offsets.allocate(Request::new(40))?;
//! let other = offsets.allocate(Request::new(40))?;
//! let longer = match offsets.resize_block(list, 60) {
//!     Ok(_) => list,
//!     Err(AllocError::CannotGrow { .. }) => {
//!         // Memory first, then the books; the other way round when shrinking.
//!         memory.resize(200, 0);
//!         offsets.resize(200)?;
//!         let longer = offsets.allocate(Request::new(60))?;
//!         let (from, to) = (offsets.block(list)?.used(), offsets.block(longer)?.range.start);
//!         memory.copy_within(from.start as usize..from.end as usize, to as usize);
//!         offsets.free(list)?;
//!         longer
//!     }
//!     Err(error) => return Err(error),
//! };
//!
//! for step in offsets.plan_slide().moves() {
//!     memory.copy_within(step.src.start as usize..step.src.end as usize, step.dst as usize);
//!     offsets.commit_move(step)?;
//! }
//! offsets.resize(offsets.least_size())?;
//! memory.truncate(offsets.size() as usize);
//! assert_eq!((memory.len(), offsets.block(other)?.range, offsets.block(longer)?.range), (100, 0..40, 40..100));
//! # Ok::<(), AllocError>(())
//! ```
//!
//! # Threads
//! Nothing here locks: every change takes `&mut self`. Put it under your lock. Calls are short (allocate and free take tens of
//! nanoseconds), but plans are not, so plan when nobody waits; and hold the lock over `commit_move` and the enqueueing of its copy
//! together, so that nobody is given the bytes in between. Waiting for room is a condition variable beside the lock.
//!
//! ```
//! use allocator_core::{OffsetAllocator, Request};
//! use std::sync::{Condvar, Mutex};
//!
//! let (offsets, freed) = (Mutex::new(OffsetAllocator::new(256)?), Condvar::new());
//! std::thread::scope(|scope| {
//!     for _ in 0..4 {
//!         scope.spawn(|| {
//!             for _ in 0..100 {
//!                 let mut offsets_now = offsets.lock().unwrap();
//!                 let block = loop {
//!                     match offsets_now.allocate(Request::new(100)) {
//!                         Ok(block) => break block,
//!                         Err(_) => offsets_now = freed.wait(offsets_now).unwrap(),
//!                     }
//!                 };
//!                 drop(offsets_now);
//!                 // … use the block, without the lock …
//!                 offsets.lock().unwrap().free(block).unwrap();
//!                 freed.notify_one();
//!             }
//!         });
//!     }
//! });
//! assert_eq!(offsets.into_inner().unwrap().stats().free, 256);
//! # Ok::<(), allocator_core::AllocError>(())
//! ```
//!
//! # Without std
//! The crate is `no_std` and needs `alloc`: the table of blocks and holes is a vector that grows to the most there ever are at
//! once. It needs atomic operations on 32 bits, which number the allocators. There is nothing to configure.
//!
//! ```
//! #![no_std]
//! extern crate alloc;
//! # extern crate std;
//! use allocator_core::{AllocError, Handle, OffsetAllocator, Request};
//!
//! /// The frame buffers of a display, in memory that nothing else uses.
//! pub struct Frames(OffsetAllocator);
//!
//! impl Frames {
//!     pub fn new(bytes: u32) -> Result<Self, AllocError> {
//!         Ok(Self(OffsetAllocator::with_grain(bytes.into(), 32)?))
//!     }
//!
//!     pub fn take(&mut self, bytes: u32) -> Result<(Handle, u64), AllocError> {
//!         let handle = self.0.allocate(Request::new(bytes.into()))?;
//!         Ok((handle, self.0.block(handle)?.range.start))
//!     }
//! }
//! # fn main() { assert!(Frames::new(1 << 16).is_ok_and(|mut frames| frames.take(100).is_ok())) }
//! ```
