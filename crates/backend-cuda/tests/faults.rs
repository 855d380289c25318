//! Faults of the driver: each at every call of a run, and what a refused or broken call may and may not change.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::{DeviceBuffer, Remap};
use backend_cuda::{CudaBuffer, CudaDevice, CudaError, CudaEvent, CudaOptions, CudaRegion};
use common::{Fault, Sim};
use pinned_host::{
    Access, DeviceError, ErrorKind, Event, Hazards, HostPool, Lane, PageLocker, PinnedSlice, Queue,
    QueuedBuffer, Ticket, Transfer,
};
use std::ops::Range;

/// Strikes every call of the run with every fault. Each run ends well, or with an error of the right class; what it served
/// before was right; nothing is left behind; and the program goes on: after a refusal with the same device, after a loss
/// with a fresh one.
#[test]
fn every_fault_at_every_call() {
    let sim = Sim::new(1);
    assert!(run(&sim).is_ok(), "{}", sim.report());
    sim.check();
    let calls = sim.calls();
    assert!(calls >= 300, "a run of {calls} calls");
    for fault in Fault::ALL {
        let (mut failed, mut lost) = (0, 0);
        for k in 1..=calls {
            sim.reset(k);
            sim.inject(fault, k);
            let outcome = run(&sim);
            let struck = sim.faults_struck();
            match (&outcome, fault) {
                (Ok(()), _) => {}
                (Err(error), Fault::OutOfMemory) => {
                    let kind = error.kind();
                    assert!(
                        matches!(kind, ErrorKind::OutOfMemory | ErrorKind::Failed),
                        "{fault:?} at {k}: {error}"
                    );
                    failed += 1;
                }
                (Err(error), _) => {
                    assert!(is_end(error), "{fault:?} at {k}: {error}");
                    lost += 1;
                }
            }
            assert!(struck == 1 || outcome.is_ok(), "{fault:?} at {k} did not strike, and the run failed");
            assert!(
                sim.undefined_uses() == 0 && sim.leaks() == 0,
                "{fault:?} at {k}, which ended {outcome:?}:\n{}",
                sim.report()
            );
            sim.clear_faults();
            if fault == Fault::OutOfMemory {
                assert!(run(&sim).is_ok(), "{fault:?} at {k}: the program does not go on");
            } else if struck == 1 {
                // The driver answers everything with the error, and so does this crate.
                let error = run(&sim).unwrap_err();
                assert!(is_end(&error), "{fault:?} at {k}, afterwards: {error}");
            }
            sim.check();
        }
        match fault {
            Fault::OutOfMemory => assert!(failed > 0),
            _ => assert!(lost * 2 > calls, "{fault:?} ended {lost} of {calls} runs"),
        }
    }
}

/// The context is lost, or none can be had.
fn is_end(error: &CudaError) -> bool {
    error.kind() == ErrorKind::DeviceLost || matches!(error, CudaError::NoDriver { .. })
}

/// A device, page-locked memory, uploads, moves both ways, remaps, growth, downloads: all that this crate does, ordered by
/// hazards, with a copy on the host beside it. Wrong bytes end the test, and not the run.
fn run(_sim: &Sim) -> Result<(), CudaError> {
    let options = CudaOptions::new().virtual_memory(true).granule(GRANULE).reserve(8 * GRANULE);
    let device = options.scratch(4096).step_cost(512).open()?;
    let mut story = Story::new(&device)?;
    for round in 0..ROUNDS {
        let at = round % 4 * LEN;
        story.upload(round, at)?;
        // By less than its length, so in pieces; by way of the scratch in every other round.
        let by = if round % 2 == 0 { LEN / 4 } else { 64 };
        story.moves(at..at + LEN, at + by)?;
        story.download(at + by..at + by + LEN)?;
        if round % 5 == 4 {
            story.remap(0..GRANULE, GRANULE * (1 + round % 3))?;
            story.download(0..LEN)?;
        }
    }
    story.buffer.resize(6 * GRANULE)?;
    story.buffer.resize(4 * GRANULE)?;
    story.copy_independent()?;
    story.copies_within()?;
    story.end()?;
    drop(device);
    Ok(())
}

const GRANULE: u64 = 2 << 20;
const LEN: u64 = 8 << 10;
const ROUNDS: u64 = 12;
const KNOWN: usize = 64 << 10;

/// A buffer whose every use is ordered, and what it should hold.
struct Story<'a> {
    device: &'a CudaDevice,
    buffer: CudaBuffer,
    pool: HostPool<CudaRegion>,
    hazards: Hazards<CudaEvent>,
    /// What it should hold; the first `KNOWN` bytes of each granule are written.
    shadow: Vec<u8>,
    ups: Vec<Ticket<CudaDevice>>,
    downs: Vec<(Ticket<CudaDevice>, Vec<u8>)>,
}

impl<'a> Story<'a> {
    fn new(device: &'a CudaDevice) -> Result<Self, CudaError> {
        let region = device.locker().lock(1 << 20)?;
        let pool = HostPool::new(vec![region], 64).unwrap();
        let mut buffer = device.buffer(4 * GRANULE)?;
        let shadow = vec![7; 4 * GRANULE as usize];
        for granule in 0..4 {
            device.write_now(&mut buffer, granule * GRANULE, &shadow[..KNOWN])?;
        }
        let (ups, downs) = (Vec::new(), Vec::new());
        Ok(Story { device, buffer, pool, hazards: Hazards::new(), shadow, ups, downs })
    }

    fn order(
        &self,
        queue: &backend_cuda::CudaQueue,
        accesses: &[(Range<u64>, Access)],
    ) -> Result<(), CudaError> {
        let mut waits = Vec::new();
        self.hazards.before(accesses, &mut waits);
        waits.iter().try_for_each(|event| queue.wait(event))
    }

    fn slice(&mut self, byte: u8) -> Result<PinnedSlice<CudaRegion>, CudaError> {
        loop {
            match self.pool.allocate(LEN as usize) {
                Ok(mut slice) => {
                    slice.as_mut_slice().fill(byte);
                    return Ok(slice);
                }
                Err(_) => self.settle()?,
            }
        }
    }

    fn upload(&mut self, round: u64, at: u64) -> Result<(), CudaError> {
        let slice = self.slice(round as u8)?;
        let accesses = [(at..at + LEN, Access::Write)];
        self.order(self.device.lane(Lane::Upload), &accesses)?;
        let sent = self.device.upload(slice, &mut self.buffer, at).map_err(|refused| {
            assert!(refused.slice.is_some(), "{}", refused.error);
            refused.error
        })?;
        self.hazards.after(&accesses, sent.event());
        self.shadow[at as usize..][..LEN as usize].fill(round as u8);
        self.ups.push(sent);
        Ok(())
    }

    fn moves(&mut self, src: Range<u64>, dst: u64) -> Result<(), CudaError> {
        let accesses = [(src.clone(), Access::Read), (dst..dst + (src.end - src.start), Access::Write)];
        self.order(self.buffer.queue(), &accesses)?;
        self.buffer.copy_within(src.clone(), dst)?;
        let event = match self.buffer.queue().record() {
            Ok(event) => event,
            Err(error) => {
                // The way out: once it is waited for, nobody has to be ordered after it.
                self.buffer.queue().drain()?;
                self.shadow.copy_within(src.start as usize..src.end as usize, dst as usize);
                assert_ne!(error.kind(), ErrorKind::DeviceLost, "the queue could be drained: {error}");
                return Ok(());
            }
        };
        self.hazards.after(&accesses, &event);
        self.shadow.copy_within(src.start as usize..src.end as usize, dst as usize);
        Ok(())
    }

    fn remap(&mut self, src: Range<u64>, dst: u64) -> Result<(), CudaError> {
        let accesses = [(src.clone(), Access::Write), (dst..dst + (src.end - src.start), Access::Write)];
        self.order(self.buffer.queue(), &accesses)?;
        self.buffer.remap(src.clone(), dst)?;
        let (low, high) = self.shadow.split_at_mut(dst as usize);
        low[src.start as usize..src.end as usize].swap_with_slice(&mut high[..GRANULE as usize]);
        Ok(())
    }

    fn copy_independent(&mut self) -> Result<(), CudaError> {
        let (one, two) = (0..LEN, 2 * LEN..3 * LEN);
        let whole = [(0..2 * GRANULE, Access::Write)];
        self.order(self.buffer.queue(), &whole)?;
        let copies = [(one.clone(), GRANULE), (two.clone(), GRANULE + LEN)];
        self.buffer.copy_independent(&copies)?;
        for (src, dst) in copies {
            self.shadow.copy_within(src.start as usize..src.end as usize, dst as usize);
        }
        let event = self.buffer.queue().record()?;
        self.hazards.after(&whole, &event);
        self.download(GRANULE..GRANULE + LEN)
    }

    /// A slide, which goes through the scratch.
    fn copies_within(&mut self) -> Result<(), CudaError> {
        let whole = [(0..2 * GRANULE, Access::Write)];
        self.order(self.buffer.queue(), &whole)?;
        let copies: Vec<_> = (0..6).map(|n| (100 + n * 340..400 + n * 340, n * 300)).collect();
        let copied = self.buffer.copies_within(&copies);
        let made = copied.as_ref().map_or_else(|refused| refused.made, |()| copies.len());
        for (src, dst) in &copies[..made] {
            self.shadow.copy_within(src.start as usize..src.end as usize, *dst as usize);
        }
        copied.map_err(|refused| refused.error)?;
        let event = self.buffer.queue().record()?;
        self.hazards.after(&whole, &event);
        self.download(0..LEN)
    }

    fn download(&mut self, range: Range<u64>) -> Result<(), CudaError> {
        let slice = self.slice(0xee)?;
        let accesses = [(range.clone(), Access::Read)];
        self.order(self.device.lane(Lane::Download), &accesses)?;
        let sent = self.device.download(&self.buffer, range.start, slice).map_err(|refused| {
            // A lost device may write it yet.
            let lost = refused.error.kind() == ErrorKind::DeviceLost;
            assert!(refused.slice.is_some() || lost, "{}", refused.error);
            refused.error
        })?;
        self.hazards.after(&accesses, sent.event());
        self.downs.push((sent, self.shadow[range.start as usize..range.end as usize].to_vec()));
        Ok(())
    }

    /// Waits for what is in flight; what comes down is right, or the transfer says that it failed.
    fn settle(&mut self) -> Result<(), CudaError> {
        let mut outcome = Ok(());
        for (down, expected) in self.downs.drain(..) {
            match down.wait() {
                Ok(slice) => assert!(slice.as_slice() == expected, "a wrong byte was served"),
                Err(failed) => outcome = Err(failed.error),
            }
        }
        for up in self.ups.drain(..) {
            if let Err(failed) = up.wait() {
                outcome = Err(failed.error);
            }
        }
        outcome
    }

    fn end(mut self) -> Result<(), CudaError> {
        self.settle()?;
        self.buffer.queue().drain()?;
        for granule in 0..4 {
            let at = granule * GRANULE as usize;
            let mut found = vec![0; KNOWN];
            self.device.read_now(&self.buffer, at as u64, &mut found)?;
            assert!(found == self.shadow[at..at + KNOWN], "granule {granule} at the end");
        }
        Ok(())
    }
}

/// A device over the simulator with one buffer of known bytes.
fn bench(options: CudaOptions, bytes: u64) -> (CudaDevice, CudaBuffer) {
    let device = options.open().unwrap();
    let mut buffer = device.buffer(bytes).unwrap();
    let counted: Vec<u8> = (0..bytes).map(|at| (at / 64) as u8).collect();
    device.write_now(&mut buffer, 0, &counted).unwrap();
    (device, buffer)
}

fn contents(device: &CudaDevice, buffer: &CudaBuffer) -> Vec<u8> {
    let mut bytes = vec![0; buffer.size() as usize];
    device.read_now(buffer, 0, &mut bytes).unwrap();
    bytes
}

const COPY: &str = "cuMemcpyDtoDAsync_v2";

#[test]
fn a_move_refused_at_once_changes_nothing() {
    let sim = Sim::new(2);
    let (device, mut buffer) = bench(CudaOptions::new().scratch(0), 4096);
    let before = contents(&device, &buffer);
    sim.inject_at(Fault::OutOfMemory, COPY, 1);
    let error = buffer.copy_within(0..1024, 256).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert_eq!(sim.pending(), 0);
    buffer.queue().drain().unwrap();
    assert_eq!(contents(&device, &buffer), before);
}

#[test]
fn a_piece_refused_once_is_made_again() {
    let sim = Sim::new(3);
    for k in 2..=4 {
        let (device, mut buffer) = bench(CudaOptions::new().scratch(0), 4096);
        let mut expected = contents(&device, &buffer);
        sim.inject_at(Fault::OutOfMemory, COPY, k);
        buffer.copy_within(0..1024, 256).unwrap();
        expected.copy_within(0..1024, 256);
        buffer.queue().record().unwrap().synchronize().unwrap();
        assert_eq!(contents(&device, &buffer), expected, "piece {k}");
    }
    assert_eq!(sim.faults_struck(), 3);
}

#[test]
fn a_move_cut_half_way_is_reported_by_the_next_event() {
    let sim = Sim::new(4);
    for drains in [false, true] {
        let (device, mut buffer) = bench(CudaOptions::new().scratch(0), 4096);
        // The third of four pieces, and once more when it is tried again.
        sim.inject_at(Fault::OutOfMemory, COPY, 3);
        sim.inject_at(Fault::OutOfMemory, COPY, 4);
        buffer.copy_within(0..1024, 256).unwrap();
        if drains {
            cut(buffer.queue().drain().unwrap_err());
        } else {
            let event = buffer.queue().record().unwrap();
            for _ in 0..2 {
                cut(event.synchronize().unwrap_err());
                cut(event.query().unwrap_err());
            }
            assert!(event.is_settled(), "the pieces that were enqueued have ended");
        }
        // Reported once: what comes later is not blamed.
        buffer.copy_within(0..256, 2048).unwrap();
        buffer.queue().record().unwrap().synchronize().unwrap();
        buffer.queue().drain().unwrap();
        drop(device);
    }
}

fn cut(error: CudaError) {
    assert!(matches!(error, CudaError::Cut { done: 512, asked: 1024, .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Failed);
}

#[test]
fn a_transfer_without_an_event_is_refused_before_it_is_enqueued() {
    let sim = Sim::new(5);
    let (device, mut buffer) = bench(CudaOptions::new(), 4096);
    let pool = HostPool::new(vec![device.locker().lock(4096).unwrap()], 64).unwrap();
    sim.inject_at(Fault::OutOfMemory, "cuEventCreate", 1);
    let copies = sim.calls_of("cuMemcpyHtoDAsync_v2");
    let refused = device.upload(pool.allocate(4096).unwrap(), &mut buffer, 0).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::OutOfMemory, "{refused}");
    assert_eq!(sim.calls_of("cuMemcpyHtoDAsync_v2"), copies);
    device.upload(refused.slice.unwrap(), &mut buffer, 0).unwrap().wait().unwrap();
}

#[test]
fn a_remap_refused_anywhere_changes_nothing() {
    let sim = Sim::new(6);
    let options = CudaOptions::new().virtual_memory(true).granule(GRANULE);
    let mut refused = 0;
    for function in ["cuMemMap", "cuMemSetAccess"] {
        for k in 1..=4 {
            let device = options.open().unwrap();
            let mut buffer = device.buffer(4 * GRANULE).unwrap();
            for granule in 0..4 {
                device.write_now(&mut buffer, granule * GRANULE, &[granule as u8; 64]).unwrap();
            }
            sim.inject_at(Fault::OutOfMemory, function, k);
            let remapped = buffer.remap(0..2 * GRANULE, 2 * GRANULE);
            sim.clear_faults();
            let mut found = [0; 4];
            for granule in 0..4u64 {
                let at = &mut found[granule as usize..=granule as usize];
                device.read_now(&buffer, granule * GRANULE, at).unwrap();
            }
            match remapped {
                Ok(()) => assert_eq!(found, [2, 3, 0, 1]),
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
                    assert_eq!(found, [0, 1, 2, 3], "{function} {k}");
                }
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn pages_that_cannot_be_put_back_lose_their_buffer_and_no_other() {
    let sim = Sim::new(7);
    let (device, mut other) = bench(CudaOptions::new().virtual_memory(true), GRANULE);
    let before = contents(&device, &other);
    let mut buffer = device.buffer(2 * GRANULE).unwrap();
    for k in 1..=8 {
        sim.inject_at(Fault::OutOfMemory, "cuMemMap", k);
    }
    let error = buffer.remap(0..GRANULE, GRANULE).unwrap_err();
    assert!(matches!(error, CudaError::Broken), "{error}");
    sim.clear_faults();
    assert!(matches!(buffer.copy_within(0..8, 8), Err(CudaError::Broken)));
    assert!(matches!(buffer.view(0..8), Err(CudaError::Broken)));
    assert!(matches!(device.write_now(&mut buffer, 0, &[1]), Err(CudaError::Broken)));
    drop(buffer);
    other.copy_within(0..64, 64).unwrap();
    other.queue().drain().unwrap();
    assert_eq!(contents(&device, &other)[128..], before[128..]);
}

#[test]
fn no_memory_says_how_much_there_was() {
    let sim = Sim::new(8);
    sim.set_memory(64 << 20);
    let device = CudaOptions::new().scratch(0).open().unwrap();
    let full = device.buffer(65 << 20).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::OutOfMemory);
    assert!(matches!(full, CudaError::Memory { bytes, free: Some(_), .. } if bytes == 65 << 20), "{full}");
    assert_eq!(device.memory().current, 0);
    let half = device.buffer(32 << 20).unwrap();
    assert_eq!(device.memory().current, 32 << 20);
    drop((half, device));
    sim.set_memory(8 << 30);
}
