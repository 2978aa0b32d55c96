//! Checkpoints and configuration on disk. Nothing read here is trusted.
//!
//! | module | holds |
//! |---|---|
//! | [`safetensors`] | reading and writing checkpoints, one file or many |
//! | [`stats`] | the schema of statistics files that merging, quantization and pruning share |
//! | [`yaml`] | the one YAML reader: mergekit's scalars, positions in every error |

pub mod safetensors;
pub mod stats;
pub mod yaml;
