//! peft's LoRA adapters: what their files say; a model with one applied, and one alone, as a
//! [`Source`](polmrs_engine::Source).
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | `adapter_config.json`: scale and rank of every module, and what is refused |
//! | [`weights`] | `adapter_model.safetensors`: which tensors belong together |
//! | [`applied`] | `W + s B A`, DoRA, biases and replaced tensors, computed row by row as they are read |
//! | [`products`] | adapters without a model: the changes that they make |
//! | [`factors`] | the small matrices of one tensor, and sums of their products |

pub mod applied;
pub mod config;
pub mod factors;
pub mod products;
pub mod weights;

pub use applied::Applied;
pub use config::LoraConfig;
pub use products::{Products, Union};
pub use weights::Adapter;
