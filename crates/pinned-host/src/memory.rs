//! How much memory there is: the machine's, and that of the control groups this process is in.

use crate::HostError;
use crate::limits::kib;
use std::path::{Path, PathBuf};

/// The memory this process can draw on, in bytes: the machine's, or its control group's where that has less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemMemory {
    /// In all.
    pub total: u64,
    /// To be had without swapping; what only caches files counts as such.
    pub available: u64,
}

/// What bounds the memory of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryBound {
    /// The machine has no more.
    Machine,
    /// A control group, by its folder: `memory.max` (v2) or `memory.limit_in_bytes` (v1) there.
    ControlGroup(PathBuf),
}

impl core::fmt::Display for MemoryBound {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            MemoryBound::Machine => f.write_str("the machine"),
            MemoryBound::ControlGroup(folder) => write!(f, "control group {}", folder.display()),
        }
    }
}

impl SystemMemory {
    /// Reads `/proc/meminfo` and the limits of the process's control groups (v1 and v2, mounted where they usually are,
    /// below `/sys/fs/cgroup`), the tightest of them.
    ///
    /// `None` where the system does not say.
    pub fn current() -> Option<Self> {
        let bounds = bounds(&read);
        let total = bounds.iter().map(|bound| bound.limit).min()?;
        let available = bounds.iter().map(|bound| bound.available).min()?;
        Some(SystemMemory { total, available })
    }
}

/// Refuses more than some bound can give, everything counted that could make room: cached files go, and where there is
/// swap, memory of others goes there. What is not known refuses nothing.
pub(crate) fn check(asked: u64) -> Result<(), HostError> {
    check_with(asked, &read)
}

/// Bytes of huge pages of 2 MiB in the pool that are neither used nor promised.
pub(crate) fn free_huge_pages() -> u64 {
    let folder = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB");
    let count = |name| number(&read, &folder.join(name)).unwrap_or(0);
    count("free_hugepages").saturating_sub(count("resv_hugepages")).saturating_mul(2 << 20)
}

fn check_with(asked: u64, read: Read<'_>) -> Result<(), HostError> {
    // The tables of ordinary pages are memory too: 8 bytes each.
    let needed = asked.saturating_add(asked / 512);
    match bounds(read).into_iter().find(|bound| needed > bound.reachable) {
        None => Ok(()),
        Some(Bound { by, limit, reachable, .. }) => {
            Err(HostError::MemoryLimit { asked, available: reachable, limit, bound: by })
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Bound {
    by: MemoryBound,
    limit: u64,
    /// Without swapping.
    available: u64,
    /// And with it.
    reachable: u64,
}

/// All that bounds this process; empty where the system does not say.
fn bounds(read: Read<'_>) -> Vec<Bound> {
    let Some(meminfo) = read(Path::new("/proc/meminfo")) else { return Vec::new() };
    let (Some(limit), Some(available)) = (kib(&meminfo, "MemTotal:"), kib(&meminfo, "MemAvailable:")) else {
        return Vec::new();
    };
    let swap = kib(&meminfo, "SwapFree:").unwrap_or(0);
    let reachable = available.saturating_add(swap);
    let mut bounds = vec![Bound { by: MemoryBound::Machine, limit, available, reachable }];
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    for (version, path) in [(&V2, unified_group(&groups)), (&V1, memory_group(&groups))] {
        let Some(path) = path else { continue };
        // In a container the path may be the host's; what is mounted is then the container's group, at the root.
        let (root, path) = (Path::new(version.root), path.trim_start_matches('/'));
        let group = if path.contains("..") { root.to_owned() } else { root.join(path) };
        let folders = group.ancestors().take_while(|folder| folder.starts_with(root));
        bounds.extend(folders.filter_map(|folder| version.bound(folder, swap, read)));
    }
    bounds
}

/// Names of one version of control groups.
struct Version {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Lines of `memory.stat` that count what caches files.
    cached: [&'static str; 2],
    /// Limit and use of swap alone, where they have files.
    swap: Option<(&'static str, &'static str)>,
}

impl Version {
    /// The bound that the group sets, if it sets one.
    fn bound(&self, folder: &Path, swap: u64, read: Read<'_>) -> Option<Bound> {
        // "max", or no such file: no limit at this level.
        let limit = number(read, &folder.join(self.limit)).filter(|limit| *limit < UNLIMITED)?;
        let used = number(read, &folder.join(self.used)).unwrap_or(0);
        let stat = read(&folder.join("memory.stat")).unwrap_or_default();
        let cached = self.cached.iter().filter_map(|name| stat_of(&stat, name)).sum::<u64>();
        let available = limit.saturating_sub(used.saturating_sub(cached));
        let swap = match self.swap {
            Some((max, current)) => number(read, &folder.join(max)).map_or(swap, |max| {
                swap.min(max.saturating_sub(number(read, &folder.join(current)).unwrap_or(0)))
            }),
            None => swap,
        };
        let reachable = available.saturating_add(swap).min(limit);
        Some(Bound { by: MemoryBound::ControlGroup(folder.to_owned()), limit, available, reachable })
    }
}

/// The path of the unified (v2) hierarchy in `/proc/self/cgroup`.
fn unified_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The path of the group with the memory controller (v1): `NUMBER:CONTROLLERS:PATH`.
fn memory_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == "memory").then_some(path)
    })
}

fn stat_of(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn number(read: Read<'_>, path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Reads a file, as text.
type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

const V2: Version = Version {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    cached: ["inactive_file", "active_file"],
    swap: Some(("memory.swap.max", "memory.swap.current")),
};
const V1: Version = Version {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
    // Its limit is on memory and swap together.
    swap: None,
};
/// From here on a limit of v1 is none: it writes the largest number of whole pages.
const UNLIMITED: u64 = 1 << 62;

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of files.
    fn machine<'a>(files: &'a [(&'a str, &'a str)]) -> impl Fn(&Path) -> Option<String> + 'a {
        move |path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned())
    }

    const MEMINFO: (&str, &str) = (
        "/proc/meminfo",
        "MemTotal:       1000 kB\nMemFree:        1 kB\nMemAvailable:   500 kB\nSwapFree:  100 kB\n",
    );

    #[test]
    fn the_machine_alone_bounds_where_there_are_no_groups() {
        let read = machine(&[MEMINFO]);
        let machine =
            Bound { by: MemoryBound::Machine, limit: 1_024_000, available: 512_000, reachable: 614_400 };
        assert_eq!(bounds(&read), [machine]);
        assert!(check_with(600_000, &read).is_ok());
        let error = check_with(614_000, &read).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot have 614000 bytes of memory: the machine has 614400 bytes to give, of 1024000 in all"
        );
        // Nothing known, nothing refused.
        assert!(check_with(u64::MAX, &|_| None).is_ok());
        assert!(
            check_with(1, &|path: &Path| (path == Path::new("/proc/meminfo"))
                .then(|| "MemTotal: lots".into()))
            .is_ok()
        );
    }

    #[test]
    fn the_tightest_of_the_unified_groups_bounds() {
        let mut files = vec![
            MEMINFO,
            ("/proc/self/cgroup", "1:cpu:/a\n0::/b/c\n"),
            ("/sys/fs/cgroup/b/c/memory.max", "max\n"),
            ("/sys/fs/cgroup/b/memory.max", "300000\n"),
            ("/sys/fs/cgroup/b/memory.current", "250000\n"),
            ("/sys/fs/cgroup/b/memory.stat", "anon 1\ninactive_file 40000\nactive_file 10000\nfile 99999\n"),
            ("/sys/fs/cgroup/b/memory.swap.max", "0\n"),
        ];
        let found = bounds(&machine(&files));
        let by = MemoryBound::ControlGroup("/sys/fs/cgroup/b".into());
        // Cached files make room; others' swap does not.
        assert_eq!(found[1..], [Bound { by, limit: 300_000, available: 100_000, reachable: 100_000 }]);
        let error = check_with(200_000, &machine(&files)).unwrap_err();
        let HostError::MemoryLimit { asked, available, limit, .. } = &error else { panic!("{error}") };
        assert_eq!((*asked, *available, *limit), (200_000, 100_000, 300_000));
        assert!(error.to_string().contains("control group /sys/fs/cgroup/b has 100000"), "{error}");
        // Swap of the group counts as far as the machine has some, and never beyond the limit.
        files[6].1 = "max\n";
        assert_eq!(bounds(&machine(&files))[1].reachable, 202_400);
        files[4].1 = "0\n";
        assert_eq!(bounds(&machine(&files))[1].reachable, 300_000);
    }

    #[test]
    fn groups_of_the_first_version_bound_too() {
        let files = [
            MEMINFO,
            ("/proc/self/cgroup", "9:name=systemd:/\n4:hugetlb,memory:/docker/x\n0::/\n"),
            // Not this process's view: a container sees its own group at the root.
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "200000\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "150000\n"),
            ("/sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 20000\n"),
        ];
        let found = bounds(&machine(&files));
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].limit, found[1].available, found[1].reachable), (200_000, 70_000, 172_400));
        // The largest number of whole pages is no limit.
        let mut files = files;
        files[2].1 = "9223372036854771712\n";
        assert_eq!(bounds(&machine(&files)).len(), 1);
    }

    #[test]
    fn groups_outside_the_namespace_are_read_at_the_root() {
        let files = [
            MEMINFO,
            ("/proc/self/cgroup", "0::/../../etc\n"),
            ("/sys/fs/cgroup/memory.max", "5000"),
            ("/sys/fs/cgroup/../../etc/memory.max", "1"),
        ];
        let found = bounds(&machine(&files));
        assert_eq!((found.len(), found[1].limit), (2, 5000));
    }
}
