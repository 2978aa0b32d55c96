//! rl
pub mod float;
pub mod gae;
pub mod holes;
pub mod ragged;
mod parallel;
mod simd;
mod sweep;
