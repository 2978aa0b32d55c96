//! Checkpoints in safetensors: one file, or shards under a `model.safetensors.index.json`.
//!
//! A file is eight bytes of length (little-endian), that many bytes of JSON, then the tensors' bytes:
//! `{"__metadata__": {text: text}, name: {"dtype": text, "shape": [u64], "data_offsets": [begin, end]}}`.
//!
//! # What is accepted
//! Tensors must cover the bytes after the header without overlap, hole or rest, as in the `safetensors` crate, and what
//! this reader accepts that crate accepts too. It accepts more; here these are errors:
//!
//! - a tensor, or a key of `__metadata__`, that appears twice (there, the last one wins in silence);
//! - a key other than `dtype`, `shape`, `data_offsets` in a tensor's entry;
//! - an entry written as a list, a dtype written as `{"F32": null}`;
//! - a tensor without a name, more than [`MAX_RANK`] dimensions, more than [`MAX_METADATA`] metadata keys;
//! - a dtype that [`Dtype`](polmrs_core::Dtype) lacks: F4, F6_E2M3, F6_E3M2, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ, C64.
//!
//! # Memory
//! Headers and indexes of more than [`MAX_HEADER`] bytes are refused. Parsing one allocates at most six times its length
//! plus 2 MiB (16 MiB for an index), beside the text itself; the example `fuzz_safetensors` measures it.

mod checkpoint;
mod entry;
mod handle;
mod header;
mod index;
mod json;
mod layout;
mod locate;
mod tensor;
mod writer;

pub use checkpoint::Checkpoint;
pub use header::{Header, MAX_HEADER, MAX_METADATA, MAX_RANK};
pub use index::{Index, MAX_SHARDS};
pub use layout::{Layout, Spec};
pub use tensor::Tensor;
pub use writer::Writer;
