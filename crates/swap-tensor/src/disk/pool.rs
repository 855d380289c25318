//! I/O by threads that block in `pread` and `pwrite`.

use super::{fault::Faults, io::flight::Piece, lane::Lane};

/// What one thread does, until its lane is closed.
pub(super) fn run(lane: &Lane, faults: &Faults) {
    while let Some(piece) = lane.next() {
        transfer(piece, faults);
    }
}

/// Works at a piece until it has ended, well or not. Its checksum is taken here too, while other threads are in the kernel.
fn transfer(mut piece: Piece, faults: &Faults) {
    loop {
        let mark = faults.strike(piece.direction());
        faults.hold(mark);
        let operation = piece.operation();
        let drive = piece.request().drive();
        if operation.is_buffered() && drive.is_direct() {
            drive.counters().buffered();
        }
        let (asked, result) = (operation.len(), operation.run(mark));
        if !piece.settle(asked, result) {
            break;
        }
    }
    piece.checksum();
}
