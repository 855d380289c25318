//! Memory near a processor: the nodes there are, and the preference for one.

use crate::HostError;
use core::ptr::NonNull;

/// Refuses a node that has no memory, as far as the system says which have.
pub(super) fn check(node: u32) -> Result<(), HostError> {
    let folder = std::path::Path::new("/sys/devices/system/node");
    let read = |name| std::fs::read_to_string(folder.join(name)).ok();
    match read("has_memory").or_else(|| read("online")) {
        Some(nodes) if !contains(&nodes, node) => {
            Err(HostError::NoNumaNode { node, nodes: nodes.trim().to_owned() })
        }
        // Where nothing is known, `prefer` is told.
        _ => Ok(()),
    }
}

/// Whether a list as the kernel writes it (`0-2,7`) names the number.
fn contains(list: &str, number: u32) -> bool {
    list.trim().split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bounds = (first.trim().parse::<u32>(), last.trim().parse::<u32>());
        matches!(bounds, (Ok(first), Ok(last)) if (first..=last).contains(&number))
    })
}

/// Takes pages of the mapping that are touched from now on from `node` while it has some.
#[cfg(target_os = "linux")]
pub(super) fn prefer(base: NonNull<u8>, len: usize, node: u32) -> std::io::Result<()> {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let mut mask = [0 as libc::c_ulong; MOST_NODES / BITS];
    let at = node as usize;
    let Some(word) = mask.get_mut(at / BITS) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    *word |= 1 << (at % BITS);
    // SAFETY: the range is one mapping of the caller's and the mask outlives the call; where pages will lie changes no
    // contents. The kernel takes one bit less than it is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            base.as_ptr(),
            len,
            libc::MPOL_PREFERRED as libc::c_ulong,
            mask.as_ptr(),
            MOST_NODES + 1,
            0_u32,
        )
    };
    match std::io::Error::last_os_error() {
        _ if done == 0 => Ok(()),
        // A kernel that knows no nodes has one.
        error if error.raw_os_error() == Some(libc::ENOSYS) && node == 0 => Ok(()),
        error => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn prefer(_base: NonNull<u8>, _len: usize, _node: u32) -> std::io::Result<()> {
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "nodes are only known on Linux"))
}

/// The most nodes that any kernel is built for.
#[cfg(target_os = "linux")]
const MOST_NODES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        let of = |list| (0..12).filter(|node| contains(list, *node)).collect::<Vec<_>>();
        assert_eq!(of("0\n"), [0]);
        assert_eq!(of("0-2,7,10-11\n"), [0, 1, 2, 7, 10, 11]);
        assert_eq!(of(""), []);
        assert_eq!(of("none"), []);
    }
}
