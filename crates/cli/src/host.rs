//! What this machine offers, as far as a user may see. Every probe is soft: what cannot be told is `None`.

use pinned_host::SystemMemory;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use serde::Serialize;
use std::fs;
use std::path::Path;

/// Facts about the machine's memory and kernel.
#[derive(Debug, Serialize)]
pub(crate) struct Host {
    /// Memory this process can draw on, in bytes: the machine's, or its control group's where that has less.
    pub(crate) memory_bytes: Option<u64>,
    /// What of it can be had without swapping.
    pub(crate) available_bytes: Option<u64>,
    pub(crate) page_bytes: u64,
    /// `always`, `madvise` or `never`.
    pub(crate) transparent_huge_pages: Option<String>,
    /// Size of an explicit huge page, in bytes.
    pub(crate) huge_page_bytes: Option<u64>,
    /// Explicit huge pages set aside and unused.
    pub(crate) huge_pages_free: Option<u64>,
    pub(crate) kernel: Kernel,
}

/// Kernel facilities the workspace can make use of.
#[derive(Debug, Serialize)]
pub(crate) struct Kernel {
    pub(crate) release: String,
    /// Whether the kernel has io_uring and its administrator allows it; a sandbox may still refuse.
    pub(crate) io_uring: Option<bool>,
    /// Whether files in the temporary directory can be read past the page cache.
    pub(crate) o_direct: Option<bool>,
    pub(crate) memfd: Option<bool>,
    /// Whether pages can be made present ahead of use (`MADV_POPULATE_WRITE`, Linux 5.14).
    pub(crate) populate: Option<bool>,
}

/// Looks around.
pub(crate) fn probe() -> Host {
    let memory = SystemMemory::current();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let since = |wanted: (u32, u32)| version(&release).map(|version| version >= wanted);
    Host {
        memory_bytes: memory.map(|memory| memory.total),
        available_bytes: memory.map(|memory| memory.available),
        page_bytes: rustix::param::page_size() as u64,
        transparent_huge_pages: fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
            .ok()
            .and_then(|text| chosen(&text)),
        huge_page_bytes: meminfo_field(&meminfo, "Hugepagesize").map(|kib| kib * 1024),
        huge_pages_free: meminfo_field(&meminfo, "HugePages_Free"),
        kernel: Kernel {
            io_uring: io_uring(since((5, 1))),
            o_direct: o_direct(&std::env::temp_dir()),
            memfd: Some(rustix::fs::memfd_create("probe", MemfdFlags::CLOEXEC).is_ok()),
            populate: since((5, 14)),
            release,
        },
    }
}

/// `/proc/sys/kernel/io_uring_disabled` (Linux 6.6): 0 allowed, 1 for the privileged, 2 for nobody.
fn io_uring(new_enough: Option<bool>) -> Option<bool> {
    match fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok().as_deref().map(str::trim) {
        Some("0") => Some(true),
        Some("1") => Some(rustix::process::geteuid().is_root()),
        Some(_) => Some(false),
        None => new_enough,
    }
}

fn o_direct(dir: &Path) -> Option<bool> {
    let file = tempfile::NamedTempFile::new_in(dir).ok()?;
    Some(
        rustix::fs::open(file.path(), OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
            .is_ok(),
    )
}

fn meminfo_field(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().trim_end_matches(" kB").parse().ok()
}

/// The word in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_prints_is_read() {
        assert_eq!(
            meminfo_field("MemTotal:       24000 kB\nHugePages_Free:        3\n", "MemTotal"),
            Some(24000)
        );
        assert_eq!(meminfo_field("HugePages_Free:        3\n", "HugePages_Free"), Some(3));
        assert_eq!(meminfo_field("", "MemTotal"), None);
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(version("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(version("odd"), None);
    }

    #[test]
    fn probing_never_fails() {
        assert!(probe().page_bytes >= 4096);
    }
}
