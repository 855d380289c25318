//! What the workspace is made of, read from its manifests.

use std::collections::{BTreeMap, BTreeSet};
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

/// Which packages to check with one feature and no other, by feature: all that have it, but those for which that is the
/// default or all there is. A feature of a package turns on the same one in packages below and no other, so packages may be
/// checked together.
pub(crate) fn by_feature(packages: &[Package]) -> BTreeMap<&str, Vec<&str>> {
    let mut by_feature: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        for feature in &package.features {
            let alone = BTreeSet::from([feature.clone()]);
            if alone != package.default && alone != package.features {
                by_feature.entry(feature).or_default().push(&package.name);
            }
        }
    }
    by_feature
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
    fn features_are_checked_alone_where_no_other_check_has_them_so() {
        let package = |name: &str, features: &[&str], default: &[&str]| {
            let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            Package { name: name.into(), bins: Vec::new(), features: set(features), default: set(default) }
        };
        let packages =
            [package("p", &["a", "b"], &["a"]), package("q", &["b", "c"], &[]), package("r", &["c"], &[])];
        let found = by_feature(&packages);
        assert_eq!(found, BTreeMap::from([("b", vec!["p", "q"]), ("c", vec!["q"])]));
    }

    /// What `by_feature` rests on.
    #[test]
    fn a_feature_turns_on_its_like_below_and_no_other() {
        let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
        let mut seen = 0;
        for dir in members(&manifest) {
            let text = fs::read_to_string(root().join(&dir).join("Cargo.toml")).unwrap();
            let (_, features) = text.split_once("[features]\n").unwrap_or_default();
            let lines = features.lines().take_while(|line| !line.starts_with('['));
            for (feature, on) in
                lines.filter_map(|line| line.split_once(" = ")).filter(|(key, _)| *key != "default")
            {
                for on in quoted(on) {
                    seen += 1;
                    assert!(
                        on.starts_with("dep:") || on.ends_with(&format!("/{feature}")),
                        "{dir}: {feature} turns on {on}"
                    );
                }
            }
        }
        assert!(seen > 5);
    }
}
