//! Checkpoints and configuration on disk. Nothing read here is trusted.
//!
//! | module | holds |
//! |---|---|
//! | [`digest`] | the BLAKE3 hash of bytes that arrive in any order |
//! | [`journal`] | checksummed lines: what a run has done, for the run that goes on |
//! | [`output`] | output folders that are whole or not there |
//! | [`safetensors`] | reading and writing checkpoints, one file or many |
//! | [`stats`] | the schema of statistics files that merging, quantization and pruning share |
//! | [`whole`] | files that appear whole or not at all |
//! | [`yaml`] | the one YAML reader: mergekit's scalars, positions in every error |

pub mod digest;
pub mod journal;
pub mod output;
pub mod safetensors;
pub mod stats;
pub mod whole;
pub mod yaml;
