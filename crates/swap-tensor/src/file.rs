//! An attached safetensors file: a clean, read-only copy of its tensors that is never duplicated.
//!
//! The header is parsed once; contents are read by position when a tensor is wanted on the device. There is no
//! mapping: a file that shrinks under a mapping kills the program, a short read is an error.

use crate::{DType, SwapError, TensorSpec};
use safetensors::tensor::Metadata;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

/// An open file whose tensors are attached.
#[derive(Debug)]
pub(crate) struct AttachedFile {
    file: File,
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
    /// Set once it is no longer the file that was attached: its tensors have no copy here any more.
    broken: AtomicBool,
}

/// One tensor's place in an attached file.
#[derive(Debug, Clone)]
pub(crate) struct FileCopy {
    pub(crate) file: Arc<AttachedFile>,
    /// First byte in the file.
    pub(crate) offset: u64,
}

impl FileCopy {
    /// The copy of what begins `bytes` into this one.
    pub(crate) fn from(&self, bytes: u64) -> Self {
        FileCopy { file: Arc::clone(&self.file), offset: self.offset + bytes }
    }
}

/// Opens `path` and lists its tensors in the order of their bytes in the file.
pub(crate) fn open(path: &Path) -> Result<Vec<(TensorSpec, FileCopy)>, SwapError> {
    let io = |operation, offset| {
        move |source| SwapError::File { path: path.to_owned(), operation, offset, source }
    };
    // Looked at before it is opened: opening a pipe would wait for a writer.
    let status = std::fs::metadata(path).map_err(io("open", 0))?;
    if !status.is_file() {
        return Err(format(path, "it is not a regular file"));
    }
    let file = File::open(path).map_err(io("open", 0))?;
    let status = file.metadata().map_err(io("stat", 0))?;
    let attached = Arc::new(AttachedFile {
        file,
        path: path.to_owned(),
        len: status.len(),
        modified: status.modified().ok(),
        broken: AtomicBool::new(false),
    });
    let (data_start, metadata) = attached.read_header()?;
    let mut tensors = Vec::with_capacity(metadata.offset_keys().len());
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let dtype = DType::try_from(info.dtype).map_err(|d| {
            format(path, &std::format!("tensor {name:?} has dtype {d}, which is not supported"))
        })?;
        let shape: Vec<u64> = info.shape.iter().map(|&d| d as u64).collect();
        let spec = TensorSpec::new(name, dtype, shape)?;
        let offset = data_start + info.data_offsets.0 as u64;
        tensors.push((spec, FileCopy { file: Arc::clone(&attached), offset }));
    }
    Ok(tensors)
}

impl AttachedFile {
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Reads exactly `buf.len()` bytes from byte `offset`; interrupted and short reads are retried.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SwapError> {
        match read_exact_at(&self.file, buf, offset) {
            Ok(()) => Ok(()),
            Err(source) => {
                self.check_unchanged()?;
                Err(SwapError::File { path: self.path.clone(), operation: "read", offset, source })
            }
        }
    }

    /// Whether the file still has the length and time of change it had when attached.
    pub(crate) fn check_unchanged(&self) -> Result<(), SwapError> {
        let status = self.file.metadata().map_err(|source| SwapError::File {
            path: self.path.clone(),
            operation: "stat",
            offset: 0,
            source,
        })?;
        if status.len() != self.len || status.modified().ok() != self.modified {
            self.broken.store(true, Ordering::Relaxed);
            return Err(SwapError::FileChanged {
                path: self.path.clone(),
                expected: self.len,
                len: status.len(),
            });
        }
        Ok(())
    }

    /// The parsed header and the byte at which tensor data starts.
    fn read_header(&self) -> Result<(u64, Metadata), SwapError> {
        let path = &self.path;
        if self.len < PREFIX {
            return Err(format(path, &std::format!("{} bytes are too few for a header", self.len)));
        }
        let mut prefix = [0; PREFIX as usize];
        self.read_exact_at(&mut prefix, 0)?;
        let header_len = u64::from_le_bytes(prefix);
        let room = self.len - PREFIX;
        if header_len > MAX_HEADER || header_len > room {
            return Err(format(
                path,
                &std::format!(
                    "its header claims {header_len} bytes, {room} follow (at most {MAX_HEADER} are allowed)"
                ),
            ));
        }
        let mut header = vec![0; header_len as usize];
        self.read_exact_at(&mut header, PREFIX)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| format(path, &std::format!("header: {e}")))?;
        let data_start = PREFIX + header_len;
        let data_len = metadata.data_len() as u64;
        if data_start.checked_add(data_len) != Some(self.len) {
            return Err(format(
                path,
                &std::format!(
                    "its header describes {data_len} bytes of tensors, {} follow",
                    self.len - data_start
                ),
            ));
        }
        Ok((data_start, metadata))
    }
}

fn format(path: &Path, reason: &str) -> SwapError {
    SwapError::Format { path: path.to_owned(), reason: reason.to_owned() }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buf.is_empty() {
        match file.seek_read(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Length of the header's length, a little-endian `u64`.
const PREFIX: u64 = 8;
/// The format's own bound on a header, in bytes.
const MAX_HEADER: u64 = 100_000_000;
