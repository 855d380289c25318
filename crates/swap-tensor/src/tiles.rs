//! Tensors that no device holds whole: cut into tiles, each a tensor of its own.

use crate::{SwapError, SwapPool, Tensor, TensorSpec, file};
use core::ops::Range;
use pinned_host::Transfer;
use std::path::Path;

/// A tensor in pieces that lie one after another in its contents, each leased, swapped and kept by itself.
///
/// Tiles are whole rows of the outermost dimension where a row is no longer than a tile may be, else stretches of elements. A
/// kernel that works row by row, as a matrix product does, walks them one at a time with the next on its way.
///
/// ```
/// use backend_cpu::CpuDevice;
/// use swap_tensor::{DType, SwapPool, TensorSpec};
///
/// // A table of 1000 rows on a device that holds 300 of them.
/// let pool = SwapPool::builder(CpuDevice::new()?).device_memory(300 << 10).host_memory(2 << 20).build()?;
/// let spec = TensorSpec::new("wte", DType::F32, [1000, 256])?;
/// let table = pool.create_tiled(spec, 100 << 10, &vec![0; 1000 << 10])?;
/// assert_eq!(table.tiles().len(), 10);
/// for (at, tile) in table.tiles().iter().enumerate() {
///     pool.prefetch(&table.tiles().get(at + 1).into_iter().collect::<Vec<_>>());
///     let lease = tile.read()?;
///     assert_eq!(lease.spec().shape(), [100, 256]);
///     assert_eq!(table.elements(at), at as u64 * 25_600..(at as u64 + 1) * 25_600);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TiledTensor<T: Transfer> {
    spec: TensorSpec,
    tiles: Vec<Tensor<T>>,
    /// Where each tile ends, in elements.
    ends: Vec<u64>,
}

impl<T: Transfer> TiledTensor<T> {
    /// Name, dtype and shape of the whole.
    pub fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    /// The tiles in the order of their contents. One is called after the whole and the elements it has: `wte[0..25600]`.
    pub fn tiles(&self) -> &[Tensor<T>] {
        &self.tiles
    }

    /// Which elements of the whole, in row-major order, a tile has; empty for one that there is not.
    pub fn elements(&self, tile: usize) -> Range<u64> {
        let end = |tile: usize| self.ends.get(tile).copied();
        let start = tile.checked_sub(1).map_or(Some(0), end);
        start.zip(end(tile)).map_or(0..0, |(start, end)| start..end)
    }

    /// The tile that has an element, and which of its elements that is. O(log tiles).
    pub fn find(&self, element: u64) -> Option<(usize, u64)> {
        let tile = self.ends.partition_point(|&end| end <= element);
        (tile < self.ends.len()).then(|| (tile, element - self.elements(tile).start))
    }

    /// Copies the contents of all tiles to `into`; nothing moves.
    ///
    /// # Errors
    /// A length that is not the tensor's, or as [`Tensor::copy_to`].
    pub fn copy_to(&self, into: &mut [u8]) -> Result<(), SwapError> {
        self.check_length(into.len())?;
        let mut rest = into;
        for tile in &self.tiles {
            let (here, after) = rest.split_at_mut(tile.spec().bytes() as usize);
            tile.copy_to(here)?;
            rest = after;
        }
        Ok(())
    }

    /// Replaces the contents of all tiles by `data`.
    ///
    /// # Errors
    /// A length that is not the tensor's, or as [`Tensor::load`]: the tiles before the one that failed have the new contents then.
    pub fn load(&self, data: &[u8]) -> Result<(), SwapError> {
        self.check_length(data.len())?;
        let mut rest = data;
        for tile in &self.tiles {
            let (here, after) = rest.split_at(tile.spec().bytes() as usize);
            tile.load(here)?;
            rest = after;
        }
        Ok(())
    }

    fn check_length(&self, given: usize) -> Result<(), SwapError> {
        let (expected, given) = (self.spec.bytes(), given as u64);
        if expected == given {
            return Ok(());
        }
        Err(SwapError::Length { name: self.spec.name().to_owned(), expected, given })
    }
}

impl<T: Transfer> SwapPool<T> {
    /// A tensor with the contents `data`, in tiles of at most `most` bytes: it may be larger than the device.
    ///
    /// # Errors
    /// As [`create`](Self::create); [`SwapError::Config`] when not even one element fits a tile. Nothing is left then.
    pub fn create_tiled(
        &self,
        spec: TensorSpec,
        most: u64,
        data: &[u8],
    ) -> Result<TiledTensor<T>, SwapError> {
        if spec.bytes() != data.len() as u64 {
            let (expected, given) = (spec.bytes(), data.len() as u64);
            return Err(SwapError::Length { name: spec.name().to_owned(), expected, given });
        }
        let mut rest = data;
        self.tiled(spec, most, |pool, tile, _| {
            let (here, after) = rest.split_at(tile.bytes() as usize);
            rest = after;
            pool.create(tile, here)
        })
    }

    /// Attaches the tensors of a safetensors file as [`attach_safetensors`](Self::attach_safetensors) does, each in tiles of at most
    /// `most` bytes; one that is no longer has a single tile.
    ///
    /// # Errors
    /// As there; [`SwapError::Config`] when not even one element fits a tile.
    pub fn attach_safetensors_tiled(
        &self,
        path: impl AsRef<Path>,
        most: u64,
    ) -> Result<Vec<TiledTensor<T>>, SwapError> {
        let listed = file::open(path.as_ref())?;
        let attach = |(spec, whole): (TensorSpec, file::FileCopy)| {
            self.tiled(spec, most, |pool, tile, offset| {
                let copy = whole.from(offset);
                pool.insert(tile, |entry| entry.file = Some(copy))
            })
        };
        listed.into_iter().map(attach).collect()
    }

    fn tiled(
        &self,
        spec: TensorSpec,
        most: u64,
        mut make: impl FnMut(&Self, TensorSpec, u64) -> Result<Tensor<T>, SwapError>,
    ) -> Result<TiledTensor<T>, SwapError> {
        let (mut tiles, mut ends) = (Vec::new(), Vec::new());
        let mut offset = 0;
        for (elements, shape) in cut(&spec, most)? {
            let name = format!("{}[{}..{}]", spec.name(), elements.start, elements.end);
            let tile = TensorSpec::new(name, spec.dtype(), shape)?;
            let bytes = tile.bytes();
            tiles.push(make(self, tile, offset)?);
            ends.push(elements.end);
            offset += bytes;
        }
        Ok(TiledTensor { spec, tiles, ends })
    }
}

impl<T: Transfer> std::fmt::Debug for TiledTensor<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TiledTensor").field("spec", &self.spec).field("tiles", &self.tiles.len()).finish()
    }
}

/// Elements of the whole, and their shape.
type Tile = (Range<u64>, Vec<u64>);

/// The elements and the shape of each tile, in order. A tensor without elements has one tile without any.
fn cut(spec: &TensorSpec, most: u64) -> Result<Vec<Tile>, SwapError> {
    if spec.bytes() <= most {
        let all = spec.shape().iter().product();
        return Ok(vec![(0..all, spec.shape().to_vec())]);
    }
    let total: u64 = spec.shape().iter().product();
    let (rows, inner) = match spec.shape() {
        [rows, inner @ ..] => (*rows, inner),
        [] => (1, &[][..]),
    };
    let row = total / rows;
    // Elements come in groups that are whole bytes: one, two of four bits, four of six.
    let group = 8 / gcd(spec.dtype().bits(), 8);
    let fits = most.saturating_mul(8) / spec.dtype().bits() / group * group;
    if fits == 0 {
        let why = format!("{most} bytes hold no whole bytes of {} ({})", spec.name(), spec.dtype());
        return Err(SwapError::Config { what: "tile", why });
    }
    // So many rows are whole groups.
    let some_rows = group / gcd(row, group);
    let by_rows = fits >= some_rows * row;
    let step = if by_rows { fits / (some_rows * row) * some_rows * row } else { fits };
    let mut tiles = Vec::with_capacity(total.div_ceil(step) as usize);
    for start in (0..total).step_by(step as usize) {
        let end = total.min(start + step);
        let shape = match by_rows {
            true => core::iter::once((end - start) / row).chain(inner.iter().copied()).collect(),
            false => vec![end - start],
        };
        tiles.push((start..end, shape));
    }
    Ok(tiles)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use proptest::prelude::*;

    fn lengths(dtype: DType, shape: &[u64], most: u64) -> Vec<(u64, Vec<u64>)> {
        let spec = TensorSpec::new("t", dtype, shape).unwrap();
        cut(&spec, most).unwrap().into_iter().map(|(elements, shape)| (elements.end, shape)).collect()
    }

    #[test]
    fn rows_stay_whole_where_they_fit() {
        assert_eq!(lengths(DType::F32, &[5, 4], 40), [(8, vec![2, 4]), (16, vec![2, 4]), (20, vec![1, 4])]);
        assert_eq!(
            lengths(DType::F32, &[2, 5], 12),
            [(3, vec![3]), (6, vec![3]), (9, vec![3]), (10, vec![1])]
        );
        assert_eq!(lengths(DType::U8, &[7], 100), [(7, vec![7])]);
        assert_eq!(lengths(DType::U8, &[], 1), [(1, vec![])]);
        assert_eq!(lengths(DType::U8, &[3, 0], 0), [(0, vec![3, 0])]);
        // Three rows of 15 bits each would end amid a byte.
        assert_eq!(lengths(DType::F4, &[4, 3], 4), [(6, vec![2, 3]), (12, vec![2, 3])]);
        let spec = TensorSpec::new("t", DType::F64, [4]).unwrap();
        assert!(matches!(cut(&spec, 7), Err(SwapError::Config { what: "tile", .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn tiles_are_the_whole_and_none_is_too_long(
            dtype in prop::sample::select(vec![DType::F4, DType::F6_E2M3, DType::U8, DType::F16, DType::F64]),
            shape in prop::collection::vec(0u64..9, 0..4),
            most in 1u64..200,
        ) {
            let Ok(spec) = TensorSpec::new("t", dtype, shape) else { return Ok(()) };
            let Ok(tiles) = cut(&spec, most) else { return Ok(()) };
            let mut at = 0;
            for (elements, shape) in tiles {
                prop_assert_eq!(elements.start, at);
                prop_assert_eq!(shape.iter().product::<u64>(), elements.end - elements.start);
                let tile = TensorSpec::new("tile", dtype, shape).unwrap();
                prop_assert!(tile.bytes() <= most || spec.bytes() == 0);
                at = elements.end;
            }
            prop_assert_eq!(at, spec.shape().iter().product::<u64>());
        }
    }
}
