//! `cargo xtask setup`: installs what the tests of a backend need and cargo cannot fetch.

use crate::process::{passes, program, quietly};
use std::fs;
use std::path::{Path, PathBuf};

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options(());

impl Options {
    pub(crate) const VULKAN: Options = Options(());

    pub(crate) fn parse(args: &[String]) -> Result<Options, String> {
        match args {
            [what] if what == "vulkan" => Ok(Options::VULKAN),
            [] => Err("setup: which? `vulkan` is what there is".to_owned()),
            [what, ..] => Err(format!("setup: unknown argument `{what}`; `vulkan` is what there is")),
        }
    }
}

/// Installs Mesa's software Vulkan driver and the validation layer; whether they are there in the end.
pub(crate) fn run(_: &Options) -> bool {
    let missing = missing();
    if missing.is_empty() {
        println!("Vulkan: loader, driver and validation layer are there");
        return true;
    }
    println!("Vulkan: to install: {}", missing.join(", "));
    if !quietly(&mut program("apt-get", &["--version"])) {
        println!("this system has no apt-get; install by its own means:\n{OTHERS}");
        return false;
    }
    let done = install();
    if done && self::missing().is_empty() {
        return true;
    }
    println!("still missing: {}; see above for what apt-get said\n{OTHERS}", self::missing().join(", "));
    false
}

/// What keeps the Vulkan tests from running here, if anything.
pub(crate) fn vulkan_absent() -> Option<String> {
    // An old driver runs all but sparse buffers, which its tests then say.
    let missing: Vec<&str> = missing().into_iter().filter(|what| *what != NEWER).collect();
    (!missing.is_empty()).then(|| format!("missing: {}", missing.join(", ")))
}

/// The manifest of Mesa's software driver, if it is installed.
pub(crate) fn software_driver() -> Option<PathBuf> {
    let files = ICDS.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    files.map(|file| file.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("lvp_icd.") && name.ends_with(".json")
    })
}

/// Parts that are not installed.
fn missing() -> Vec<&'static str> {
    let any = |dirs: &[&str], wanted: fn(&str) -> bool| {
        let files = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        files.map(|file| file.file_name()).any(|name| wanted(&name.to_string_lossy()))
    };
    let libraries =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/lib64"];
    let mut missing = Vec::new();
    if !any(&libraries, |name| name == "libvulkan.so.1") {
        missing.push("libvulkan1");
    }
    let chosen = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().any(|key| std::env::var_os(key).is_some());
    if !chosen && !any(&ICDS, |name| name.ends_with(".json")) {
        missing.push("mesa-vulkan-drivers");
    } else if mesa().is_some_and(|major| major < MESA) {
        missing.push(NEWER);
    }
    if !any(&LAYERS, |name| name.contains("khronos_validation")) {
        missing.push("vulkan-validationlayers");
    }
    missing
}

/// Major version of Debian's package of Mesa's drivers, if it is installed.
fn mesa() -> Option<u32> {
    let args = ["-W", "-f", "${db:Status-Status} ${Version}", "mesa-vulkan-drivers"];
    let output = program("dpkg-query", &args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.strip_prefix("installed ")?.split('.').next()?.parse().ok()
}

fn install() -> bool {
    let root = program("id", &["-u"]).output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let apt = |args: &[&str]| {
        // Nothing may ask: there is nobody to answer.
        let all = [&["-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"], args].concat();
        passes(&mut if root { program("env", &all[2..]) } else { program("sudo", &all) })
    };
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let bookworm = release.lines().any(|line| line == "VERSION_CODENAME=bookworm");
    if bookworm && !backports(root) {
        println!(
            "bookworm-backports cannot be added; its newer driver has sparse buffers and memory budgets"
        );
        return false;
    }
    let suite: &[&str] = if bookworm { &["-t", "bookworm-backports"] } else { &[] };
    let driver = [&["install", "-y", "--no-install-recommends"], suite, &["mesa-vulkan-drivers"]].concat();
    apt(&["update", "-q"])
        && apt(&driver)
        && apt(&["install", "-y", "--no-install-recommends", "libvulkan1", "vulkan-validationlayers"])
}

/// Adds Debian's backports for bookworm, from the mirror in use, unless they are there; packages come from them only when
/// asked for by name.
fn backports(root: bool) -> bool {
    let policy = program("apt-cache", &["policy"]).output().map(|output| output.stdout).unwrap_or_default();
    let policy = String::from_utf8_lossy(&policy);
    let Some(line) = source(&policy) else { return true };
    let path = "/etc/apt/sources.list.d/bookworm-backports.list";
    println!("adding {path}: {line}");
    if root {
        return fs::write(path, format!("{line}\n")).is_ok();
    }
    passes(&mut program("sudo", &["-n", "sh", "-c", &format!("echo '{line}' > {path}")]))
}

/// The line for the backports, by what `apt-cache policy` says of the main archive; `None`: they are there already, or
/// there is no archive to follow.
fn source(policy: &str) -> Option<String> {
    if policy.contains("bookworm-backports/main") {
        return None;
    }
    let line = policy.lines().find(|line| line.contains(" bookworm/main "))?;
    let mirror = line.split_whitespace().find(|word| word.contains("://"))?;
    let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let signed = if Path::new(key).is_file() { format!("[signed-by={key}] ") } else { String::new() };
    Some(format!("deb {signed}{mirror} bookworm-backports main"))
}

const ICDS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];
const LAYERS: [&str; 3] = [
    "/usr/share/vulkan/explicit_layer.d",
    "/etc/vulkan/explicit_layer.d",
    "/usr/local/share/vulkan/explicit_layer.d",
];
/// From this version on Mesa's software driver has sparse buffers and memory budgets.
const MESA: u32 = 24;
const NEWER: &str = "a newer mesa-vulkan-drivers";
const OTHERS: &str = "\
  Debian, Ubuntu  libvulkan1 mesa-vulkan-drivers vulkan-validationlayers
  Fedora          vulkan-loader mesa-vulkan-drivers vulkan-validation-layers
  Arch            vulkan-icd-loader vulkan-swrast vulkan-validation-layers";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_come_from_the_mirror_in_use() {
        let policy = "Package files:\n 500 http://mirror.example/debian bookworm/main amd64 Packages\n";
        let line = source(policy).unwrap();
        assert!(
            line.starts_with("deb ")
                && line.ends_with("http://mirror.example/debian bookworm-backports main")
        );
        assert_eq!(source(&format!("{policy} 100 http://x bookworm-backports/main amd64 Packages")), None);
        assert_eq!(source("Package files:\n"), None);
    }

    #[test]
    fn there_is_one_thing_to_set_up() {
        assert!(Options::parse(&["vulkan".to_owned()]).is_ok());
        assert!(Options::parse(&[]).unwrap_err().contains("vulkan"));
        assert!(Options::parse(&["tea".to_owned()]).unwrap_err().contains("tea"));
    }
}
