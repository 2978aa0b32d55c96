//! Where tensors come from.

use polmrs_core::{Dtype, Error, Result};
use polmrs_io::safetensors::Checkpoint;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A tensor's name, element type and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The full name: `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// The type in which the source gives it.
    pub dtype: Dtype,
    /// Rows first.
    pub shape: Vec<u64>,
}

impl Meta {
    /// The number of elements; 1 for a scalar.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The size in bytes.
    pub fn nbytes(&self) -> u64 {
        self.elements() * self.dtype.size() as u64
    }
}

/// Named tensors that can be read piece by piece, from many threads at once.
///
/// A source that computes (a LoRA delta, a dequantizer) declares the type it computes in and gives bytes of that type.
pub trait Source: Send + Sync {
    /// What messages call it: a path, a model's name.
    fn label(&self) -> &str;

    /// All tensors, in the order in which reading them is cheapest.
    fn tensors(&self) -> &[Meta];

    /// The index of a tensor in [`tensors`](Source::tensors).
    fn find(&self, name: &str) -> Option<usize>;

    /// The files that its bits come from: a run that goes on with another's work asks whether they are the same.
    fn files(&self) -> Vec<PathBuf>;

    /// Fills `bytes` with the elements from `first` on, little-endian, in the declared type.
    fn read(&self, tensor: usize, first: u64, bytes: &mut [u8]) -> Result<()>;
}

/// A safetensors checkpoint as a source.
pub struct CheckpointSource {
    label: String,
    checkpoint: Arc<Checkpoint>,
    tensors: Vec<Meta>,
}

impl CheckpointSource {
    /// Wraps an open checkpoint; `label` is what messages call it.
    pub fn new(label: impl Into<String>, checkpoint: impl Into<Arc<Checkpoint>>) -> CheckpointSource {
        let checkpoint = checkpoint.into();
        let tensors = checkpoint
            .tensors()
            .iter()
            .map(|tensor| Meta { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() })
            .collect();
        CheckpointSource { label: label.into(), checkpoint, tensors }
    }

    /// The checkpoint itself.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

impl Source for CheckpointSource {
    fn label(&self) -> &str {
        &self.label
    }

    fn tensors(&self) -> &[Meta] {
        &self.tensors
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.checkpoint.find(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.checkpoint.files().map(PathBuf::from).collect()
    }

    fn read(&self, tensor: usize, first: u64, bytes: &mut [u8]) -> Result<()> {
        self.checkpoint.read(tensor, first * self.tensors[tensor].dtype.size() as u64, bytes)
    }
}

/// Arrays in memory as a source.
pub struct MemorySource<'a> {
    label: String,
    tensors: Vec<Meta>,
    data: Vec<&'a [u8]>,
    index: HashMap<String, usize>,
}

impl<'a> MemorySource<'a> {
    /// A source over borrowed little-endian bytes; each slice must hold exactly its tensor.
    pub fn new(label: impl Into<String>, arrays: Vec<(Meta, &'a [u8])>) -> Result<MemorySource<'a>> {
        let label = label.into();
        let (tensors, data): (Vec<Meta>, Vec<&[u8]>) = arrays.into_iter().unzip();
        let mut index = HashMap::new();
        for (at, (meta, bytes)) in tensors.iter().zip(&data).enumerate() {
            if meta.nbytes() != bytes.len() as u64 {
                let (name, shape, size) = (&meta.name, &meta.shape, bytes.len());
                return Err(Error::Array(format!("{label}: '{name}' of shape {shape:?} does not have {size} bytes")));
            }
            index.insert(meta.name.clone(), at);
        }
        Ok(MemorySource { label, tensors, data, index })
    }
}

impl Source for MemorySource<'_> {
    fn label(&self) -> &str {
        &self.label
    }

    fn tensors(&self) -> &[Meta] {
        &self.tensors
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn read(&self, tensor: usize, first: u64, bytes: &mut [u8]) -> Result<()> {
        let start = first as usize * self.tensors[tensor].dtype.size();
        bytes.copy_from_slice(&self.data[tensor][start..start + bytes.len()]);
        Ok(())
    }
}
