//! How much memory this process may lock.

use crate::SystemMemory;

/// The limit on locked memory of the calling thread's process, and how much of it is used. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LockLimit {
    /// What the process may lock now (`ulimit -l`); `None`: unlimited or unknown.
    pub soft: Option<u64>,
    /// How far it may raise that itself; `None`: unlimited or unknown.
    pub hard: Option<u64>,
    /// Locked now (`VmLck`); 0 where the system does not say.
    pub locked_now: u64,
    /// Whether the calling thread has `CAP_IPC_LOCK` where it lifts the limit: not in a user namespace.
    pub privileged: bool,
}

impl LockLimit {
    /// Reads it afresh: a system call and a small file.
    ///
    /// What the system does not tell is taken as absent: no limit, nothing locked, no privilege.
    pub fn current() -> Self {
        let (soft, hard) = memlock();
        let status = Status::current();
        LockLimit {
            soft,
            hard,
            locked_now: status.locked.unwrap_or(0),
            privileged: status.ipc_lock && Status::outside_of_namespaces(),
        }
    }

    /// How much more this process should lock: up to half of what it may, counting what it has locked.
    ///
    /// Where no limit binds, up to half of the memory that is available; where that is unknown too, nothing.
    pub fn allowance(&self) -> u64 {
        match self.soft {
            Some(limit) if !self.privileged => (limit / 2).saturating_sub(self.locked_now),
            _ => SystemMemory::current().map_or(0, |memory| memory.available / 2),
        }
    }
}

#[cfg(unix)]
fn memlock() -> (Option<u64>, Option<u64>) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    (limit.current, limit.maximum)
}

#[cfg(not(unix))]
fn memlock() -> (Option<u64>, Option<u64>) {
    (None, None)
}

#[derive(Default, Debug, PartialEq, Eq)]
struct Status {
    locked: Option<u64>,
    ipc_lock: bool,
}

impl Status {
    fn current() -> Self {
        // Capabilities belong to a thread; `/proc/self` would show those of the process's first one.
        let text = std::fs::read_to_string("/proc/thread-self/status");
        text.or_else(|_| std::fs::read_to_string("/proc/self/status"))
            .map_or_else(|_| Self::default(), |t| Self::of(&t))
    }

    fn of(text: &str) -> Self {
        let effective = field(text, "CapEff:").and_then(|value| u64::from_str_radix(value, 16).ok());
        Status {
            locked: kib(text, "VmLck:"),
            ipc_lock: effective.is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1),
        }
    }

    /// Capabilities count against the lock limit in the first user namespace only: not those a container without a root of its
    /// own sees.
    fn outside_of_namespaces() -> bool {
        let map = std::fs::read_to_string("/proc/self/uid_map");
        // A kernel without namespaces has no such file.
        map.map_or(true, |map| is_first_namespace(&map))
    }
}

/// A line of a file in `/proc` that gives kibibytes, in bytes.
pub(crate) fn kib(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Whether users are who they are: all of them, each itself.
fn is_first_namespace(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Bit of the capability in `CapEff`.
const CAP_IPC_LOCK: u32 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tx\nVmLck:\t      64 kB\nCapPrm:\t0000000000000000\nCapEff:\t0000000000004000\n";
        assert_eq!(Status::of(status), Status { locked: Some(65536), ipc_lock: true });
        assert_eq!(Status::of("CapEff:\t0000000000003fff\n"), Status { locked: None, ipc_lock: false });
        assert_eq!(Status::of(""), Status::default());
        assert!(is_first_namespace("         0          0 4294967295\n"));
        assert!(!is_first_namespace("         0       1000          1\n"));
    }

    #[test]
    fn half_of_the_limit_is_allowed_and_what_is_locked_counts() {
        let limit = LockLimit { soft: Some(8 << 20), hard: None, locked_now: 1 << 20, privileged: false };
        assert_eq!(limit.allowance(), 3 << 20);
        assert_eq!(LockLimit { locked_now: 9 << 20, ..limit }.allowance(), 0);
    }
}
