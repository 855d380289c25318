//! The same contracts over a `wgpu::Device` and its `Queue`.
