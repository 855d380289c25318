//! What every tensor must hold after every pass, from the file alone: the witness `run` checks the library against.
//!
//! Nothing here goes through the library: the header is read by the `safetensors` crate, the bytes by plain buffered
//! reads, and each pass's pattern is applied to them on the host.

use crate::error::CliError;
use crate::pattern::Pattern;
use safetensors::tensor::Metadata;
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A tensor's place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// From the start of the file.
    offset: u64,
    pub(crate) bytes: u64,
}

/// What a model file says of itself.
#[derive(Debug)]
pub(crate) struct Model {
    file: File,
    path: PathBuf,
    seen: Version,
    /// In the order of their bytes.
    pub(crate) places: Vec<Place>,
}

impl Model {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// The file is missing, or its header and its length do not describe the same model.
    pub(crate) fn open(path: &Path) -> Result<Model, CliError> {
        let input = |why: String| CliError::input(path, why);
        let cannot = |what| move |why| CliError::input(path, format!("cannot {what}: {why}"));
        // Before it is opened: opening a pipe waits for a writer, and opening a device may do anything.
        let is_file = fs::metadata(path).map_err(cannot("open"))?.is_file();
        let file = if is_file { Some(File::open(path).map_err(cannot("open"))?) } else { None };
        let mut file = file.ok_or_else(|| input("is not a regular file".to_owned()))?;
        let seen = Version::of(&file.metadata().map_err(cannot("stat"))?);
        let length = seen.length;
        let mut size = [0; 8];
        if length < 8 {
            return Err(input(format!("{length} bytes are too few for a safetensors header")));
        }
        file.read_exact(&mut size).map_err(|why| input(format!("cannot read: {why}")))?;
        let size = u64::from_le_bytes(size);
        let data = size.checked_add(8).filter(|data| *data <= length && size <= LONGEST_HEADER);
        let data = data.ok_or_else(|| input(format!("a header of {size} bytes in a file of {length}")))?;
        let mut header = Vec::new();
        (&file)
            .take(size)
            .read_to_end(&mut header)
            .map_err(|why| input(format!("cannot read the header: {why}")))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|why| input(format!("not a safetensors header: {why}")))?;
        let ends = metadata.data_len() as u64;
        if data + ends != length {
            let found = length - data;
            return Err(input(format!(
                "the header describes {ends} bytes of tensors, the file holds {found}"
            )));
        }
        let mut places: Vec<Place> = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (start, end) = info.data_offsets;
                Place { name, offset: data + start as u64, bytes: (end - start) as u64 }
            })
            .collect();
        // Empty tensors share their offset with the next one; the name makes the order the same each time.
        places.sort_by(|a, b| (a.offset, a.bytes, &a.name).cmp(&(b.offset, b.bytes, &b.name)));
        Ok(Model { file, path: path.to_owned(), seen, places })
    }

    /// Whether the path names a file by now that is gone, or of another length or time of change.
    pub(crate) fn changed(&self) -> bool {
        fs::metadata(&self.path).map_or(true, |now| Version::of(&now) != self.seen)
    }

    /// The error that `error` really is: work over a file that changed says nothing but that.
    pub(crate) fn blame(&self, error: CliError) -> CliError {
        if self.changed() { CliError::Changed { path: self.path.clone() } } else { error }
    }

    /// Bytes of all tensors.
    pub(crate) fn bytes(&self) -> u64 {
        self.places.iter().map(|place| place.bytes).sum()
    }

    /// The largest tensor, if there is one.
    pub(crate) fn largest(&self) -> Option<&Place> {
        self.places.iter().max_by_key(|place| place.bytes)
    }

    /// Reads every tensor once and computes its CRC32C before each pass and after the last. O(bytes x passes).
    ///
    /// A tensor's number, of which its patterns are made, is its place in [`places`](Self::places). `read` hears of
    /// each piece of the file.
    ///
    /// # Errors
    /// The file cannot be read, or ends early.
    pub(crate) fn expect(&self, passes: u32, mut read: impl FnMut(u64)) -> Result<Expected, CliError> {
        let input = |why: std::io::Error| {
            self.blame(CliError::input(&self.path, format!("cannot read its tensors: {why}")))
        };
        let mut file = BufReader::with_capacity(CHUNK, &self.file);
        let mut crcs = Vec::with_capacity(self.places.len());
        let mut chunk = vec![0; CHUNK];
        for (tensor, place) in self.places.iter().enumerate() {
            if tensor == 0 {
                // The format has no gaps: every other tensor begins where the one before it ends.
                file.seek(SeekFrom::Start(place.offset)).map_err(input)?;
            }
            let mut sums = vec![0; passes as usize + 1];
            let mut done = 0;
            while done < place.bytes {
                let bytes = &mut chunk[..CHUNK.min((place.bytes - done).try_into().unwrap_or(CHUNK))];
                file.read_exact(bytes).map_err(input)?;
                for (pass, sum) in (0..).zip(&mut sums) {
                    if pass > 0 {
                        Pattern::of_pass(pass - 1, tensor).xor(done, bytes);
                    }
                    *sum = crc32c::crc32c_append(*sum, bytes);
                }
                done += bytes.len() as u64;
                read(bytes.len() as u64);
            }
            crcs.push(sums);
        }
        Ok(Expected { crcs })
    }
}

/// What tells a file from a changed one.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    length: u64,
    modified: Option<SystemTime>,
}

impl Version {
    fn of(status: &fs::Metadata) -> Version {
        Version { length: status.len(), modified: status.modified().ok() }
    }
}

/// The CRC32C each tensor must have, by its number.
#[derive(Debug)]
pub(crate) struct Expected {
    crcs: Vec<Vec<u32>>,
}

impl Expected {
    /// Whether `crc` is what tensor `tensor` must have after `passes` backward walks.
    pub(crate) fn holds(&self, tensor: usize, passes: u32, crc: u32) -> bool {
        self.crcs.get(tensor).and_then(|sums| sums.get(passes as usize)) == Some(&crc)
    }
}

/// What the format allows.
const LONGEST_HEADER: u64 = 100_000_000;
/// A multiple of 8, so that every piece but a tensor's last starts and ends on a word.
const CHUNK: usize = 1 << 18;

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{Dtype, TensorView};

    fn model(dir: &Path, tensors: &[(&str, usize)]) -> std::path::PathBuf {
        let data: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
        let views = tensors
            .iter()
            .map(|(name, bytes)| (*name, TensorView::new(Dtype::U8, vec![*bytes], &data[..*bytes]).unwrap()));
        let path = dir.join("m.safetensors");
        safetensors::serialize_to_file(views, None, &path).unwrap();
        path
    }

    #[test]
    fn expectations_follow_the_passes() {
        let dir = tempfile::tempdir().unwrap();
        let path = model(dir.path(), &[("a", 0), ("b", 1), ("c", 12345), ("d", CHUNK + 9)]);
        let opened = Model::open(&path).unwrap();
        assert_eq!(opened.bytes(), 1 + 12345 + CHUNK as u64 + 9);
        assert_eq!(opened.largest().unwrap().name, "d");
        let names: Vec<&str> = opened.places.iter().map(|place| place.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        let mut heard = 0;
        let expected = opened.expect(2, |bytes| heard += bytes).unwrap();
        assert_eq!(heard, opened.bytes());
        for (tensor, length) in [(0, 0), (1, 1), (2, 12345), (3, CHUNK + 9)] {
            let mut bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            for pass in 0..=2 {
                assert!(expected.holds(tensor, pass, crc32c::crc32c(&bytes)));
                Pattern::of_pass(pass, tensor).xor(0, &mut bytes);
                assert!(length == 0 || !expected.holds(tensor, pass, crc32c::crc32c(&bytes)));
            }
        }
    }

    #[test]
    fn lies_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = model(dir.path(), &[("a", 100)]);
        let good = std::fs::read(&path).unwrap();
        let refuses = |bytes: &[u8], word: &str| {
            std::fs::write(&path, bytes).unwrap();
            let why = Model::open(&path).unwrap_err().to_string();
            assert!(why.contains(word), "{why}");
        };
        refuses(&[], "too few");
        refuses(&good[..good.len() - 1], "describes 100 bytes");
        refuses(&[&good[..], &[0]].concat(), "holds 101");
        refuses(&[&u64::MAX.to_le_bytes(), &good[8..]].concat(), "a header of");
        refuses(&[&2u64.to_le_bytes()[..], b"no"].concat(), "not a safetensors header");
        let at = good.windows(2).position(|bytes| bytes == b"U8").unwrap();
        refuses(&[&good[..at], b"Q8", &good[at + 2..]].concat(), "Q8");
    }
}
