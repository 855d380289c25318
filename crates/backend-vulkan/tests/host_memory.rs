//! Host memory that a device reaches: which pages are imported, and what counts as pinned.
//!
//! One test: what is counted is the whole process's.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod support;

use backend_vulkan::{HostMemory, VulkanOptions};
use pinned_host::{HostRegion, OsLocker, OsMemory, PageLocker, PinnedPages, Transfer};
use support::hooks::Native;

#[test]
fn pages_are_ordinary_and_count_once() {
    imported_pages_are_ordinary_and_locked();
    a_software_device_pins_nothing();
    hardware_pins_what_it_makes_and_what_it_imports();
}

fn pinned() -> u64 {
    PinnedPages::current().locked
}

fn imported_pages_are_ordinary_and_locked() {
    let native = Native::new();
    let device = native.adopt(&VulkanOptions::new().host_memory(HostMemory::Imported));
    let start = pinned();
    let region = device.locker().lock(6 << 20).unwrap();
    assert!(region.is_locked());
    assert_eq!(pinned() - start, region.len() as u64);
    let flags = flags(region.base().addr().get());
    // `lo`: locked; `nh`: no huge pages; `wf`: emptied in a child.
    for flag in ["lo", "nh", "wf"] {
        assert!(flags.split_whitespace().any(|set| set == flag), "{flag} is not among {flags}");
    }
    drop(region);
    assert_eq!(pinned(), start);
}

/// What the kernel says of the mapping at an address.
fn flags(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let ends = range.map(|(start, end)| [start, end].map(|end| usize::from_str_radix(end, 16)));
        !matches!(ends, Some([Ok(start), Ok(end)]) if (start..end).contains(&address))
    });
    lines.find_map(|line| line.strip_prefix("VmFlags:")).unwrap().to_owned()
}

fn a_software_device_pins_nothing() {
    let native = Native::new();
    let start = pinned();
    for kind in [HostMemory::Best, HostMemory::Driver] {
        let device = native.adopt(&VulkanOptions::new().host_memory(kind));
        let made = device.locker().lock(64 << 10).unwrap();
        let imported = device.locker().import(OsLocker.pageable(64 << 10).unwrap().unwrap()).unwrap();
        assert!(!made.is_locked() && !imported.is_locked() && pinned() == start, "{kind:?}");
        // What was locked before counts as it did.
        let locked = device.locker().import(OsLocker.lock(64 << 10).unwrap()).unwrap();
        assert!(locked.is_locked() && pinned() - start == 64 << 10);
    }
    assert_eq!(pinned(), start);
}

fn hardware_pins_what_it_makes_and_what_it_imports() {
    let mut native = Native::new();
    native.hardware = true;
    let device = native.adopt(&VulkanOptions::new());
    let start = pinned();
    let made = device.locker().lock(64 << 10).unwrap();
    assert!(made.is_locked() && pinned() - start == 64 << 10);
    for locked in [true, false] {
        let memory = OsMemory::for_drivers();
        let region = if locked { memory.lock(64 << 10) } else { memory.pageable(64 << 10).unwrap() };
        let imported = device.locker().import(region.unwrap()).unwrap();
        assert!(imported.is_locked());
        assert_eq!(pinned() - start, 128 << 10, "two that pin a page count it once");
    }
    assert_eq!(pinned() - start, 64 << 10);
    // A refused import leaves nothing pinned by the driver.
    native.control.fail("vkAllocateMemory", 1, ash::vk::Result::ERROR_INVALID_EXTERNAL_HANDLE);
    let refused = device.locker().import(OsLocker.pageable(4096).unwrap().unwrap()).unwrap_err();
    assert!(!refused.region.is_locked() && pinned() - start == 64 << 10);
    drop(made);
    assert_eq!(pinned(), start);
}
