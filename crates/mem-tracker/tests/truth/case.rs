//! A recorded case: events, PyTorch's results, the tables PyTorch prints of them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::Value;

/// One recorded run.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) events: Vec<Value>,
    pub(crate) truth: Value,
    /// Sections that begin with a line `##### …`.
    pub(crate) tables: String,
}

impl Case {
    /// Bytes that storages are rounded to.
    pub(crate) fn rounding(&self) -> u64 {
        if self.truth["round512"].as_bool().unwrap() { 512 } else { 1 }
    }

    /// A section of the tables, without its first line.
    pub(crate) fn table(&self, title: &str) -> &str {
        section(&self.tables, title)
    }
}

/// What follows a line `##### title`, up to the next such line.
pub(crate) fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let head = format!("##### {title}\n");
    let (_, after) = text.split_once(&head).unwrap_or_else(|| panic!("no section `{title}`"));
    after.split_once("##### ").map_or(after, |(section, _)| section)
}

/// Every case there is.
pub(crate) fn all() -> Vec<Case> {
    let mut names: Vec<String> = std::fs::read_dir(data())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".json.gz").map(str::to_owned))
        .collect();
    names.sort();
    assert_eq!(names.len(), 13, "{names:?}");
    names.iter().map(|name| case(name)).collect()
}

pub(crate) fn case(name: &str) -> Case {
    let events = unpack(&format!("{name}.events.jsonl.gz"));
    Case {
        name: name.to_owned(),
        events: events.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        truth: serde_json::from_str(&unpack(&format!("{name}.json.gz"))).unwrap(),
        tables: unpack(&format!("{name}.tables.txt.gz")),
    }
}

pub(crate) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn unpack(file: &str) -> String {
    let mut text = String::new();
    GzDecoder::new(File::open(data().join(file)).unwrap()).read_to_string(&mut text).unwrap();
    text
}
