//! The models of the original's three tests.

use crate::{Device, Float, Gelu, Layer, Linear, Model, ModelError, Relu, Sequential};

/// The model whose bytes are attributed: `pairs` times a linear layer from `width` to twice that, GELU, a linear layer back,
/// and GELU. (`DummyGelu` of `test_tracker_attribution`.)
///
/// # Errors
/// No room for the parameters.
pub fn attribution(device: &Device, pairs: usize, width: usize, float: Float) -> Result<Model, ModelError> {
    let mut layers = Vec::new();
    for pair in 0..pairs as u64 {
        for (shape, seed) in [((width, 2 * width), 2 * pair), ((2 * width, width), 2 * pair + 1)] {
            layers.push(numbered("MLP_layers", layers.len(), Linear::new(device, shape, float, seed)?));
            layers.push(numbered("MLP_layers", layers.len(), Gelu));
        }
    }
    Ok(Model::new("DummyGelu", Sequential::new(layers)))
}

/// The model for which an allocator's peak is compared: `pairs` times a linear layer of `width` by `width`, and ReLU.
/// (`DummyModel` of `test_accelerator_tracker_equivalence`.)
///
/// # Errors
/// No room for the parameters.
pub fn equivalence(device: &Device, pairs: usize, width: usize, float: Float) -> Result<Model, ModelError> {
    let mut layers = Vec::new();
    for pair in 0..pairs as u64 {
        layers.push(numbered("linears", layers.len(), Linear::new(device, (width, width), float, pair)?));
        layers.push(numbered("linears", layers.len(), Relu));
    }
    Ok(Model::new("DummyModel", Sequential::new(layers)))
}

/// `count` blocks of a linear layer from `width` to twice that, ReLU, and a linear layer back; all blocks but the first are
/// checkpointed, if that is wanted. (`MyModule` of `test_tracker_with_activation_checkpointing`.)
///
/// # Errors
/// No room for the parameters.
pub fn blocks(
    device: &Device,
    count: usize,
    width: usize,
    float: Float,
    checkpointed: bool,
) -> Result<Model, ModelError> {
    let mut blocks = Vec::new();
    for number in 0..count {
        let linear = |shape, seed| Linear::new(device, shape, float, 2 * number as u64 + seed);
        let (up, down) = (linear((width, 2 * width), 0)?, linear((2 * width, width), 1)?);
        let layers = vec![Layer::new("0", up), Layer::new("1", Relu), Layer::new("2", down)];
        let block = Sequential::new(vec![Layer::new("mlp_block", Sequential::new(layers))]);
        blocks.push(numbered("mlp_blocks", number, block).checkpointed(checkpointed && number > 0));
    }
    Ok(Model::new("MyModule", Sequential::new(blocks)))
}

fn numbered(list: &str, number: usize, module: impl crate::Module + 'static) -> Layer {
    Layer::new(format!("{list}.{number}"), module)
}
