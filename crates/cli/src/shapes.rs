//! What the generated models are made of: names and shapes of their tensors, all of halves.

use std::io;

/// A model to generate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shapes {
    /// What its file is called.
    pub(crate) file: String,
    /// What the file says of itself.
    pub(crate) about: String,
    /// In the order a forward pass uses them.
    pub(crate) tensors: Vec<(String, Vec<usize>)>,
}

impl Shapes {
    /// GPT-2 124M.
    ///
    /// # Errors
    /// The list that was built in cannot be read.
    pub(crate) fn gpt2() -> io::Result<Shapes> {
        let tensor = |line: &str| {
            let (name, shape) =
                line.split_once(',').ok_or_else(|| io::Error::other("a line without a comma"))?;
            let shape =
                shape.split('x').map(str::parse).collect::<Result<_, _>>().map_err(io::Error::other)?;
            Ok((name.to_owned(), shape))
        };
        Ok(Shapes {
            file: FILE.to_owned(),
            about: "GPT-2 124M shapes, seeded values; not a trained model".to_owned(),
            tensors: LIST.lines().skip(1).map(tensor).collect::<io::Result<_>>()?,
        })
    }

    /// A model like GPT-2 of at least `bytes` bytes, and less than a block more: wide and deep in its proportion, a block for
    /// every 64 of width, with few words, so that no tensor is large beside a block.
    pub(crate) fn sized(bytes: u64) -> Shapes {
        let fits = |width: &u64| bytes_of(&block(0, *width)).saturating_mul(width / HEAD) <= bytes;
        let width = (1..=WIDEST / HEAD).map(|heads| heads * HEAD).take_while(fits).last().unwrap_or(HEAD);
        let (mut tensors, end) = (words(width), last(width));
        let rest = bytes.saturating_sub(bytes_of(&tensors) + bytes_of(&end));
        let blocks = rest.div_ceil(bytes_of(&block(0, width))).max(1);
        tensors.extend((0..blocks).flat_map(|number| block(number, width)));
        tensors.extend(end);
        Shapes {
            file: Self::sized_file(bytes),
            about: format!(
                "GPT-2's shapes at width {width}, {blocks} blocks, seeded values; not a trained model"
            ),
            tensors: tensors.into_iter().map(owned).collect(),
        }
    }

    /// What the file of [`sized`](Self::sized) is called.
    pub(crate) fn sized_file(bytes: u64) -> String {
        format!("gpt2-like-{bytes}-f16.safetensors")
    }
}

type Tensor = (String, Vec<u64>);

fn words(width: u64) -> Vec<Tensor> {
    vec![
        ("transformer.wte.weight".to_owned(), vec![16 * width, width]),
        ("transformer.wpe.weight".to_owned(), vec![1024, width]),
    ]
}

fn block(number: u64, width: u64) -> Vec<Tensor> {
    let parts: [(&str, &[u64]); 12] = [
        ("ln_1.weight", &[1]),
        ("ln_1.bias", &[1]),
        ("attn.c_attn.weight", &[1, 3]),
        ("attn.c_attn.bias", &[3]),
        ("attn.c_proj.weight", &[1, 1]),
        ("attn.c_proj.bias", &[1]),
        ("ln_2.weight", &[1]),
        ("ln_2.bias", &[1]),
        ("mlp.c_fc.weight", &[1, 4]),
        ("mlp.c_fc.bias", &[4]),
        ("mlp.c_proj.weight", &[4, 1]),
        ("mlp.c_proj.bias", &[1]),
    ];
    let scaled = |times: &[u64]| times.iter().map(|times| times * width).collect();
    parts.into_iter().map(|(name, times)| (format!("transformer.h.{number}.{name}"), scaled(times))).collect()
}

fn last(width: u64) -> Vec<Tensor> {
    ["weight", "bias"].map(|part| (format!("transformer.ln_f.{part}"), vec![width])).to_vec()
}

fn bytes_of(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|(_, shape)| 2 * shape.iter().product::<u64>()).sum()
}

fn owned((name, shape): Tensor) -> (String, Vec<usize>) {
    // Fits: no dimension is longer than 16 times the widest.
    (name, shape.into_iter().map(|length| length as usize).collect())
}

/// Names and shapes of GPT-2 124M in the order a forward pass uses them, from its published configuration.
const LIST: &str = include_str!("../data/gpt2_124m.csv");
const FILE: &str = "gpt2-124m-f16.safetensors";
/// Width of an attention head.
const HEAD: u64 = 64;
/// Beyond this models only grow deeper.
const WIDEST: u64 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(shapes: &Shapes) -> u64 {
        shapes.tensors.iter().map(|(_, shape)| 2 * shape.iter().product::<usize>() as u64).sum()
    }

    #[test]
    fn a_sized_model_is_as_large_as_asked_and_less_than_a_block_larger() {
        for wanted in [1 << 20, 8 << 20, 100_000_000, 1 << 30, 4_000_000_000, 1 << 37] {
            let shapes = Shapes::sized(wanted);
            let (found, count) = (bytes(&shapes), shapes.tensors.len());
            let block = bytes(&Shapes { tensors: shapes.tensors[2..14].to_vec(), ..shapes.clone() });
            assert!((wanted..wanted + block).contains(&found), "{wanted}: {found}, blocks of {block}");
            assert_eq!(count % 12, 4, "whole blocks, two tables before and a norm after them");
            let largest = shapes.tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).max();
            assert!(4 * 2 * largest.unwrap() as u64 <= found || wanted < 10 << 20, "{wanted}: {largest:?}");
        }
        let tiny = Shapes::sized(1);
        assert_eq!(tiny.tensors.len(), 16);
        assert!(bytes(&tiny) < 400_000);
    }

    #[test]
    fn a_sized_model_has_the_names_and_proportions_of_gpt2() {
        let gpt2 = Shapes::gpt2().unwrap();
        let block = |shapes: &Shapes| shapes.tensors[2..14].to_vec();
        // One that comes out as wide as GPT-2.
        let like = Shapes::sized(190_000_000);
        assert_eq!(block(&like), block(&gpt2));
        assert_eq!(like.tensors.last(), gpt2.tensors.last());
        assert_eq!(like.tensors[0].1, [16 * 768, 768]);
    }
}
