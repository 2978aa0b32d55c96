//! Tensors that are not there yet.

use polmrs_core::{Error, Result};
use polmrs_engine::source::{Meta, Source};
use std::collections::HashMap;
use std::path::PathBuf;

/// The tensors that are going to be written: planning needs no more.
pub(crate) struct Announced {
    label: String,
    tensors: Vec<Meta>,
    index: HashMap<String, usize>,
}

impl Announced {
    pub(crate) fn new(label: &str, tensors: Vec<Meta>) -> Announced {
        let index = tensors.iter().enumerate().map(|(at, meta)| (meta.name.clone(), at)).collect();
        Announced { label: label.into(), tensors, index }
    }
}

impl Source for Announced {
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

    fn read(&self, _: usize, _: u64, _: &mut [u8]) -> Result<()> {
        Err(Error::Internal(format!("{} is read before it is written", self.label)))
    }
}
