//! The backends the test matrix knows. A new backend is one more row.

use crate::setup;

/// One column of the matrix.
pub(crate) struct Backend {
    /// First segment of its conformance tests' names: `<name>::<suite>::<promise>`, a dash being an underscore there.
    pub(crate) name: &'static str,
    /// Features its tests need, each as `package/feature`.
    pub(crate) features: &'static [&'static str],
    /// Says why the backend cannot run on this machine, if so.
    pub(crate) absent: fn() -> Option<String>,
    /// What would make it present.
    pub(crate) install: &'static str,
}

pub(crate) const BACKENDS: &[Backend] = &[
    Backend {
        name: "cpu",
        features: &[],
        absent: needs_unix,
        install: "page locking is only implemented on Unix",
    },
    // Host memory from the global allocator and virtual queues: nothing a machine could lack.
    Backend { name: "sim", features: &[], absent: || None, install: "nothing to install" },
    Backend {
        name: "vulkan",
        features: &[
            "backend-vulkan/vulkan",
            "swap-tensor/vulkan",
            "swap-tensor-cli/vulkan",
            "swap-models/vulkan",
        ],
        absent: setup::vulkan_absent,
        install: "cargo xtask setup vulkan",
    },
    // The CUDA backend over a stand-in for the driver, which cargo builds beside the tests.
    Backend {
        name: "cuda-sim",
        features: &["swap-tensor/cuda", "swap-tensor-cli/cuda"],
        absent: needs_linux,
        install: "the simulated driver is a shared library for Linux",
    },
    // On Vulkan; its tests on wgpu's own `noop` backend run with them.
    Backend {
        name: "wgpu",
        features: &["backend-vulkan/wgpu", "swap-tensor/wgpu", "swap-tensor-cli/wgpu", "swap-models/wgpu"],
        absent: setup::vulkan_absent,
        install: "cargo xtask setup vulkan",
    },
];

/// The row called `name`.
pub(crate) fn named(name: &str) -> Option<&'static Backend> {
    BACKENDS.iter().find(|backend| backend.name == name)
}

fn needs_linux() -> Option<String> {
    (!cfg!(target_os = "linux")).then(|| format!("no simulated driver on {}", std::env::consts::OS))
}

fn needs_unix() -> Option<String> {
    (!cfg!(unix)).then(|| format!("no page locking on {}", std::env::consts::OS))
}
