//! What every polmrs crate stands on. Nothing here knows about checkpoints or methods.
//!
//! | module | holds |
//! |---|---|
//! | [`error`] | the one error type, its exit codes and hints |
//! | [`ctl`] | cancellation and progress of a long call |
//! | [`pool`] | a thread pool that survives `fork` |
//! | [`simd`] | one kernel source, compiled for three instruction sets, chosen at run time |
//! | [`dtype`] | element types and their bulk conversion to and from `f32` |
//! | [`philox`] | random numbers addressed by seed, name and element index |
//! | [`ragged`] | the checked view of a batch of sequences of any lengths |
//! | [`reduce`] | sums whose bits do not depend on threads or chunks |

pub mod ctl;
pub mod dtype;
pub mod error;
pub mod philox;
pub mod pool;
pub mod ragged;
pub mod reduce;
pub mod simd;

pub use ctl::Ctl;
pub use dtype::Dtype;
pub use error::{Error, Result};

/// Elements in one block: the unit in which tensors are streamed and sums are ordered.
///
/// A block of every input and of the output fits in a core's L2 cache for a handful of models.
pub const BLOCK: usize = 32_768;
