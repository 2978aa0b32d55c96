//! rl
pub mod float;
pub mod gae;
pub mod holes;
mod parallel;
pub mod ragged;
mod simd;
mod sweep;
