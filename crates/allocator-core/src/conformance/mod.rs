//! The suites every backend must pass, as code.

mod vec_buffer;
pub use vec_buffer::VecBuffer;
