//! Training steps recorded as accesses, as a list of what a program does with its tensors.

use flate2::read::GzDecoder;
use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Error, ErrorKind},
    path::{Path, PathBuf},
};
use swap_tensor::policy::Use;

/// One thing a program does with tensor number `tensor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Create { tensor: usize },
    Lease { tensor: usize, how: Use },
    Drop { tensor: usize },
}

/// Which leases write. A trace does not say; what is known is that the first use of a new tensor makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// Those of kernels whose name ends in `_`, which work in place, on every operand.
    InPlace,
    /// None but the first.
    First,
    /// All.
    All,
}

/// A file: a program's start and a few training steps, here one step that can be repeated.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) name: String,
    /// Sizes by number.
    pub(crate) bytes: Vec<u64>,
    /// The first time.
    pub(crate) first: Vec<Op>,
    /// Every further time: what lives on is not created again.
    pub(crate) again: Vec<Op>,
    /// The most bytes alive at a time.
    pub(crate) peak: u64,
}

impl Trace {
    /// Half of what would be needed to swap nothing, and room for each tensor alone.
    pub(crate) fn device_bytes(&self) -> u64 {
        (self.peak / 2).max(self.bytes.iter().copied().max().unwrap_or(0))
    }

    /// Reads a file of `op,id,bytes,category,kernel,step`.
    ///
    /// Tensors that are never freed live on from step to step, and so do parameters, optimizer states and
    /// buffers that are freed after the last use of any tensor: that is the program's end.
    pub(crate) fn read(path: &Path, writes: Writes) -> Result<Trace, Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().replace("_fake.csv.gz", "");
        let lines: Vec<String> =
            BufReader::new(GzDecoder::new(File::open(path)?)).lines().collect::<Result<_, _>>()?;
        let end = lines.iter().rposition(|line| line.starts_with("use,")).unwrap_or(0);
        let mut trace = Trace { name, bytes: Vec::new(), first: Vec::new(), again: Vec::new(), peak: 0 };
        let (mut numbers, mut drops, mut fresh, mut alive) = (HashMap::new(), Vec::new(), Vec::new(), 0);
        for (at, line) in lines.iter().enumerate().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            let [op, id, bytes, category, kernel, _] = fields[..] else { return Err(bad(line)) };
            let bytes: u64 = bytes.parse().map_err(|_| bad(line))?;
            let next = trace.bytes.len();
            let tensor = *numbers.entry(id.to_owned()).or_insert(next);
            if tensor == next {
                trace.bytes.push(bytes);
                drops.push(false);
                fresh.push(true);
            }
            let stays = at > end && matches!(category, "Parameter" | "Optstate" | "Buffer");
            match op {
                "alloc" => {
                    trace.first.push(Op::Create { tensor });
                    alive += bytes;
                    trace.peak = trace.peak.max(alive);
                }
                "free" if stays => {}
                "free" => {
                    trace.first.push(Op::Drop { tensor });
                    drops[tensor] = true;
                    alive -= bytes;
                }
                "use" => {
                    let makes = core::mem::take(&mut fresh[tensor]);
                    trace.first.push(Op::Lease { tensor, how: how(makes, kernel, writes) });
                }
                _ => return Err(bad(line)),
            }
        }
        let recurs = |op: &&Op| !matches!(op, Op::Create { tensor } if !drops[*tensor]);
        trace.again = trace.first.iter().filter(recurs).copied().collect();
        Ok(trace)
    }
}

/// What a lease of `kernel` is for. An initialisation overwrites in every step.
fn how(makes: bool, kernel: &str, writes: Writes) -> Use {
    const INITIALISE: [&str; 4] = ["aten.normal_", "aten.uniform_", "aten.fill_", "aten.zero_"];
    let base = kernel.rsplit_once('.').map_or(kernel, |(base, _)| base);
    match writes {
        _ if makes => Use::Overwrite,
        Writes::InPlace if INITIALISE.contains(&base) => Use::Overwrite,
        Writes::InPlace if base.ends_with('_') => Use::Write,
        Writes::InPlace | Writes::First => Use::Read,
        Writes::All => Use::Write,
    }
}

/// The files there are, by name; none if the folder is not there.
pub(crate) fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/access");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "gz"))
        .collect();
    files.sort();
    files
}

fn bad(line: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("not a row of an access trace: {line:?}"))
}
