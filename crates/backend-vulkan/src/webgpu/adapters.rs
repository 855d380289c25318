//! wgpu's adapters on this machine: listing and choosing.

use super::WgpuError;
use super::native::ready;
use std::fmt;
use std::sync::OnceLock;

/// An adapter of this machine, as wgpu describes it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WgpuAdapter {
    /// Its place in the list, from 0: of the backends asked for, in wgpu's order.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What kind of hardware it is.
    pub kind: wgpu::DeviceType,
    /// The backend of wgpu that drives it. One piece of hardware can be in the list once for each.
    pub backend: wgpu::Backend,
    /// Name and version of the driver.
    pub driver: String,
    /// Bytes of the largest buffer it makes, so of the largest arena.
    pub max_buffer_size: u64,
}

/// Which adapter to open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WgpuSelect {
    /// The first of the best kind there is: discrete, integrated, virtual, software.
    #[default]
    Best,
    /// The one at this place in the list.
    Index(usize),
    /// The one with this name or, if there is none, the first whose name contains it; upper and lower case are the same.
    Name(String),
}

impl WgpuSelect {
    /// Reads a number as an index, anything else as a name.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| WgpuSelect::Name(text.to_owned()), WgpuSelect::Index)
    }

    /// Place of the adapter that is meant.
    fn pick(&self, adapters: &[(&str, wgpu::DeviceType)]) -> Option<usize> {
        let named =
            |fits: &dyn Fn(&str) -> bool| adapters.iter().position(|(name, _)| fits(&name.to_lowercase()));
        match self {
            WgpuSelect::Best => (0..adapters.len()).min_by_key(|&index| (rank(adapters[index].1), index)),
            WgpuSelect::Index(index) => (*index < adapters.len()).then_some(*index),
            WgpuSelect::Name(name) => {
                let name = name.to_lowercase();
                named(&|other| other == name).or_else(|| named(&|other| other.contains(&name)))
            }
        }
    }
}

impl fmt::Display for WgpuSelect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WgpuSelect::Best => f.write_str("of any kind"),
            WgpuSelect::Index(index) => write!(f, "with index {index}"),
            WgpuSelect::Name(name) => write!(f, "whose name contains `{name}`"),
        }
    }
}

/// The adapters that wgpu finds on `backends`; none, if no driver is installed.
///
/// ```
/// for adapter in backend_vulkan::wgpu_adapters(backend_vulkan::wgpu::Backends::all()) {
///     println!("{}: {} ({:?}, {})", adapter.index, adapter.name, adapter.kind, adapter.backend);
/// }
/// ```
pub fn wgpu_adapters(backends: wgpu::Backends) -> Vec<WgpuAdapter> {
    enumerate(backends, wgpu::InstanceFlags::empty().with_env())
        .iter()
        .enumerate()
        .map(|(index, adapter)| {
            let info = adapter.get_info();
            WgpuAdapter {
                index,
                name: info.name,
                kind: info.device_type,
                backend: info.backend,
                driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
                max_buffer_size: adapter.limits().max_buffer_size,
            }
        })
        .collect()
}

/// A device on the adapter that `select` means, with all the adapter's limits.
pub(super) fn open(
    select: &WgpuSelect,
    backends: wgpu::Backends,
    flags: wgpu::InstanceFlags,
    features: wgpu::Features,
) -> Result<(wgpu::Device, wgpu::Queue), WgpuError> {
    let adapters = enumerate(backends, flags);
    let infos: Vec<_> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    let kinds: Vec<_> = infos.iter().map(|info| (info.name.as_str(), info.device_type)).collect();
    let Some(index) = select.pick(&kinds) else {
        return Err(WgpuError::NoAdapter {
            wanted: select.to_string(),
            backends: looked_at(backends),
            found: infos.into_iter().map(|info| info.name).collect(),
        });
    };
    let adapter = &adapters[index];
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("swap-tensor"),
        required_features: features,
        // The defaults stop at 256 MiB for a buffer, which is no arena.
        required_limits: adapter.limits(),
        // One arena has an allocation of its own whatever the hint; what else is made here is small, and blocks of
        // 128 MiB for it would be memory the arena cannot have.
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    ready(adapter.request_device(&descriptor))
        .map_err(|source| WgpuError::NoDevice { adapter: infos[index].name.clone(), source })
}

fn enumerate(backends: wgpu::Backends, flags: wgpu::InstanceFlags) -> Vec<wgpu::Adapter> {
    // wgpu panics when asked for an instance without any backend.
    if wgpu::Instance::enabled_backend_features().is_empty() {
        return Vec::new();
    }
    let compiled = wgpu::Instance::enabled_backend_features() & backends;
    if compiled.contains(wgpu::Backends::VULKAN) {
        // Also where it is another instance that is asked: the drivers stay loaded.
        let kept = kept();
        if flags.is_empty() && compiled == wgpu::Backends::VULKAN {
            let adapters = ready(kept.enumerate_adapters(wgpu::Backends::VULKAN));
            // If there was no driver then, one may have been installed since.
            if !adapters.is_empty() {
                return adapters;
            }
        }
    }
    ready(instance(backends, flags).enumerate_adapters(backends))
}

/// An instance over Vulkan that is never dropped, so that its drivers stay loaded: one that is loaded and unloaded time and
/// again runs out of thread-local storage (NVIDIA's 580, after some thirty devices, one after the other).
fn kept() -> &'static wgpu::Instance {
    static KEPT: OnceLock<wgpu::Instance> = OnceLock::new();
    KEPT.get_or_init(|| instance(wgpu::Backends::VULKAN, wgpu::InstanceFlags::empty()))
}

fn instance(backends: wgpu::Backends, flags: wgpu::InstanceFlags) -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        flags,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
}

/// The backends that were looked at, in words.
fn looked_at(backends: wgpu::Backends) -> String {
    let compiled = wgpu::Instance::enabled_backend_features() & backends;
    let names: Vec<_> = compiled.iter_names().map(|(name, _)| name.to_lowercase()).collect();
    if names.is_empty() {
        "no backend (none of those asked for is compiled in)".to_owned()
    } else {
        names.join(", ")
    }
}

/// The best kind first.
fn rank(kind: wgpu::DeviceType) -> u8 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Cpu => 3,
        wgpu::DeviceType::Other => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::DeviceType::{Cpu, DiscreteGpu, IntegratedGpu};

    #[test]
    fn the_best_adapter_is_discrete_and_others_are_asked_for() {
        let all = [
            ("llvmpipe", Cpu),
            ("Some iGPU", IntegratedGpu),
            ("Some GPU XT", DiscreteGpu),
            ("Some GPU", DiscreteGpu),
        ];
        let pick = |text: &str| WgpuSelect::parse(text).pick(&all);
        assert_eq!(WgpuSelect::Best.pick(&all), Some(2));
        assert_eq!(pick("1"), Some(1));
        assert_eq!(pick("LLVM"), Some(0));
        assert_eq!(pick("some gpu"), Some(3), "the whole name before a part of one");
        assert_eq!(pick("gpu x"), Some(2));
        assert_eq!((pick("4"), pick("nonesuch"), WgpuSelect::Best.pick(&[])), (None, None, None));
    }

    #[test]
    fn what_was_looked_for_is_named() {
        let error = open(
            &WgpuSelect::Index(99),
            wgpu::Backends::all(),
            wgpu::InstanceFlags::empty(),
            wgpu::Features::empty(),
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains("no wgpu adapter with index 99 on"), "{error}");
        let error = looked_at(wgpu::Backends::empty());
        assert!(error.contains("none of those asked for"), "{error}");
    }
}
