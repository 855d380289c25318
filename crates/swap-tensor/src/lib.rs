//! swap-tensor
