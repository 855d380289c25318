//! A streamer of meshes without a device: one big buffer, offsets in elements, compaction in small doses.
//!
//! An engine keeps the vertices and indices of all meshes in one buffer, so that a whole scene is drawn with few binds. Meshes
//! come and go as the camera moves, and the buffer fragments. Here it never has to be rebuilt:
//!
//! * **Units are the caller's.** The allocator counts *words* of four bytes: an index is one, a vertex eight. A vertex range is
//!   aligned to eight, so `offset / 8` is the base vertex of a draw, and the first index is the offset itself.
//! * **Draws in flight lease what they use.** Two frames are in flight; a mesh that was drawn in either neither moves nor
//!   leaves. The lease ends when the frame retires.
//! * **`plan_compact(budget)` once a frame** moves at most so many words, and only while no hole is long enough for the meshes
//!   to come; what is leased is a wall. What it saves are moves *in a hurry*, when a mesh is wanted now.
//! * **Stale handles are errors.** A scene node that kept the handle of an evicted mesh is told so, and draws nothing; it can
//!   never draw another mesh's triangles.
//!
//! The program flies a camera back and forth over a row of meshes, twice: with compaction and without. It checks, when a frame
//! retires, that the words its draws named are still their mesh's, and that compaction did help. It exits with an error if not.
//!
//! # To carry it over
//! `words` becomes the device's buffer, `copy_within` a copy on the queue that draws (`vkCmdCopyBuffer` cannot overlap: see
//! `disjoint_steps` for the pieces), and "the frame retires" a fence. The same shape serves an atlas of textures with a tile as
//! the unit. What is drawn every frame is leased all the time and so never moves: that is why old meshes, which are kept in the
//! hope of their return, make way. To move one that is always drawn, allocate a second block, copy, draw from there from the
//! next frame on, and free the first when the last frame that used it retires.
//!
//! Run it with `cargo run`.

use std::collections::{HashMap, VecDeque};
use std::error::Error;

use allocator_core::{AllocError, Handle, Lifetime, OffsetAllocator, Plan, Request};

const WORDS: u64 = 64 << 10;
/// Words that are to be free when a frame begins.
const RESERVE: u64 = WORDS / 5;
const VERTEX: u64 = 8;
/// Meshes in the row, and how many the camera sees.
const MESHES: u64 = 160;
const SEEN: u64 = 20;
const FRAMES: u64 = 400;
/// A hole this long serves the next meshes.
const ENOUGH: u64 = 5000;
/// Words that may be moved in a frame.
const BUDGET: u64 = 3000;
const IN_FLIGHT: usize = 2;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// A mesh that is in the buffer.
#[derive(Clone, Copy)]
struct Resident {
    vertices: Handle,
    indices: Handle,
    last_seen: u64,
}

/// What a draw call holds: numbers, no handles, as the GPU would.
struct Draw {
    mesh: u64,
    base_vertex: u64,
    first_index: u64,
}

/// A frame the GPU may still be working on.
struct Frame {
    draws: Vec<Draw>,
    leased: Vec<Handle>,
}

#[derive(Default)]
struct Report {
    moved: u64,
    most_moved: u64,
    evicted: u64,
    for_room: u64,
    holes: u64,
    stale: u64,
}

struct Streamer {
    words: Vec<u32>,
    offsets: OffsetAllocator,
    resident: HashMap<u64, Resident>,
    in_flight: VecDeque<Frame>,
    plan: Plan,
    report: Report,
}

impl Streamer {
    fn new() -> Fallible<Self> {
        Ok(Self {
            words: vec![0; WORDS as usize],
            offsets: OffsetAllocator::new(WORDS)?,
            resident: HashMap::new(),
            in_flight: VecDeque::new(),
            plan: Plan::default(),
            report: Report::default(),
        })
    }

    fn frame(&mut self, frame: u64, camera: u64, budget: u64) -> Fallible<u64> {
        if self.in_flight.len() == IN_FLIGHT {
            self.retire()?;
        }
        // All that is seen is seen now: none of it may be evicted for the rest of it.
        for mesh in camera..camera + SEEN {
            if let Some(known) = self.resident.get_mut(&mesh) {
                known.last_seen = frame;
            }
        }
        for mesh in camera..camera + SEEN {
            if !self.resident.contains_key(&mesh) {
                self.load(mesh, frame)?;
            }
        }
        // Evicting ahead leaves compaction something to join.
        while self.offsets.stats().free < RESERVE && self.evict(frame)? {}
        let moved = self.compact(budget)?;
        self.draw(camera)?;
        Ok(moved)
    }

    /// The GPU is done with the oldest frame: what it read must have stood still. Its leases end.
    fn retire(&mut self) -> Fallible<()> {
        let Some(frame) = self.in_flight.pop_front() else { return Ok(()) };
        for Draw { mesh, base_vertex, first_index } in frame.draws {
            let (vertices, indices) = size(mesh);
            self.check(mesh, base_vertex * VERTEX, vertices * VERTEX)?;
            self.check(mesh, first_index, indices)?;
        }
        for handle in frame.leased {
            self.offsets.unlease(handle)?;
        }
        Ok(())
    }

    fn load(&mut self, mesh: u64, frame: u64) -> Fallible<()> {
        let (vertices, indices) = size(mesh);
        let vertices = self.room(Request::new(vertices * VERTEX).align(VERTEX), frame)?;
        // The mesh is not drawn yet and not known: nobody could evict the first half of it.
        let indices = self.room(Request::new(indices).lifetime(Lifetime::Short), frame)?;
        for handle in [vertices, indices] {
            let range = self.offsets.block(handle)?.used();
            self.words[range.start as usize..range.end as usize].fill(tag(mesh));
        }
        self.resident.insert(mesh, Resident { vertices, indices, last_seen: frame });
        Ok(())
    }

    /// Room for a range. Where much is free it is only fragmented, and blocks move; else what was not seen for longest goes.
    fn room(&mut self, request: Request, frame: u64) -> Fallible<Handle> {
        loop {
            let free = match self.offsets.allocate(request) {
                Ok(handle) => return Ok(handle),
                Err(AllocError::OutOfMemory { free, .. }) => free,
                Err(other) => return Err(other.into()),
            };
            let evicted = free < RESERVE / 2 && self.evict(frame)?;
            if !(evicted || self.move_aside(request)? || self.evict(frame)?) {
                // The message says how much is leased and what moving would reach.
                return Err(self.offsets.explain(request).to_string().into());
            }
        }
    }

    /// Makes the cheapest moves that make room, if there are any.
    fn move_aside(&mut self, request: Request) -> Fallible<bool> {
        if self.offsets.plan_room_into(request, &mut self.plan).is_err() {
            return Ok(false);
        }
        self.report.for_room += self.plan.bytes();
        self.make_moves()?;
        Ok(true)
    }

    fn evict(&mut self, frame: u64) -> Fallible<bool> {
        // What a frame in flight uses is leased, and could not be freed.
        let idle = self.resident.iter().filter(|(_, mesh)| mesh.last_seen + IN_FLIGHT as u64 + 1 < frame);
        let Some((mesh, oldest)) = idle.min_by_key(|(mesh, known)| (known.last_seen, **mesh)) else {
            return Ok(false);
        };
        let (mesh, oldest) = (*mesh, *oldest);
        self.offsets.free(oldest.vertices)?;
        self.offsets.free(oldest.indices)?;
        self.resident.remove(&mesh);
        self.report.evicted += 1;
        // A scene node that did not hear of it asks with the handle it has.
        match self.offsets.lease(oldest.vertices) {
            Err(AllocError::StaleHandle { .. }) => self.report.stale += 1,
            other => return Err(format!("a stale handle was taken: {other:?}").into()),
        }
        Ok(true)
    }

    fn compact(&mut self, budget: u64) -> Fallible<u64> {
        // Moving for its own sake helps nobody: while the next meshes fit, all stay where they are.
        if self.offsets.stats().largest_hole >= ENOUGH {
            return Ok(0);
        }
        self.offsets.plan_compact_into(budget, &mut self.plan);
        self.make_moves()?;
        let moved = self.plan.bytes();
        self.report.moved += moved;
        self.report.most_moved = self.report.most_moved.max(moved);
        Ok(moved)
    }

    fn make_moves(&mut self) -> Result<(), AllocError> {
        for step in self.plan.moves() {
            self.words.copy_within(step.src.start as usize..step.src.end as usize, step.dst as usize);
            self.offsets.commit_move(step)?;
        }
        Ok(())
    }

    fn draw(&mut self, camera: u64) -> Fallible<()> {
        let mut new = Frame { draws: Vec::new(), leased: Vec::new() };
        for mesh in camera..camera + SEEN {
            let known = self.resident.get(&mesh).ok_or("a mesh was not loaded")?;
            for handle in [known.vertices, known.indices] {
                self.offsets.lease(handle)?;
                new.leased.push(handle);
            }
            let base_vertex = self.offsets.block(known.vertices)?.range.start / VERTEX;
            let first_index = self.offsets.block(known.indices)?.range.start;
            new.draws.push(Draw { mesh, base_vertex, first_index });
        }
        self.in_flight.push_back(new);
        Ok(())
    }

    fn check(&self, mesh: u64, start: u64, len: u64) -> Fallible<()> {
        let words = &self.words[start as usize..(start + len) as usize];
        let whole = words.iter().all(|word| *word == tag(mesh));
        if whole { Ok(()) } else { Err(format!("mesh {mesh} was moved or overwritten while drawn").into()) }
    }
}

/// Vertices and indices of a mesh.
fn size(mesh: u64) -> (u64, u64) {
    let random = mesh.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let vertices = 8 + random % 120 + if random.is_multiple_of(7) { 150 } else { 0 };
    (vertices, vertices * 2 + random % 50 * 3)
}

fn tag(mesh: u64) -> u32 {
    (mesh as u32 + 1).wrapping_mul(0x9E37_79B9)
}

/// Back and forth, faster and faster.
fn camera(frame: u64) -> u64 {
    let way = MESHES - SEEN;
    let at = (frame + frame * frame / 400) % (2 * way);
    at.min(2 * way - at)
}

fn fly(budget: u64) -> Fallible<Report> {
    let mut streamer = Streamer::new()?;
    println!("\nbudget {budget} words a frame\n frame  resident  in use   moved  largest hole");
    for frame in 0..FRAMES {
        let moved = streamer.frame(frame, camera(frame), budget)?;
        let stats = streamer.offsets.stats();
        streamer.report.holes += stats.largest_hole;
        if frame % 40 == 39 {
            let used = 100 * stats.live / WORDS;
            let resident = streamer.resident.len();
            println!("{frame:6} {resident:9} {used:6} % {moved:7} {:13}", stats.largest_hole);
        }
    }
    while !streamer.in_flight.is_empty() {
        streamer.retire()?;
    }
    Ok(streamer.report)
}

fn main() -> Fallible<()> {
    let (with, without) = (fly(BUDGET)?, fly(0)?);
    println!("\n                          compaction   none");
    for (what, with, without) in [
        ("largest hole, mean", with.holes / FRAMES, without.holes / FRAMES),
        ("words moved, most a frame", with.most_moved, without.most_moved),
        ("words moved in all", with.moved, without.moved),
        ("words moved in a hurry", with.for_room, without.for_room),
        ("meshes evicted", with.evicted, without.evicted),
        ("stale handles refused", with.stale, without.stale),
    ] {
        println!("{what:26}{with:10} {without:6}");
    }
    let kept =
        with.most_moved <= BUDGET && without.moved == 0 && with.stale == with.evicted && with.stale > 0;
    let helped = with.holes > without.holes && with.for_room < without.for_room;
    if kept && helped {
        Ok(())
    } else {
        Err("the budget was not kept, a handle was not refused, or compaction did not help".into())
    }
}
