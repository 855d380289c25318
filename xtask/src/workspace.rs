//! What the workspace is made of, read from its manifests.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A member of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    /// Its programs, where the manifest names them.
    pub(crate) bins: Vec<String>,
    /// All features but `default`.
    pub(crate) features: BTreeSet<String>,
    /// What `default` turns on.
    pub(crate) default: BTreeSet<String>,
}

/// The workspace's root directory.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Every member, in the manifest's order.
pub(crate) fn packages() -> io::Result<Vec<Package>> {
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    members(&manifest)
        .iter()
        .map(|dir| Ok(package(&fs::read_to_string(root().join(dir).join("Cargo.toml"))?)))
        .collect()
}

/// Files under version control, and new ones not ignored, relative to the root. Without git: none, which is an error.
pub(crate) fn files() -> io::Result<Vec<PathBuf>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()?;
    let names = String::from_utf8_lossy(&listed.stdout);
    let files: Vec<PathBuf> = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    if files.is_empty() {
        return Err(io::Error::other(
            "`git ls-files` lists nothing: the repository rules need a git checkout",
        ));
    }
    Ok(files.into_iter().filter(|file| root().join(file).is_file()).collect())
}

/// Sets of features worth checking apart: the default, none, each alone, all. Equal ones appear once.
pub(crate) fn feature_sets(package: &Package) -> Vec<BTreeSet<String>> {
    let mut sets = vec![package.default.clone(), BTreeSet::new()];
    sets.extend(package.features.iter().map(|feature| BTreeSet::from([feature.clone()])));
    sets.push(package.features.clone());
    let mut seen = BTreeSet::new();
    sets.retain(|set| seen.insert(set.clone()));
    sets
}

fn members(manifest: &str) -> Vec<String> {
    let after = manifest.split_once("members = [").map_or("", |(_, after)| after);
    let list = after.split_once(']').map_or("", |(list, _)| list);
    quoted(list)
}

/// Reads what is needed of a manifest of this workspace: keys at the start of a line, a feature per line.
fn package(manifest: &str) -> Package {
    let mut package = Package {
        name: String::new(),
        bins: Vec::new(),
        features: BTreeSet::new(),
        default: BTreeSet::new(),
    };
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value)) else {
            continue;
        };
        match section {
            "[package]" if key == "name" => package.name = quoted(value).concat(),
            "[[bin]]" if key == "name" => package.bins.push(quoted(value).concat()),
            "[features]" if key == "default" => package.default = quoted(value).into_iter().collect(),
            "[features]" if !key.starts_with('#') => {
                package.features.insert(key.to_owned());
            }
            _ => {}
        }
    }
    package
}

fn quoted(text: &str) -> Vec<String> {
    text.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_this_workspace_are_understood() {
        let packages = packages().unwrap();
        let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        assert!(names.contains(&"allocator-core") && names.contains(&"xtask"), "{names:?}");
        let core = packages.iter().find(|package| package.name == "allocator-core").unwrap();
        assert!(core.features.contains("conformance") && core.default.is_empty());
        let cli = packages.iter().find(|package| package.name == "swap-tensor-cli").unwrap();
        assert_eq!(cli.bins, ["swap-tensor"]);
    }

    #[test]
    fn feature_sets_are_default_none_each_and_all_without_repeats() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let package =
            Package { name: "p".into(), bins: Vec::new(), features: set(&["a", "b"]), default: set(&["a"]) };
        assert_eq!(feature_sets(&package), [set(&["a"]), set(&[]), set(&["b"]), set(&["a", "b"])]);
        let bare = Package { name: "q".into(), bins: Vec::new(), features: set(&[]), default: set(&[]) };
        assert_eq!(feature_sets(&bare), [set(&[])]);
    }
}
