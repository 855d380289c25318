//! Copies between host and device, one way and both ways at once, against the driver's asynchronous copies.

use crate::race::{Outcome, Step, race};
use crate::raw::{Copy, Ends, Pinned, SPOILT, Stream};
use crate::table::{Bar, Row, rate, size};
use crate::{Bench, KIB, MIB, check, fill, pattern};
use backend_cuda::{CudaBuffer, CudaDevice, CudaRegion};
use pinned_host::{HostPool, PageLocker, SliceOf, Ticket, Transfer};
use std::collections::VecDeque;

pub(crate) fn run(bench: &Bench, device: &CudaDevice) -> Outcome<()> {
    let set = bench.working_set();
    let mut sides = Sides {
        device,
        buffer: device.buffer(set)?,
        pool: HostPool::new(vec![device.locker().lock(set as usize)?], 256)?,
        host: Pinned::new(set)?,
        stream: Stream::new(device, DEPTH)?,
        second: Stream::new(device, DEPTH)?,
    };
    bench.table.section("Between host and device");
    for up in [true, false] {
        for block in [64 * KIB, 2 * MIB, 16 * MIB, 64 * MIB] {
            let bar = if block >= 2 * MIB { Bar::Ratio(0.95) } else { Bar::None };
            sides.one_way(bench, up, bench.bytes(block), bar)?;
        }
    }
    for block in [2 * MIB, 16 * MIB] {
        sides.both_ways(bench, bench.bytes(block))?;
    }
    Ok(())
}

/// What the library uses, and what the driver's own functions use.
struct Sides<'a> {
    device: &'a CudaDevice,
    buffer: CudaBuffer,
    pool: HostPool<CudaRegion>,
    host: Pinned,
    stream: Stream,
    second: Stream,
}

type Slices = VecDeque<SliceOf<CudaDevice>>;

impl Sides<'_> {
    fn one_way(&mut self, bench: &Bench, up: bool, block: u64, bar: Bar) -> Outcome<()> {
        let count = (self.host.as_mut_slice().len() as u64 / block).min(bench.count(8192));
        let bytes = count * block;
        let seed = block + u64::from(up);
        let what = |depth| format!("{} {} {depth}", if up { "up" } else { "down" }, size(block));
        let mut slices = self.slices(count, block)?;
        if up {
            each(&mut slices, block, |at, bytes| pattern::fill(seed, at, bytes));
            pattern::fill(seed, 0, &mut self.host.as_mut_slice()[..bytes as usize]);
        } else {
            fill(self.device, &mut self.buffer, seed, bytes)?;
        }
        let [deep, raw_deep, alone, raw_alone] = race(bench.rounds(), |peer, step| {
            let (ours, depth) = (peer % 2 == 0, if peer < 2 { DEPTH } else { 1 });
            match step {
                Step::Prepare { checked: false } => Ok(()),
                Step::Prepare { .. } if up => self.stream.spoil(&self.buffer, bytes),
                Step::Prepare { .. } => {
                    each(&mut slices, block, |_, bytes| bytes.fill(SPOILT));
                    self.host.as_mut_slice().fill(SPOILT);
                    Ok(())
                }
                Step::Pass if ours => {
                    let (device, buffer) = (self.device, &mut self.buffer);
                    walk(&mut [(&mut slices, 0, up)], count, block, depth, device, buffer)
                }
                Step::Pass => self.raw(&[(&self.stream, 0, up)], count, block, depth),
                Step::Verify if up => {
                    check(self.device, (&self.buffer, 0, bytes), (seed, 0), &what("on the device"))
                }
                Step::Verify if ours => verify(&slices, block, seed, 0, &what("on the host")),
                Step::Verify => {
                    let found = &self.host.as_mut_slice()[..bytes as usize];
                    pattern::check(seed, 0, found, &what("on the host, by the driver"))
                }
            }
        })?;
        let peer_is = if up { "cuMemcpyHtoDAsync" } else { "cuMemcpyDtoHAsync" };
        for (depth, ours, peer) in [("deep", deep, raw_deep), ("alone", alone, raw_alone)] {
            bench.table.row(&Row {
                what: what(depth),
                ours: rate(bytes, ours),
                peer: rate(bytes, peer),
                peer_is,
                ratio: peer / ours,
                bar,
            });
        }
        Ok(())
    }

    /// Uploads to the first half of everything, downloads from the second.
    fn both_ways(&mut self, bench: &Bench, block: u64) -> Outcome<()> {
        let half = bench.working_set() / 2;
        let count = half / block;
        let what = format!("both ways {} deep", size(block));
        let (mut ups, mut downs) = (self.slices(count, block)?, self.slices(count, block)?);
        each(&mut ups, block, |at, bytes| pattern::fill(block, at, bytes));
        pattern::fill(block, 0, &mut self.host.as_mut_slice()[..half as usize]);
        fill(self.device, &mut self.buffer, block + 1, 2 * half)?;
        let [ours, raw] = race(bench.rounds(), |peer, step| match step {
            Step::Prepare { checked: false } => Ok(()),
            Step::Prepare { .. } => {
                each(&mut downs, block, |_, bytes| bytes.fill(SPOILT));
                self.host.as_mut_slice()[half as usize..].fill(SPOILT);
                self.stream.spoil(&self.buffer, half)
            }
            Step::Pass if peer == 0 => {
                let mut both = [(&mut ups, 0, true), (&mut downs, half, false)];
                walk(&mut both, count, block, DEPTH, self.device, &mut self.buffer)
            }
            Step::Pass => {
                let both = [(&self.stream, 0, true), (&self.second, half, false)];
                self.raw(&both, count, block, DEPTH)
            }
            Step::Verify => {
                check(self.device, (&self.buffer, 0, half), (block, 0), &what)?;
                match peer {
                    0 => verify(&downs, block, block + 1, half, &what),
                    _ => {
                        let found = &self.host.as_mut_slice()[half as usize..];
                        pattern::check(block + 1, half, found, &what)
                    }
                }
            }
        })?;
        bench.table.row(&Row {
            what,
            ours: rate(2 * half, ours),
            peer: rate(2 * half, raw),
            peer_is: "both on two streams",
            ratio: raw / ours,
            bar: Bar::Ratio(0.90),
        });
        Ok(())
    }

    fn slices(&self, count: u64, block: u64) -> Outcome<Slices> {
        Ok((0..count).map(|_| self.pool.allocate(block as usize)).collect::<Result<_, _>>()?)
    }

    /// What [`walk`] does, by the driver's functions: each stream copies blocks up or down from an offset on.
    fn raw(&self, ways: &[(&Stream, u64, bool)], count: u64, block: u64, depth: usize) -> Outcome<()> {
        for number in 0..count {
            for &(stream, start, up) in ways {
                let at = start + number * block;
                let copy = Copy { from: at, to: at, len: block };
                let ends = if up {
                    Ends::Up(&self.host, &self.buffer)
                } else {
                    Ends::Down(&self.buffer, &self.host)
                };
                if depth > 1 {
                    stream.copy_in_turn(number as usize, ends, copy)?;
                } else {
                    stream.copy(ends, copy)?;
                    stream.wait()?;
                }
            }
        }
        ways.iter().try_for_each(|(stream, ..)| stream.wait())
    }
}

/// Copies `count` blocks each way, at most `depth` at once: every slice in turn, to or from the place of its number.
fn walk(
    ways: &mut [(&mut Slices, u64, bool)],
    count: u64,
    block: u64,
    depth: usize,
    device: &CudaDevice,
    buffer: &mut CudaBuffer,
) -> Outcome<()> {
    let mut flying: [VecDeque<Ticket<CudaDevice>>; 2] = [VecDeque::new(), VecDeque::new()];
    for number in 0..count {
        for ((slices, start, up), flying) in ways.iter_mut().zip(&mut flying) {
            if flying.len() == depth
                && let Some(oldest) = flying.pop_front()
            {
                slices.push_back(oldest.wait()?);
            }
            let slice = slices.pop_front().ok_or("more blocks than slices")?;
            let at = *start + number * block;
            let sent =
                if *up { device.upload(slice, buffer, at) } else { device.download(buffer, at, slice) };
            flying.push_back(sent.map_err(|refused| refused.error)?);
        }
    }
    for ((slices, ..), flying) in ways.iter_mut().zip(&mut flying) {
        for ticket in flying.drain(..) {
            slices.push_back(ticket.wait()?);
        }
    }
    Ok(())
}

/// Hands out each slice and the offset of its block.
fn each(slices: &mut Slices, block: u64, mut f: impl FnMut(u64, &mut [u8])) {
    for (number, slice) in slices.iter_mut().enumerate() {
        f(number as u64 * block, slice.as_mut_slice());
    }
}

fn verify(slices: &Slices, block: u64, seed: u64, start: u64, what: &str) -> Outcome<()> {
    for (number, slice) in slices.iter().enumerate() {
        pattern::check(seed, start + number as u64 * block, slice.as_slice(), what)?;
    }
    Ok(())
}

/// Copies in flight at once where a row says deep.
const DEPTH: usize = 8;
