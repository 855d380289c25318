//! What is in each bundle.

use super::trial::{self, Trial};

/// A folder of programs and scripts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bundle {
    /// As it is asked for, and the folder's own name.
    pub(super) name: &'static str,
    /// Whose programs they are.
    pub(super) packages: &'static [&'static str],
    /// Each as `package/feature`.
    pub(super) features: &'static [&'static str],
    pub(super) programs: &'static [Program],
    /// Names and texts. `run.sh` is what is to be run, and it sources `common.sh`.
    pub(super) scripts: &'static [(&'static str, &'static str)],
    /// How it runs where there is no GPU.
    pub(super) trial: Trial,
}

/// A program of a folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// In the folder.
    pub(super) name: &'static str,
    /// How cargo is asked for it.
    pub(super) kind: &'static str,
    pub(super) target: &'static str,
    pub(super) source: &'static str,
}

const fn test(name: &'static str, target: &'static str, source: &'static str) -> Program {
    Program { name, kind: "--test", target, source }
}

const fn example(name: &'static str, source: &'static str) -> Program {
    Program { name, kind: "--example", target: name, source }
}

pub(super) const BUNDLES: [&Bundle; 2] = [&CUDA, &VULKAN];

pub(super) static CUDA: Bundle = Bundle {
    name: "cuda",
    packages: &["backend-cuda", "swap-tensor", "swap-tensor-cli", "swap-models"],
    // The suites for the machine's own driver, and the backend in the command.
    features: &[
        "backend-cuda/gpu-tests",
        "swap-tensor/cuda",
        "swap-tensor/conformance",
        "swap-tensor/gpu-tests",
        "swap-tensor-cli/cuda",
        "swap-models/gpu-tests",
    ],
    programs: &[
        test("conformance", "conformance", "crates/backend-cuda/tests/conformance.rs"),
        test("cuda_device", "cuda_device", "crates/backend-cuda/tests/cuda_device.rs"),
        test("many_copies", "many_copies", "crates/backend-cuda/tests/many_copies.rs"),
        test("allocation_free", "allocation_free", "crates/backend-cuda/tests/allocation_free.rs"),
        test("swap_conformance", "cuda_conformance", "crates/swap-tensor/tests/cuda_conformance.rs"),
        test("models_conformance", "cuda_conformance", "crates/models/tests/cuda_conformance.rs"),
        example("kernel_on_view", "crates/backend-cuda/examples/kernel_on_view.rs"),
        example("gpu_rates", "crates/backend-cuda/examples/gpu_rates/main.rs"),
        COMPUTE_ON_VIEW,
        COPY_RATE,
        COMMAND,
    ],
    scripts: &[
        ("run.sh", include_str!("../../bundle/cuda.sh")),
        COMMON,
        ("torch_rates.py", include_str!("../../bundle/torch_rates.py")),
    ],
    trial: trial::SIMULATED,
};

static VULKAN: Bundle = Bundle {
    name: "vulkan",
    packages: &["backend-vulkan", "swap-tensor", "swap-tensor-cli", "swap-models"],
    features: &[
        "backend-vulkan/vulkan",
        "backend-vulkan/wgpu",
        "swap-tensor/vulkan",
        "swap-tensor/wgpu",
        "swap-tensor/conformance",
        "swap-tensor-cli/vulkan",
        "swap-tensor-cli/wgpu",
        "swap-models/vulkan",
        "swap-models/wgpu",
    ],
    programs: &[
        test("conformance", "conformance", "crates/backend-vulkan/tests/conformance.rs"),
        test("vulkan", "vulkan", "crates/backend-vulkan/tests/vulkan.rs"),
        test("wgpu_conformance", "wgpu_conformance", "crates/backend-vulkan/tests/wgpu_conformance.rs"),
        test("wgpu_device", "wgpu_device", "crates/backend-vulkan/tests/wgpu_device.rs"),
        test("wgpu_memory", "wgpu_memory", "crates/backend-vulkan/tests/wgpu_memory.rs"),
        test("swap_conformance", "conformance", "crates/swap-tensor/tests/conformance.rs"),
        test("models_conformance", "conformance", "crates/models/tests/conformance.rs"),
        example("compaction_rate", "crates/backend-vulkan/examples/compaction_rate.rs"),
        example("wgpu_copy_rate", "crates/backend-vulkan/examples/wgpu_copy_rate.rs"),
        COMPUTE_ON_VIEW,
        COPY_RATE,
        COMMAND,
    ],
    scripts: &[("run.sh", include_str!("../../bundle/vulkan.sh")), COMMON],
    trial: trial::SOFTWARE,
};

const COMPUTE_ON_VIEW: Program =
    example("compute_on_view", "crates/swap-tensor/examples/compute_on_view/main.rs");
const COPY_RATE: Program = example("copy_rate", "crates/swap-tensor/examples/copy_rate.rs");
const COMMAND: Program =
    Program { name: "swap-tensor", kind: "--bin", target: "swap-tensor", source: "crates/cli/src/main.rs" };
const COMMON: (&str, &str) = ("common.sh", include_str!("../../bundle/common.sh"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;
    use std::collections::BTreeSet;

    #[test]
    fn every_program_has_its_source_and_its_place_in_the_script() {
        for bundle in BUNDLES {
            let (_, script) = bundle.scripts.iter().find(|(name, _)| *name == "run.sh").unwrap();
            assert!(script.contains(". \"$here/common.sh\"") && bundle.scripts.contains(&COMMON));
            let text = format!("{script}{}", COMMON.1);
            for program in bundle.programs {
                assert!(workspace::root().join(program.source).is_file(), "{}", program.source);
                let named = |line: &str| line.split([' ', '/', '"', ';']).any(|word| word == program.name);
                assert!(text.lines().any(named), "{}: {}", bundle.name, program.name);
            }
        }
    }

    #[test]
    fn files_of_a_folder_have_different_names() {
        for bundle in BUNDLES {
            let names = bundle.programs.iter().map(|program| program.name);
            let names: Vec<_> = names.chain(bundle.scripts.iter().map(|(name, _)| *name)).collect();
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{}", bundle.name);
        }
    }

    #[test]
    fn features_are_of_packages_that_are_built() {
        for bundle in BUNDLES {
            for feature in bundle.features {
                let package = feature.split('/').next().unwrap();
                assert!(bundle.packages.contains(&package), "{}: {feature}", bundle.name);
            }
        }
    }
}
