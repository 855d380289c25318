//! A tensor that several threads read and write, and what it must contain.

use super::{CpuDevice, Rng};
use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};
use swap_tensor::{SwapError, Tensor};

/// A tensor and what it must contain.
pub(crate) struct Shadow {
    pub(crate) tensor: Tensor<CpuDevice>,
    pub(crate) number: u64,
    /// Held by whoever writes: versions are given in order.
    writing: Mutex<()>,
    /// The last version whose write ended well, and the last that was begun.
    written: AtomicU64,
    begun: AtomicU64,
    /// The last write failed half-way; or any ever did.
    pub(crate) cut: AtomicBool,
    pub(crate) ever_cut: AtomicBool,
}

impl Shadow {
    pub(crate) fn new(tensor: Tensor<CpuDevice>, number: u64) -> Self {
        Shadow {
            tensor,
            number,
            writing: Mutex::new(()),
            written: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            ever_cut: AtomicBool::new(false),
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.tensor.spec().name()
    }

    /// A read that succeeds serves this tensor's bytes, all of them, of a version that it may have.
    pub(crate) fn served(
        &self,
        read: impl FnOnce(&mut [u8]) -> Result<(), SwapError>,
    ) -> Result<(), SwapError> {
        let mut bytes = vec![0; self.tensor.spec().bytes() as usize];
        let oldest = self.written.load(SeqCst);
        read(&mut bytes)?;
        let newest = self.begun.load(SeqCst);
        let (number, version) = label(&bytes);
        let name = self.name();
        assert_eq!(number, self.number, "{name}: another's bytes");
        assert!((oldest..=newest).contains(&version), "{name}: version {version} of {oldest}..={newest}");
        assert!(bytes == contents(number, version, bytes.len() as u64), "{name}: wrong bytes");
        Ok(())
    }

    /// A write that fails has cut the tensor, or left it as it was.
    pub(crate) fn written(&self, write: impl FnOnce(&[u8]) -> Result<(), Failed>) -> Result<(), SwapError> {
        let Ok(_alone) = self.writing.try_lock() else { return Ok(()) };
        let version = self.begun.fetch_add(1, SeqCst) + 1;
        // Known before anybody can be told of it.
        let before = self.ever_cut.swap(true, SeqCst);
        let written = write(&contents(self.number, version, self.tensor.spec().bytes()));
        if !matches!(written, Err(Cut(_))) {
            self.ever_cut.store(before, SeqCst);
        }
        match written {
            Ok(()) => {
                self.written.store(version, SeqCst);
                self.cut.store(false, SeqCst);
                Ok(())
            }
            Err(Whole(error)) => Err(error),
            Err(Cut(error)) => {
                self.cut.store(true, SeqCst);
                Err(error)
            }
        }
    }
}

/// How a write failed.
pub(crate) enum Failed {
    /// Nothing was written.
    Whole(SwapError),
    /// Half-way, perhaps.
    Cut(SwapError),
}
use Failed::{Cut, Whole};

/// A tensor's bytes: its number, its version, and what follows from both.
pub(crate) fn contents(number: u64, version: u64, bytes: u64) -> Vec<u8> {
    let mut rng = Rng(number.rotate_left(32) ^ version);
    let rest = (2..bytes.div_ceil(8)).map(|_| rng.next());
    [number, version].into_iter().chain(rest).flat_map(u64::to_le_bytes).take(bytes as usize).collect()
}

fn label(bytes: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    (word(0), word(8))
}
