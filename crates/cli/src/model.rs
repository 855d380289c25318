//! The model that `run` uses when it is given none: tensors of GPT-2's, or of a size that is asked for, filled with seeded
//! halves.

use crate::error::CliError;
use crate::pattern::Pattern;
use crate::shapes::Shapes;
use crate::size::Size;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The generated model's path, written now unless it already lies there whole. With a `size`: one of at least as many bytes.
///
/// # Errors
/// No cache directory, or one that cannot be written, or has no room.
pub(crate) fn cached(size: Option<u64>) -> Result<PathBuf, CliError> {
    let dir = cache_dir()?;
    fs::create_dir_all(&dir).map_err(CliError::cache("cannot create the cache directory", &dir))?;
    if let Some(bytes) = size {
        let path = dir.join(Shapes::sized_file(bytes));
        room(&path, bytes).map_err(CliError::cache("cannot write the generated model", &path))?;
    }
    let shapes = size.map_or_else(Shapes::gpt2, |bytes| Ok(Shapes::sized(bytes)));
    let shapes = shapes.map_err(CliError::cache("cannot generate a model for", &dir))?;
    let path = dir.join(&shapes.file);
    if !intact(&path, &shapes) {
        write(&path, &shapes).map_err(CliError::cache("cannot write the generated model", &path))?;
    }
    Ok(path)
}

/// Whether `bytes` can be written where nothing is yet: a full disk would be everybody's. Where that cannot be told, writing
/// will.
fn room(path: &Path, bytes: u64) -> io::Result<()> {
    let Some(dir) = path.parent().filter(|_| !path.exists()) else { return Ok(()) };
    let Ok(system) = rustix::fs::statvfs(dir) else { return Ok(()) };
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    if bytes < free {
        return Ok(());
    }
    let why = format!("{} are free, and {} are needed", Size(free), Size(bytes));
    Err(io::Error::new(io::ErrorKind::StorageFull, why))
}

/// `$XDG_CACHE_HOME/swap-tensor`, or `~/.cache/swap-tensor`. Relative values do not count, as the XDG rules say.
fn cache_dir() -> Result<PathBuf, CliError> {
    let absolute = |key| std::env::var_os(key).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("swap-tensor")).ok_or(CliError::NoCache)
}

/// Writes it beside its place and renames it there, so that nobody ever sees half a model.
fn write(path: &Path, shapes: &Shapes) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    sweep(dir);
    let mut file = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(dir)?;
    let (header, length) = header(shapes)?;
    file.write_all(&header)?;
    let mut chunk = vec![0; CHUNK];
    each_chunk(length, &mut chunk, |bytes| file.write_all(bytes).map(|()| true))?;
    // No fsync: a model torn by a power cut is noticed by the next run and written again.
    file.persist(path)?;
    Ok(())
}

/// Removes what generators left behind that were killed. Best effort: a file that stays is in nobody's way.
fn sweep(dir: &Path) {
    let ours = |name: &str| {
        let middle = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
        middle.is_some_and(|middle| middle.len() == 6 && middle.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Some(status) = entry.metadata().ok().filter(fs::Metadata::is_file) else { continue };
        let age = status.modified().ok().and_then(|modified| modified.elapsed().ok());
        // A generator that lives has written to its file just now.
        if entry.file_name().to_str().is_some_and(ours) && age.is_some_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether the file at `path` is the model, byte for byte.
fn intact(path: &Path, shapes: &Shapes) -> bool {
    let same = || -> io::Result<bool> {
        let (header, length) = header(shapes)?;
        // Opening a pipe would wait for a writer.
        if !fs::metadata(path)?.is_file() {
            return Ok(false);
        }
        let file = File::open(path)?;
        if file.metadata()?.len() != header.len() as u64 + length {
            return Ok(false);
        }
        let mut file = BufReader::with_capacity(CHUNK, file);
        let mut found = vec![0; header.len()];
        file.read_exact(&mut found)?;
        let mut found = vec![0; if found == header { CHUNK } else { return Ok(false) }];
        let mut chunk = vec![0; CHUNK];
        each_chunk(length, &mut chunk, |bytes| {
            let found = &mut found[..bytes.len()];
            file.read_exact(found)?;
            Ok(found == bytes)
        })
    };
    same().unwrap_or(false)
}

/// Makes the data section piece by piece, until `each` says `false`; whether it never did.
fn each_chunk(
    length: u64,
    chunk: &mut [u8],
    mut each: impl FnMut(&[u8]) -> io::Result<bool>,
) -> io::Result<bool> {
    let pattern = Pattern::new(SEED);
    let mut at = 0;
    while at < length {
        let bytes = &mut chunk[..CHUNK.min((length - at).try_into().unwrap_or(CHUNK))];
        bytes.fill(0);
        pattern.xor(at, bytes);
        for half in bytes.chunks_exact_mut(2) {
            // Finite halves of the size of real weights: any sign and mantissa, an exponent of 2^-6.
            half[1] = half[1] & 0x83 | 0x24;
        }
        if !each(bytes)? {
            return Ok(false);
        }
        at += bytes.len() as u64;
    }
    Ok(true)
}

/// The file's start, up to the data, and the data's length.
fn header(shapes: &Shapes) -> io::Result<(Vec<u8>, u64)> {
    let (mut tensors, mut end) = (Vec::new(), 0);
    for (name, shape) in &shapes.tensors {
        let (start, shape) = (end, shape.clone());
        end += shape.iter().product::<usize>() * 2;
        tensors.push((name.clone(), TensorInfo { dtype: Dtype::F16, shape, data_offsets: (start, end) }));
    }
    let about = HashMap::from([("source".to_owned(), shapes.about.clone())]);
    let metadata = Metadata::new(Some(about), tensors).map_err(io::Error::other)?;
    let mut json = serde_json::to_vec(&metadata)?;
    // The format asks for data aligned to 8.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok((header, end as u64))
}

/// What a model being written is called: these around six letters and digits.
const PREFIX: &str = ".gpt2";
const SUFFIX: &str = ".partial";
/// After so long without a write, its writer is gone.
const ABANDONED: Duration = Duration::from_secs(3600);
const SEED: u64 = 124;
const CHUNK: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn the_list_is_gpt2() {
        let (header, length) = header(&Shapes::gpt2().unwrap()).unwrap();
        assert_eq!(length, 2 * 124_439_808);
        assert_eq!(header.len() % 8, 0);
        let metadata: Metadata = serde_json::from_slice(&header[8..]).unwrap();
        assert_eq!(metadata.tensors().len(), 148);
        assert_eq!(metadata.info("transformer.wte.weight").unwrap().shape, [50257, 768]);
    }

    #[test]
    fn halves_are_finite_and_small() {
        let mut chunk = vec![0; CHUNK];
        each_chunk(CHUNK as u64, &mut chunk, |bytes| {
            for half in bytes.chunks_exact(2) {
                let value = half::f16::from_le_bytes([half[0], half[1]]).to_f32().abs();
                assert!((0.015..0.032).contains(&value), "{value}");
            }
            Ok(true)
        })
        .unwrap();
    }

    #[test]
    fn only_old_partial_models_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, age: Duration| {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        for name in [
            ".gpt2aB3dE6.partial",
            ".gpt2.partial",
            ".gpt2aB3dE67.partial",
            "gpt2aB3dE6.partial",
            "gpt2-124m-f16.safetensors",
        ] {
            file(name, 2 * ABANDONED);
        }
        file(".gpt2zzzzzz.partial", ABANDONED / 2);
        fs::create_dir(dir.path().join(".gpt2folder.partial")).unwrap();
        sweep(dir.path());
        assert!(!dir.path().join(".gpt2aB3dE6.partial").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 6);
    }

    #[test]
    fn damage_and_wrong_length_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let shapes = Shapes::gpt2().unwrap();
        let path = dir.path().join(&shapes.file);
        let (intact, write) = (|| intact(&path, &shapes), || write(&path, &shapes).unwrap());
        assert!(!intact());
        write();
        assert!(intact());
        let length = fs::metadata(&path).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length - 1).unwrap();
        assert!(!intact());
        file.set_len(length).unwrap();
        // The last byte of a half is never 0.
        assert!(!intact());
        write();
        assert!(intact());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no partial file stays behind");
    }
}
