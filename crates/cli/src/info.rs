//! `swap-tensor info`: which backends can be used, and what this machine offers them.

use crate::args::InfoArgs;
use crate::error::{CliError, failed};
use crate::host::{self, Host};
use crate::output::{self, visible};
use crate::size::Size;
use pinned_host::LockLimit;
use serde::Serialize;
use std::fmt;
use swap_tensor::backends;

/// Looks around and prints what was found.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn info(args: &InfoArgs) -> Result<(), CliError> {
    let info = Info::probe();
    if !args.json {
        return output::line(info);
    }
    let json = serde_json::to_string(&info);
    output::line(json.map_err(|error| failed("write the report", &error))?)
}

#[derive(Debug, Serialize)]
struct Info {
    backends: Vec<Backend>,
    lock_limit: Lock,
    host: Host,
}

#[derive(Debug, Serialize)]
struct Backend {
    name: &'static str,
    /// Whether the cargo feature is on.
    compiled: bool,
    usable: bool,
    /// Why it is not usable.
    why_not: Option<String>,
    devices: Vec<Device>,
}

#[derive(Debug, Serialize)]
struct Device {
    name: String,
    /// Name and version, where the backend tells them.
    driver: Option<String>,
    uuid: Option<String>,
    /// Device memory that can be had now, in bytes, where it can be told.
    memory_bytes: Option<u64>,
}

/// Limits on page-locked memory in bytes; none: unlimited.
#[derive(Debug, Serialize)]
struct Lock {
    soft_bytes: Option<u64>,
    hard_bytes: Option<u64>,
    locked_bytes: u64,
    /// Whether `CAP_IPC_LOCK` lifts the limits.
    privileged: bool,
    /// What this project would lock by default.
    allowance_bytes: u64,
}

impl Info {
    fn probe() -> Info {
        let host = host::probe();
        let backends = backends::list().into_iter().map(|backend| Backend {
            name: backend.name,
            compiled: backend.compiled,
            usable: backend.usable.is_ok(),
            devices: backend
                .devices
                .into_iter()
                .map(|device| Device {
                    name: device.name,
                    driver: device.driver,
                    uuid: device.uuid,
                    memory_bytes: device.memory,
                })
                .collect(),
            why_not: backend.usable.err(),
        });
        let limit = LockLimit::current();
        let lock_limit = Lock {
            soft_bytes: limit.soft,
            hard_bytes: limit.hard,
            locked_bytes: limit.locked_now,
            privileged: limit.privileged,
            allowance_bytes: limit.allowance(),
        };
        Info { backends: backends.collect(), lock_limit, host }
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: Option<u64>, absent: &str| {
            bytes.map_or(absent.to_owned(), |bytes| Size(bytes).to_string())
        };
        let found = |found: Option<bool>| match found {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        for backend in &self.backends {
            let state = match (&backend.why_not, backend.compiled) {
                (None, _) => "usable".to_owned(),
                (Some(why), true) => format!("not usable: {why}"),
                (Some(why), false) => format!("not compiled in: {why}"),
            };
            writeln!(f, "backend {:12} {state}", backend.name)?;
            for (index, device) in backend.devices.iter().enumerate() {
                let memory = size(device.memory_bytes, "unknown");
                let uuid = device.uuid.iter().map(|uuid| format!(", UUID {uuid}")).collect::<String>();
                let driver = device.driver.iter().map(|driver| format!(", driver {}", visible(driver)));
                let driver = driver.collect::<String>();
                writeln!(f, "  device {index:<10} {}{driver}, memory {memory}{uuid}", visible(&device.name))?;
            }
        }
        let (host, kernel, lock) = (&self.host, &self.host.kernel, &self.lock_limit);
        let (all, free) = (size(host.memory_bytes, "unknown"), size(host.available_bytes, "unknown"));
        writeln!(f, "host memory          {all}, {free} available, pages of {}", Size(host.page_bytes))?;
        let privileged = if lock.privileged { ", lifted by CAP_IPC_LOCK" } else { "" };
        writeln!(
            f,
            "lock limit           {} (hard {}){privileged}; locked by default up to {}",
            size(lock.soft_bytes, "none"),
            size(lock.hard_bytes, "none"),
            Size(lock.allowance_bytes)
        )?;
        writeln!(
            f,
            "huge pages           transparent: {}; explicit: {} free of {}",
            host.transparent_huge_pages.as_deref().unwrap_or("unknown"),
            host.huge_pages_free.map_or("unknown".to_owned(), |pages| pages.to_string()),
            size(host.huge_page_bytes, "unknown size")
        )?;
        writeln!(f, "kernel               {}", kernel.release)?;
        write!(
            f,
            "kernel facilities    io_uring: {}, O_DIRECT: {}, memfd: {}, populate: {}",
            found(kernel.io_uring),
            found(kernel.o_direct),
            found(kernel.memfd),
            found(kernel.populate)
        )
    }
}
