//! Runs a bundle where there is no GPU, and sees that its results say so.

use super::entries;
use crate::artifacts::Artifacts;
use crate::{process, setup};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What stands in for a GPU, and what results on it look like.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trial {
    driver: Driver,
    /// The one file that `run.sh` writes.
    results: &'static str,
    /// What they have, among other things.
    needed: &'static [&'static str],
    /// How results call a GPU; here the mark below follows at once.
    claims: &'static [&'static str],
    mark: &'static str,
}

#[derive(Debug, PartialEq, Eq)]
enum Driver {
    /// The simulated CUDA driver, which cargo builds beside the tests.
    CudaSim,
    /// Mesa's Vulkan driver for the host's processor.
    Software,
}

/// Runs the folder `out` as on a machine with a GPU and without Rust, and checks that it calls itself what it is.
pub(super) fn run(trial: &Trial, out: &Path, artifacts: &Artifacts) -> Result<(), String> {
    let out = fs::canonicalize(out).map_err(cannot)?;
    let place = std::env::temp_dir().join(format!("swap-tensor-bundle-{}", std::process::id()));
    let outcome = run_in(trial, &out, artifacts, &place);
    let _ = fs::remove_dir_all(&place);
    outcome
}

fn run_in(trial: &Trial, out: &Path, artifacts: &Artifacts, place: &Path) -> Result<(), String> {
    let results = place.join("results");
    fs::create_dir_all(&results).map_err(cannot)?;
    let mut command = Command::new(out.join("run.sh"));
    command.current_dir(&results).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command.env("BUNDLE_QUICK", "1");
    match trial.driver {
        Driver::CudaSim => simulated(&mut command, &place.join("driver"), artifacts)?,
        Driver::Software => software(&mut command)?,
    }
    println!("$ {}", process::line(&command));
    let passed = process::lines(&mut command, |line| println!("{line}"));
    if !passed.map_err(cannot)? {
        return Err("run.sh failed where there is no GPU".to_owned());
    }
    let written: Vec<String> = entries(&results)?.into_iter().map(|(name, _)| name).collect();
    if written != [trial.results] {
        return Err(format!("it wrote {written:?}, and not {} alone", trial.results));
    }
    let text = fs::read_to_string(results.join(trial.results)).map_err(cannot)?;
    trial.misnamed(&text).map_or(Ok(()), Err)
}

fn simulated(command: &mut Command, driver: &Path, artifacts: &Artifacts) -> Result<(), String> {
    fs::create_dir_all(driver).map_err(cannot)?;
    // The machine's own driver, if there is one, is looked for under the first name before ours is under the second.
    for name in ["libcuda.so", "libcuda.so.1"] {
        fs::copy(artifacts.library(SIMULATOR)?, driver.join(name)).map_err(cannot)?;
    }
    // One promise leaves a ticket behind on purpose, which programs for a GPU do not announce to a simulator.
    command.env("LD_LIBRARY_PATH", driver).env("CUDA_SIM_ON_LEAK", "ignore");
    Ok(())
}

/// By its manifest, so that no GPU of this machine is in the way; under two names, as loaders of other ages ask for it.
fn software(command: &mut Command) -> Result<(), String> {
    let hint = "to have it: cargo xtask setup vulkan";
    if let Some(why) = setup::vulkan_absent() {
        return Err(format!("cannot try it: {why}; {hint}"));
    }
    let driver: PathBuf = setup::software_driver()
        .ok_or_else(|| format!("cannot try it: no software driver for Vulkan; {hint}"))?;
    command.env("VK_DRIVER_FILES", &driver).env("VK_ICD_FILENAMES", &driver);
    Ok(())
}

fn cannot(why: std::io::Error) -> String {
    format!("cannot try it: {why}")
}

impl Trial {
    /// Why results could be taken for a GPU's, or lack something.
    fn misnamed(&self, results: &str) -> Option<String> {
        if let Some(needed) = self.needed.iter().find(|needed| !results.contains(**needed)) {
            return Some(format!("its results lack `{needed}`"));
        }
        let line = results.lines().find(|line| {
            self.claims.iter().any(|claim| {
                line.match_indices(claim).any(|(at, _)| !line[at + claim.len()..].starts_with(self.mark))
            })
        });
        line.map(|line| format!("its results call what is none a GPU: {line}"))
    }
}

pub(super) const SIMULATED: Trial = Trial {
    driver: Driver::CudaSim,
    results: "results-cuda-sim.md",
    needed: &[
        "# cuda-sim: a simulated driver in host memory, and no GPU",
        "| suite | cuda-sim: passed | failed | cannot be tried here |",
        "| swap_virtual_memory |",
        "are right",
        "told on cuda-sim",
        "device      cuda-sim,",
        "mismatches  0",
        "- backend: cuda-sim",
        "| up 32 KiB deep |",
        "backend cuda-sim",
        "Everything that must be right on cuda-sim was.",
    ],
    claims: &["backend cuda", "backend: cuda", "device      cuda", "--backend cuda", "| suite | cuda"],
    mark: "-sim",
};

pub(super) const SOFTWARE: Trial = Trial {
    driver: Driver::Software,
    results: "results-software.md",
    needed: &[
        "# vulkan-software and wgpu-software: a driver in software on the host's processor, and no GPU",
        "- device: llvmpipe",
        "- through wgpu: llvmpipe",
        "- validation layer: on",
        "| suite | vulkan-software and wgpu-software: passed | failed | cannot be tried here |",
        "| vulkan::remap |",
        "| vulkan_adopted::queue |",
        "| wgpu_staged::arena |",
        "| wgpu_memory |",
        "| vulkan::swap |",
        "| wgpu::swap |",
        "| vulkan::models |",
        "| wgpu::models |",
        "told on vulkan-software",
        "told on wgpu-software",
        "device      vulkan-software,",
        "device      wgpu-software,",
        "mismatches  0",
        "ours/raw",
        "/ plain",
        "backend vulkan-software",
        "backend wgpu-software",
        "Everything that must be right on vulkan-software and wgpu-software was.",
    ],
    claims: &[
        "backend vulkan",
        "backend wgpu",
        "device      vulkan",
        "device      wgpu",
        "told on vulkan",
        "told on wgpu",
        "right on vulkan",
        "| suite | vulkan",
    ],
    mark: "-software",
};

/// Built beside the tests, and no part of a folder.
const SIMULATOR: &str = "crates/driver-sim/src/lib.rs";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_without_a_gpu_do_not_pass_for_a_gpus() {
        for (trial, claim) in [(&SIMULATED, "backend cuda"), (&SOFTWARE, "backend wgpu")] {
            let good = trial.needed.join("\n");
            assert_eq!(trial.misnamed(&good), None);
            let claimed = trial.misnamed(&format!("{good}\n{claim}\n")).unwrap();
            assert!(claimed.ends_with(&format!("a GPU: {claim}")), "{claimed}");
            let wrong = trial.misnamed(&good.replace("mismatches  0", "mismatches  1")).unwrap();
            assert!(wrong.contains("lack `mismatches  0`"), "{wrong}");
        }
    }

    #[test]
    fn scripts_call_software_what_it_is() {
        let script = include_str!("../../bundle/vulkan.sh");
        assert!(script.contains(&SOFTWARE.needed[0][2..]), "the title");
        assert!(script.contains(&format!("kind={}", SOFTWARE.mark)));
        let script = include_str!("../../bundle/cuda.sh");
        assert!(script.contains(&SIMULATED.needed[0][2..]), "the title");
    }
}
