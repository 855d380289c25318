//! What an exchange of pages leaves behind in the process: no faults, no mappings, and nothing lost where the system has
//! no mapping left. Alone in its file: faults and mappings are the process's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]
#![cfg(target_os = "linux")]

use allocator_core::{DeviceBuffer, Remap, remap_or_copy};
use backend_cpu::{CpuError, PageBuffer};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::ffi::c_void;

const GRANULE: u64 = 2 << 20;
const PAGE: usize = 4096;

#[test]
fn an_exchange_leaves_nothing_behind() {
    faults_do_not_rise();
    a_dropped_buffer_is_unmapped();
    a_process_without_mappings_loses_nothing();
}

/// Both ranges are there after an exchange: touching every page of them faults none in.
fn faults_do_not_rise() {
    let mut buffer = PageBuffer::new(128 << 20).unwrap();
    assert!(buffer.exchanges_pages());
    let half = buffer.size() / 2;
    touch(&mut buffer);
    let before = minor_faults();
    for round in 0..4 {
        buffer.remap(half * (round % 2)..half * (round % 2) + half, half - half * (round % 2)).unwrap();
        touch(&mut buffer);
    }
    let after = minor_faults();
    // Given back and faulted in again it would be 64 huge pages or 32,768 ordinary ones each time.
    assert!(after - before < 16, "{before} faults before, {after} after");
}

fn touch(buffer: &mut PageBuffer) {
    buffer.bytes_mut().iter_mut().step_by(PAGE).for_each(|byte| *byte = byte.wrapping_add(1));
}

/// Minor faults of this thread so far.
fn minor_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The name in parentheses may hold spaces; the eighth field after it is `minflt`.
    stat.rsplit(')').next().unwrap().split_whitespace().nth(7).unwrap().parse().unwrap()
}

fn a_dropped_buffer_is_unmapped() {
    // A warm run first, so that the library's own memory is there.
    for _ in 0..2 {
        let before = mapped_bytes();
        let mut buffer = PageBuffer::new(40 * GRANULE + 5000).unwrap();
        assert!(buffer.exchanges_pages());
        for step in 0..20 {
            buffer.remap(step * GRANULE..(step + 1) * GRANULE, (39 - step) * GRANULE).unwrap();
        }
        let base = buffer.bytes().as_ptr() as usize;
        let (end, most) = (base + buffer.size() as usize, mapped_bytes());
        assert!(most >= before + buffer.size());
        drop(buffer);
        assert!(!mappings().iter().any(|(from, to)| *from < end && *to > base), "something is still mapped");
        assert!(mapped_bytes() <= before + (1 << 20), "{before} bytes before, {} after", mapped_bytes());
    }
}

fn mappings() -> Vec<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let bounds = |line: &str| {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
    };
    maps.lines().filter_map(bounds).collect()
}

fn mapped_bytes() -> u64 {
    mappings().iter().map(|(from, to)| (to - from) as u64).sum()
}

/// With 0, 1, 2, … mappings left, an exchange is made or refused, and a refusal changes nothing.
fn a_process_without_mappings_loses_nothing() {
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    if most.trim().parse::<usize>().unwrap() >= Hoard::PAGES {
        println!("not tried: vm.max_map_count is {}, too many mappings to use up", most.trim());
        return;
    }
    let mut buffer = PageBuffer::new(32 * GRANULE).unwrap();
    for (number, page) in buffer.bytes_mut().chunks_mut(PAGE).enumerate() {
        page[..4].copy_from_slice(&(number as u32).to_le_bytes());
    }
    let mut order: [u32; 32] = core::array::from_fn(|number| number as u32);
    let hoard = Hoard::new();
    let (mut made, mut refused) = (0, 0);
    for left in 0..80 {
        // Ranges of several granules that came from several places: a move of one may be refused half-way.
        let count = 1 + left % 8;
        let (a, b) = ((left * 7) % (16 - count), 16 + (left * 13 + 5) % (16 - count));
        let (a, b) = if left % 2 == 0 { (a, b) } else { (b, a) };
        match buffer.remap(a as u64 * GRANULE..(a + count) as u64 * GRANULE, b as u64 * GRANULE) {
            Ok(()) => {
                (0..count).for_each(|number| order.swap(a + number, b + number));
                made += 1;
            }
            Err(CpuError::Exchange { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        assert_order(&buffer, &order);
        if left % 2 == 1 {
            hoard.spare_one(left / 2);
        }
    }
    let spare = hoard.spare;
    drop(hoard);
    println!("{made} exchanges made, {refused} refused");
    assert!(made > 0 && refused > 0, "{made} made, {refused} refused");
    assert!(spare >= 40, "only {spare} mappings were hoarded");
    assert!(remap_or_copy(&mut buffer, 0..4 * GRANULE, 8 * GRANULE).unwrap() > 0);
}

fn assert_order(buffer: &PageBuffer, order: &[u32]) {
    let per = GRANULE as usize / PAGE;
    for (number, page) in buffer.bytes().chunks(PAGE).enumerate() {
        let found = u32::from_le_bytes([page[0], page[1], page[2], page[3]]);
        let wanted = order[number / per] * per as u32 + (number % per) as u32;
        assert!(found == wanted, "page {number} holds {found}, not {wanted}");
    }
}

/// All mappings that the process may still have, each a page of one large range.
struct Hoard {
    base: *mut c_void,
    /// Pages that were made a mapping of their own.
    spare: usize,
}

impl Hoard {
    const PAGES: usize = 1 << 18;

    fn new() -> Self {
        // SAFETY: a new mapping at an address of the system's choice.
        let base = unsafe {
            mmap_anonymous(core::ptr::null_mut(), Self::PAGES * PAGE, ProtFlags::empty(), MapFlags::PRIVATE)
        };
        let mut hoard = Hoard { base: base.unwrap(), spare: 0 };
        while hoard.spare < Self::PAGES / 2 && hoard.set(hoard.spare, MprotectFlags::READ).is_ok() {
            hoard.spare += 1;
        }
        hoard
    }

    /// Gives back what the `number`-th page from the end took.
    fn spare_one(&self, number: usize) {
        if let Some(page) = self.spare.checked_sub(1 + number) {
            self.set(page, MprotectFlags::empty()).unwrap();
        }
    }

    fn set(&self, number: usize, access: MprotectFlags) -> rustix::io::Result<()> {
        // SAFETY: every other page of the range this value owns, which nobody looks at.
        unsafe { mprotect(self.base.wrapping_byte_add(2 * number * PAGE), PAGE, access) }
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        // SAFETY: the whole of the range this value owns.
        let _ = unsafe { munmap(self.base, Self::PAGES * PAGE) };
    }
}
