//! I/O by one thread with a ring of io_uring's.

use super::{
    engine::Crew,
    io::flight::Piece,
    io::ring::{Completion, Ring},
    lane::{Lane, Next},
};
use std::collections::VecDeque;

/// What the thread does, until its lane is closed and nothing is in flight.
///
/// The ring is filled before anything else is done; only then is one checksum taken, of a piece that has been read or is being
/// written, while the rest is in flight; and only when there is none to take does the thread sleep.
pub(super) fn run(lane: &Lane, mut ring: Ring, crew: &Crew) {
    let mut registered = 0;
    // Transferred, and without checksum.
    let mut landed = VecDeque::new();
    loop {
        registered += register(lane, &mut ring, crew, registered);
        let closed = fill(lane, &mut ring);
        if closed && ring.is_idle() && landed.is_empty() {
            return;
        }
        let busy = !landed.is_empty() || ring.has_unsummed();
        if let Err(why) = ring.enter(!busy, lane.bell()) {
            note(lane, crew, format!("the ring failed ({why})"));
            return lane.close();
        }
        while let Some(completion) = ring.completion() {
            settle(completion, &mut ring, &mut landed);
        }
        match landed.pop_front() {
            Some(piece) => Piece::checksum(&piece),
            None => ring.checksum_one(),
        }
    }
}

/// Registers the regions that are new since `known`; returns how many there are.
fn register(lane: &Lane, ring: &mut Ring, crew: &Crew, known: usize) -> usize {
    let new = crew.regions.since(known);
    for region in &new {
        if let Err(why) = ring.register(region) {
            let all = lane.direction.name();
            let bytes = region.len();
            note(lane, crew, format!("registering {bytes} bytes to {all} with was refused ({why})"));
        }
    }
    new.len()
}

/// Sends pieces until the ring is full or there are none; whether there will be none any more.
fn fill(lane: &Lane, ring: &mut Ring) -> bool {
    while !ring.is_full() {
        match lane.try_next() {
            // It is not full.
            Next::Piece(piece) => drop(ring.send(piece)),
            Next::Nothing => return false,
            Next::Closed => return true,
        }
    }
    false
}

/// Sends what is left of a piece, or lets it end.
fn settle(completion: Completion, ring: &mut Ring, landed: &mut VecDeque<Piece>) {
    let Completion { mut piece, asked, result } = completion;
    if piece.settle(asked, result) {
        // Its own place has just become vacant.
        drop(ring.send(piece));
    } else if piece.is_whole() && !piece.has_sums() {
        landed.push_back(piece);
    }
}

fn note(lane: &Lane, crew: &Crew, refusal: String) {
    if let Some(drive) = crew.drives.get(lane.drive) {
        drive.note(refusal);
    }
}
