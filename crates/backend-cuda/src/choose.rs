//! Which device: what there are, and how one is meant.

use crate::context::of;
use crate::{CudaError, driver};
use cudarc::driver::result::device;
use cudarc::driver::sys;
use std::fmt;

/// A CUDA device of this machine, as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its place in the driver's list, from 0; `CUDA_VISIBLE_DEVICES` has its say.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Its UUID: the same in every API and process. That of the part the process sees, where a device is divided (MIG); zeros
    /// where the driver is too old to say.
    pub uuid: [u8; 16],
    /// Bytes of its memory.
    pub memory: u64,
    /// Compute capability: major, minor.
    pub capability: (u32, u32),
    /// Whether buffers on it can have pages that change places.
    pub virtual_memory: bool,
}

/// Which device to open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Select {
    /// The one at this place in the driver's list, which is the fastest first unless `CUDA_DEVICE_ORDER` says otherwise.
    Ordinal(usize),
    /// The first whose name contains this, upper and lower case being the same.
    Name(String),
    /// The one with this UUID.
    Uuid([u8; 16]),
}

impl Select {
    /// Reads a number as an ordinal, 32 hexadecimal digits (dashes, and `GPU-` or `MIG-` before them, allowed) as a UUID,
    /// anything else as a name.
    ///
    /// ```
    /// use backend_cuda::Select;
    /// assert_eq!(Select::parse("1"), Select::Ordinal(1));
    /// assert_eq!(Select::parse("H200"), Select::Name("H200".into()));
    /// let uuid = Select::parse("GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
    /// assert_eq!(uuid, Select::Uuid([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]));
    /// ```
    pub fn parse(text: &str) -> Select {
        if let Ok(ordinal) = text.parse() {
            return Select::Ordinal(ordinal);
        }
        let bare = ["GPU-", "MIG-"].iter().find_map(|prefix| text.strip_prefix(prefix));
        let digits: String = bare.unwrap_or(text).chars().filter(|c| *c != '-').collect();
        match u128::from_str_radix(&digits, 16) {
            Ok(uuid) if digits.len() == 32 => Select::Uuid(uuid.to_be_bytes()),
            _ => Select::Name(text.to_owned()),
        }
    }

    /// Ordinal of the device that is meant.
    pub(crate) fn pick(&self, devices: &[DeviceInfo]) -> Result<usize, CudaError> {
        let found = match self {
            Select::Ordinal(ordinal) => devices.iter().find(|device| device.ordinal == *ordinal),
            Select::Name(name) => {
                let name = name.to_lowercase();
                devices.iter().find(|device| device.name.to_lowercase().contains(&name))
            }
            Select::Uuid(uuid) => devices.iter().find(|device| device.uuid == *uuid),
        };
        found.map(|device| device.ordinal).ok_or_else(|| CudaError::NoDevice {
            wanted: self.to_string(),
            found: devices.iter().map(|device| device.name.clone()).collect(),
        })
    }
}

impl Default for Select {
    /// The first.
    fn default() -> Self {
        Select::Ordinal(0)
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Select::Ordinal(ordinal) => write!(f, "with ordinal {ordinal}"),
            Select::Name(name) => write!(f, "whose name contains `{name}`"),
            Select::Uuid(uuid) => {
                f.write_str("with UUID ")?;
                uuid.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// Every device, in the driver's order.
///
/// # Errors
/// No library, no driver, or it refuses.
pub(crate) fn list() -> Result<Vec<DeviceInfo>, CudaError> {
    driver::init()?;
    let count = device::get_count().map_err(of("cuDeviceGetCount"))?;
    (0..count).map(describe).collect()
}

/// What the driver says about the device at a place of its list. Call after [`driver::init`].
pub(crate) fn describe(ordinal: i32) -> Result<DeviceInfo, CudaError> {
    let at = device::get(ordinal).map_err(of("cuDeviceGet"))?;
    let ask = |attribute| {
        // SAFETY: the device is one the driver named.
        unsafe { device::get_attribute(at, attribute) }.map_err(of("cuDeviceGetAttribute"))
    };
    use sys::CUdevice_attribute as A;
    let major = ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let pages = ask(A::CU_DEVICE_ATTRIBUTE_VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED)?;
    let uuid = uuid(at)?;
    // SAFETY: as above.
    let memory = unsafe { device::total_mem(at) }.map_err(of("cuDeviceTotalMem"))?;
    Ok(DeviceInfo {
        ordinal: ordinal.unsigned_abs() as usize,
        name: device::get_name(at).map_err(of("cuDeviceGetName"))?,
        uuid,
        memory: memory as u64,
        capability: (major.unsigned_abs(), minor.unsigned_abs()),
        virtual_memory: pages != 0,
    })
}

/// By the newer function where the driver has it: that one tells the parts of a device (MIG) apart. Zeros where it has
/// neither.
fn uuid(at: sys::CUdevice) -> Result<[u8; 16], CudaError> {
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    let [newer, older] = driver::UUID.map(driver::has);
    let (call, code) = match (newer, older) {
        // SAFETY: the function exists, the device is one the driver named, and the other points to a value of ours.
        (true, _) => ("cuDeviceGetUuid_v2", unsafe { sys::cuDeviceGetUuid_v2(&raw mut uuid, at) }),
        // SAFETY: as above.
        (_, true) => ("cuDeviceGetUuid", unsafe { sys::cuDeviceGetUuid(&raw mut uuid, at) }),
        (false, false) => return Ok([0; 16]),
    };
    match code {
        sys::CUresult::CUDA_SUCCESS => Ok(uuid.bytes.map(|byte| byte.to_ne_bytes()[0])),
        code => Err(CudaError::of(call, code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(ordinal: usize, name: &str) -> DeviceInfo {
        let uuid = [ordinal as u8; 16];
        DeviceInfo { ordinal, name: name.into(), uuid, memory: 1, capability: (9, 0), virtual_memory: true }
    }

    #[test]
    fn a_device_is_found_by_what_names_it() {
        let devices = [device(0, "NVIDIA H200"), device(1, "NVIDIA A10G")];
        let pick = |text| Select::parse(text).pick(&devices);
        assert_eq!(pick("1").unwrap(), 1);
        assert_eq!(pick("a10").unwrap(), 1);
        assert_eq!(pick("nvidia").unwrap(), 0);
        assert_eq!(pick("GPU-01010101-0101-0101-0101-010101010101").unwrap(), 1);
        assert_eq!(pick("MIG-00000000-0000-0000-0000-000000000000").unwrap(), 0);
        assert_eq!(Select::default().pick(&devices).unwrap(), 0);
        let none = pick("7").unwrap_err().to_string();
        assert_eq!(none, "no CUDA device with ordinal 7; there are 0: NVIDIA H200, 1: NVIDIA A10G");
        assert!(Select::default().pick(&[]).unwrap_err().to_string().ends_with("there is none"));
    }
}
