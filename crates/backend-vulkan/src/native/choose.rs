//! Which device, and which of its queues: decisions that depend on what Vulkan reports and on nothing else.

use super::VulkanError;
use ash::vk;
use std::fmt;

/// A Vulkan device of this machine, as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its place in the driver's list, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// `deviceUUID`: the same in every API and process.
    pub uuid: [u8; 16],
    /// What kind of hardware it is.
    pub kind: DeviceKind,
    /// Bytes of its largest device-local heap.
    pub memory: u64,
    /// The part of that which this process may use now, by `VK_EXT_memory_budget`; `None` without the extension.
    pub available: Option<u64>,
    /// Version of Vulkan it offers: major, minor, patch.
    pub api_version: (u32, u32, u32),
    /// Name and version of the driver.
    pub driver: String,
}

/// What kind of hardware a device is; in the order in which one is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeviceKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A GPU seen through a virtual machine.
    Virtual,
    /// Software on the host.
    Cpu,
    /// None of these.
    Other,
}

/// Which device to open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Select {
    /// The first of the best kind there is, of Vulkan 1.2 or newer: discrete, integrated, virtual, software.
    #[default]
    Best,
    /// The one at this place in the driver's list, or with this number in its name if the list is shorter.
    Index(usize),
    /// The first whose name contains this, upper and lower case being the same.
    Name(String),
    /// The one with this `deviceUUID`.
    Uuid([u8; 16]),
}

impl Select {
    /// Reads a number as an index, 32 hexadecimal digits (dashes allowed) as a UUID, anything else as a name.
    pub fn parse(text: &str) -> Select {
        if let Ok(index) = text.parse() {
            return Select::Index(index);
        }
        uuid(text).map_or_else(|| Select::Name(text.to_owned()), Select::Uuid)
    }

    /// Index of the device that is meant.
    ///
    /// # Errors
    /// [`VulkanError::NoDevice`].
    pub(super) fn pick(&self, devices: &[DeviceInfo]) -> Result<usize, VulkanError> {
        let named = |name: &str| {
            let name = name.to_lowercase();
            devices.iter().find(|device| device.name.to_lowercase().contains(&name))
        };
        let found = match self {
            Select::Best => {
                let new_enough = devices.iter().filter(|device| device.api_version >= (1, 2, 0));
                new_enough.min_by_key(|device| (device.kind, device.index))
            }
            // A number may be a part of a name, too.
            Select::Index(index) => {
                devices.iter().find(|device| device.index == *index).or_else(|| named(&index.to_string()))
            }
            Select::Name(name) => named(name),
            Select::Uuid(uuid) => devices.iter().find(|device| device.uuid == *uuid),
        };
        found.map(|device| device.index).ok_or_else(|| VulkanError::NoDevice {
            wanted: self.to_string(),
            found: devices.iter().map(|device| device.name.clone()).collect(),
        })
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Select::Best => f.write_str("of any kind that this backend can use"),
            Select::Index(index) => write!(f, "with index {index}"),
            Select::Name(name) => write!(f, "whose name contains `{name}`"),
            Select::Uuid(uuid) => {
                f.write_str("with UUID ")?;
                uuid.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

/// A queue of the device: its family and its number in the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueAt {
    pub(super) family: u32,
    pub(super) index: u32,
}

/// Which queue does what. Several jobs may share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Jobs {
    pub(super) compute: QueueAt,
    pub(super) upload: QueueAt,
    pub(super) download: QueueAt,
}

impl Jobs {
    /// A transfer-only family carries both directions, on a queue each if it has two; else spare queues of the
    /// compute family do; else everything shares one. `None`: there is no compute queue.
    pub(super) fn assign(families: &[vk::QueueFamilyProperties]) -> Option<Jobs> {
        let find = |wanted: fn(vk::QueueFlags) -> bool| {
            let family = families.iter().position(|f| f.queue_count > 0 && wanted(f.queue_flags))?;
            Some((family as u32, families[family].queue_count))
        };
        let (family, count) = find(|flags| flags.contains(vk::QueueFlags::COMPUTE))?;
        let compute = QueueAt { family, index: 0 };
        let only_copies = find(|flags| {
            flags.contains(vk::QueueFlags::TRANSFER)
                && !flags.intersects(
                    vk::QueueFlags::COMPUTE
                        | vk::QueueFlags::GRAPHICS
                        | vk::QueueFlags::VIDEO_DECODE_KHR
                        | VIDEO_ENCODE,
                )
        });
        let (family, first, count) = match only_copies {
            Some((family, count)) => (family, 0, count),
            None => (family, u32::from(count > 1), count),
        };
        let upload = QueueAt { family, index: first };
        let download = QueueAt { family, index: (first + 1).min(count - 1) };
        Some(Jobs { compute, upload, download })
    }

    /// Each queue once.
    pub(super) fn distinct(&self) -> Vec<QueueAt> {
        let mut all = vec![self.compute];
        for at in [self.upload, self.download] {
            if !all.contains(&at) {
                all.push(at);
            }
        }
        all
    }
}

/// `VK_QUEUE_VIDEO_ENCODE_BIT_KHR`: engines with it copy, and are not what a lane wants.
const VIDEO_ENCODE: vk::QueueFlags = vk::QueueFlags::from_raw(0x40);

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: usize, name: &str, kind: DeviceKind) -> DeviceInfo {
        let uuid = [index as u8; 16];
        let (name, driver) = (name.to_owned(), String::new());
        DeviceInfo { index, name, uuid, kind, memory: 0, available: None, api_version: (1, 2, 0), driver }
    }

    #[test]
    fn the_best_device_is_discrete_and_others_are_asked_for() {
        let all = [
            device(0, "llvmpipe", DeviceKind::Cpu),
            device(1, "Some iGPU", DeviceKind::Integrated),
            device(2, "Some GPU", DeviceKind::Discrete),
            device(3, "Other GPU", DeviceKind::Discrete),
        ];
        assert_eq!(Select::Best.pick(&all).unwrap(), 2);
        assert_eq!(Select::parse("1").pick(&all).unwrap(), 1);
        assert_eq!(Select::parse("LLVM").pick(&all).unwrap(), 0);
        assert_eq!(Select::parse("03030303-0303-0303-0303-030303030303").pick(&all).unwrap(), 3);
        let error = Select::parse("4").pick(&all).unwrap_err().to_string();
        assert!(error.contains("index 4") && error.contains("0: llvmpipe") && error.contains("3: Other GPU"));
        assert!(Select::parse("nonesuch").pick(&all).is_err());
        assert!(Select::Best.pick(&[]).unwrap_err().to_string().contains("there is none"));
    }

    fn families(of: &[(vk::QueueFlags, u32)]) -> Vec<vk::QueueFamilyProperties> {
        of.iter()
            .map(|(flags, count)| {
                vk::QueueFamilyProperties::default().queue_flags(*flags).queue_count(*count)
            })
            .collect()
    }

    fn jobs(of: &[(vk::QueueFlags, u32)]) -> [(u32, u32); 3] {
        let jobs = Jobs::assign(&families(of)).unwrap();
        [jobs.compute, jobs.upload, jobs.download].map(|at| (at.family, at.index))
    }

    /// Families as drivers report them: a software driver, and the shapes of three vendors.
    #[test]
    fn lanes_take_copy_engines_then_spare_queues_then_share() {
        const ALL: vk::QueueFlags = vk::QueueFlags::from_raw(0b111);
        const COMPUTE: vk::QueueFlags = vk::QueueFlags::from_raw(0b110);
        const COPY: vk::QueueFlags = vk::QueueFlags::from_raw(0b1100);
        const DECODE: vk::QueueFlags = vk::QueueFlags::from_raw(0b10_0100);
        assert_eq!(jobs(&[(ALL, 1)]), [(0, 0), (0, 0), (0, 0)]);
        assert_eq!(jobs(&[(ALL, 2)]), [(0, 0), (0, 1), (0, 1)]);
        assert_eq!(jobs(&[(ALL, 16), (COPY, 2), (COMPUTE, 8), (DECODE, 1)]), [(0, 0), (1, 0), (1, 1)]);
        assert_eq!(jobs(&[(ALL, 1), (COMPUTE, 4), (COPY, 1)]), [(0, 0), (2, 0), (2, 0)]);
        assert_eq!(jobs(&[(ALL, 4), (DECODE, 2)]), [(0, 0), (0, 1), (0, 2)]);
        assert!(Jobs::assign(&families(&[(COPY, 1)])).is_none());
        let one = Jobs::assign(&families(&[(ALL, 1)])).unwrap();
        assert_eq!(one.distinct().len(), 1);
    }
}
