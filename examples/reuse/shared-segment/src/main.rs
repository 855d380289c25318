//! A shared-memory segment that one process divides and another reads.
//!
//! A writer maps a file, allocates blocks in it, and publishes where they are in a small *directory* at the start of the
//! segment: offset, length and checksum of each. A reader, a process of its own, maps the same file and reads by offset. The
//! allocator's books are in the writer's own memory, **outside the segment**: a reader that runs wild cannot corrupt them, no
//! pointer is ever shared, and the segment holds payload alone.
//!
//! * The directory is an ordinary block with a lease that never ends: it is a wall, so it stays at offset 0.
//! * While the reader works on a published state, its blocks are leased. What the writer moves or frees meanwhile is the rest.
//! * Once the reader has answered, the leases end, the writer compacts, and publishes the new offsets.
//!
//! The program is both: it starts itself again as the reader. It exits with an error if a checksum is wrong on either side.
//!
//! # To carry it over
//! Requests and answers go over pipes here, and a pipe orders memory between the two. With a lock-free directory, write the
//! entries first and the sequence number last with `Release`, read it first with `Acquire`, and again after reading (a seqlock).
//! For several readers take one lease per reader and block; leases count. If the writer may die, let the next one start with an
//! empty allocator and a new segment: books outside the segment die with their process. The segment can grow: `set_len`, map
//! again, then `OffsetAllocator::resize`.
//!
//! Run it with `cargo run`. It uses `/dev/shm` where there is one, else the directory for temporary files.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use allocator_core::{Handle, OffsetAllocator, Plan, Request};
use memmap2::{Mmap, MmapMut};

const SEGMENT: u64 = 1 << 20;
const DIRECTORY: u64 = 4096;
const ENTRY: usize = 24;
/// Payloads start at a cache line.
const LINE: u64 = 64;
const ROUNDS: u64 = 30;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// The writer's side: the mapping, and the books beside it.
struct Segment {
    map: MmapMut,
    offsets: OffsetAllocator,
    blocks: Vec<(Handle, u64)>,
    plan: Plan,
}

impl Segment {
    fn create(path: &Path) -> Fallible<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.set_len(SEGMENT)?;
        // SAFETY: the file is new and has a name nobody else knows; only the reader maps it, and it never writes.
        let map = unsafe { MmapMut::map_mut(&file)? };
        let mut offsets = OffsetAllocator::with_grain(SEGMENT, LINE)?;
        let directory = offsets.allocate(Request::new(DIRECTORY))?;
        offsets.lease(directory)?;
        if offsets.block(directory)?.range.start != 0 {
            return Err("the first block of an empty segment is not at its start".into());
        }
        Ok(Self { map, offsets, blocks: Vec::new(), plan: Plan::default() })
    }

    /// Stores a payload, moving others when only fragmentation is in the way. `false` when the segment is full.
    fn put(&mut self, payload: &[u8]) -> Fallible<bool> {
        let request = Request::new(payload.len() as u64);
        if self.offsets.find(request).is_err() {
            if self.offsets.plan_room_into(request, &mut self.plan).is_err() {
                return Ok(false);
            }
            self.make_moves()?;
        }
        let handle = self.offsets.allocate(request)?;
        let used = host(self.offsets.block(handle)?.used());
        self.map[used].copy_from_slice(payload);
        self.blocks.push((handle, checksum(payload)));
        Ok(true)
    }

    fn compact(&mut self) -> Fallible<()> {
        self.offsets.plan_compact_into(u64::MAX, &mut self.plan);
        self.make_moves()
    }

    fn make_moves(&mut self) -> Fallible<()> {
        for step in self.plan.moves() {
            self.map.copy_within(host(step.src.clone()), step.dst as usize);
            self.offsets.commit_move(step)?;
        }
        Ok(())
    }

    /// Writes sequence, count and entries; leases what it publishes and returns it.
    fn publish(&mut self, sequence: u64) -> Fallible<Vec<Handle>> {
        let most = (DIRECTORY as usize - 16) / ENTRY;
        let mut words = vec![sequence, self.blocks.len().min(most) as u64];
        let mut leased = Vec::new();
        for (handle, checksum) in self.blocks.iter().take(most) {
            let used = self.offsets.block(*handle)?.used();
            words.extend([used.start, used.end - used.start, *checksum]);
            self.offsets.lease(*handle)?;
            leased.push(*handle);
        }
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        self.map[..bytes.len()].copy_from_slice(&bytes);
        Ok(leased)
    }
}

/// The process that reads.
struct Reader {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Reader {
    fn start(segment: &Path) -> Fallible<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--reader").arg(segment).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let requests = child.stdin.take().ok_or("the reader has no input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("the reader has no output")?);
        Ok(Self { child, requests, answers })
    }

    fn ask(&mut self, sequence: u64) -> Fallible<()> {
        Ok(writeln!(self.requests, "{sequence}")?)
    }

    fn answer(&mut self) -> Fallible<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        match line.trim().strip_prefix("read ") {
            Some(read) => Ok(read.to_owned()),
            None => Err(format!("the reader says: {}", line.trim()).into()),
        }
    }
}

fn write(path: &Path) -> Fallible<()> {
    let mut segment = Segment::create(path)?;
    let mut reader = Reader::start(path)?;
    let mut random = 1_u64;
    let mut below = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let (mut last, mut refused, mut read) = (Vec::new(), 0, 0);
    for sequence in 1..=ROUNDS {
        while segment.blocks.len() < 120 {
            let payload: Vec<u8> = (0..1 + below(16_000)).map(|_| below(256) as u8).collect();
            if !segment.put(&payload)? {
                break;
            }
        }
        for leased in last.drain(..) {
            segment.offsets.unlease(leased)?;
        }
        segment.compact()?;
        last = segment.publish(sequence)?;
        reader.ask(sequence)?;
        // The reader is at it: what it reads can be neither freed nor moved.
        let busy = segment.blocks[below(segment.blocks.len() as u64) as usize].0;
        refused += u64::from(segment.offsets.free(busy).is_err());
        segment.compact()?;
        let answer = reader.answer()?;
        read += answer.parse::<u64>()?;
        // It has answered: a third of the blocks go, from anywhere.
        for leased in last.drain(..) {
            segment.offsets.unlease(leased)?;
        }
        for _ in 0..segment.blocks.len() / 3 {
            let (gone, _) = segment.blocks.swap_remove(below(segment.blocks.len() as u64) as usize);
            segment.offsets.free(gone)?;
        }
    }
    let Reader { mut child, requests, .. } = reader;
    drop(requests);
    let stats = segment.offsets.stats();
    println!(
        "{ROUNDS} states published, {} KiB read by process {}, all checksums right",
        read >> 10,
        child.id()
    );
    println!(
        "{} blocks moved, {} KiB; at the peak {} KiB of {} KiB were in use",
        stats.moves,
        stats.moved_bytes >> 10,
        stats.high_water >> 10,
        SEGMENT >> 10
    );
    println!("{refused} attempts to free what the reader was reading, all refused");
    let well = child.wait()?.success() && refused == ROUNDS && stats.moves > 0;
    if well { Ok(()) } else { Err("the reader failed, or leases did not hold".into()) }
}

/// The reader: checks everything a directory names, once per line of input, and answers with the bytes read.
fn read(path: &Path) -> Fallible<()> {
    // SAFETY: the writer changes what a directory names only while this process waits for its next request.
    let map = unsafe { Mmap::map(&File::open(path)?)? };
    for line in std::io::stdin().lines() {
        let (sequence, mut bytes) = (line?.parse::<u64>()?, 0);
        if word(&map, 0)? != sequence {
            return Err("the directory is of another state".into());
        }
        for entry in 0..word(&map, 8)? as usize {
            let at = 16 + entry * ENTRY;
            let (start, len) = (word(&map, at)?, word(&map, at + 8)?);
            // Offsets come from another process: they are checked, not trusted.
            let end = start.checked_add(len).filter(|end| *end <= SEGMENT).ok_or("beyond the segment")?;
            let payload = map.get(host(start..end)).ok_or("beyond the segment")?;
            if checksum(payload) != word(&map, at + 16)? {
                return Err(format!("entry {entry} of state {sequence}: wrong checksum").into());
            }
            bytes += len;
        }
        println!("read {bytes}");
    }
    Ok(())
}

fn word(map: &[u8], at: usize) -> Fallible<u64> {
    let bytes = map.get(at..).and_then(|rest| rest.first_chunk()).ok_or("the directory is cut off")?;
    Ok(u64::from_le_bytes(*bytes))
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, step)
}

fn host(range: Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let outcome = match args.as_slice() {
        [flag, path] if flag == "--reader" => read(Path::new(path)).inspect_err(|why| println!("{why}")),
        _ => {
            let shm = PathBuf::from("/dev/shm");
            let directory = if shm.is_dir() { shm } else { std::env::temp_dir() };
            let path = directory.join(format!("shared-segment-{}", std::process::id()));
            let outcome = write(&path);
            // It may not have come so far as to make it.
            drop(std::fs::remove_file(&path));
            outcome
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
