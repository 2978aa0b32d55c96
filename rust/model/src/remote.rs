//! A checkpoint on the Hub as a source: its headers are read at once, its weights are brought when the work begins.

use crate::found::{ADAPTER_WEIGHTS, Kind, Pending};
use polmrs_core::{Ctl, Error, Result};
use polmrs_engine::source::{CheckpointSource, Meta, Source};
use polmrs_hub::{Remote, Repo, Settings};
use polmrs_io::safetensors::{Checkpoint, Header, Index, MAX_HEADER};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// Bytes of a file that are asked for first: most headers are in them.
const BEGINNING: u64 = 1 << 17;

/// Headers of a checkpoint, and later its weights.
pub(crate) struct RemoteSource {
    label: String,
    remote: Remote,
    files: Vec<String>,
    bytes: u64,
    tensors: Vec<Meta>,
    index: HashMap<String, usize>,
    arrived: OnceLock<CheckpointSource>,
}

impl RemoteSource {
    /// Finds the checkpoint, brings the small files beside it into the cache and reads the headers.
    pub(crate) fn open(label: &str, repo: &Repo, settings: &Settings, wanted: Kind) -> Result<RemoteSource> {
        let ctl = Ctl::new();
        let remote = Remote::resolve(settings, repo, &ctl)?;
        for name in remote.files().iter().filter(|name| is_sidecar(name)) {
            remote.fetch(name, &ctl)?;
        }
        let (files, index) = weights(&remote, label, wanted)?;
        let (mut tensors, mut bytes) = (Vec::new(), 0);
        for (ordinal, file) in files.iter().enumerate() {
            let (header, size) = header(&remote, file, &ctl)?;
            bytes += size;
            // The order, and the choice among shards, of a checkpoint on disk.
            let listed = |name: &str| index.as_ref().is_none_or(|index| index.find(name) == Some(ordinal));
            let listed = header.tensors.into_iter().filter(|tensor| listed(&tensor.name));
            tensors.extend(listed.map(|t| Meta { name: t.name, dtype: t.dtype, shape: t.shape }));
        }
        let index = tensors.iter().enumerate().map(|(at, meta)| (meta.name.clone(), at)).collect();
        Ok(RemoteSource { label: label.into(), remote, files, bytes, tensors, index, arrived: OnceLock::new() })
    }

    /// Its folder in the cache.
    pub(crate) fn folder(&self) -> PathBuf {
        self.remote.snapshot()
    }

    /// Whether what was found is an adapter.
    pub(crate) fn kind(&self) -> Kind {
        if self.files == [ADAPTER_WEIGHTS] { Kind::Adapter } else { Kind::Model }
    }
}

impl Pending for RemoteSource {
    fn bytes(&self) -> u64 {
        if self.arrived.get().is_some() { 0 } else { self.bytes }
    }

    fn fetch(&self, ctl: &Ctl) -> Result<()> {
        if self.arrived.get().is_some() {
            return Ok(());
        }
        for file in &self.files {
            self.remote.fetch(file, ctl)?;
        }
        let root = match self.files.as_slice() {
            [only] => self.folder().join(only),
            _ => self.folder(),
        };
        let source = CheckpointSource::new(self.label.as_str(), Checkpoint::open(&root)?);
        if source.tensors() != self.tensors {
            return Err(Error::Checkpoint(format!("{}: the files that arrived have other headers", self.label)));
        }
        let _raced = self.arrived.set(source);
        Ok(())
    }
}

impl Source for RemoteSource {
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
        self.arrived.get().map(Source::files).unwrap_or_default()
    }

    fn read(&self, tensor: usize, first: u64, bytes: &mut [u8]) -> Result<()> {
        match self.arrived.get() {
            Some(source) => source.read(tensor, first, bytes),
            None => Err(Error::Internal(format!("{}: read before its weights were fetched", self.label))),
        }
    }
}

/// What lies beside weights and is small: configs, tokenizers, templates, the card, licences.
fn is_sidecar(name: &str) -> bool {
    let index = name.ends_with(".index.json") && name != INDEX;
    let kinds = [".json", ".txt", ".model", ".jinja", ".md"];
    ["LICENSE", "NOTICE"].contains(&name) || (!index && kinds.iter().any(|kind| name.ends_with(kind)))
}

/// The files of weights, in the order of their names, and the index where there is one.
fn weights(remote: &Remote, label: &str, wanted: Kind) -> Result<(Vec<String>, Option<Index>)> {
    let has = |name: &str| remote.files().iter().any(|file| file == name);
    if wanted == Kind::Adapter && has(ADAPTER_WEIGHTS) {
        return Ok((vec![ADAPTER_WEIGHTS.into()], None));
    }
    if has(INDEX) {
        let path = remote.snapshot().join(INDEX);
        let size = path.metadata().map_err(Error::io(&path, "read"))?.len();
        if size > MAX_HEADER {
            return Err(Error::Checkpoint(format!("{}: {size} bytes are more than {MAX_HEADER}", path.display())));
        }
        let index = Index::parse(&fs::read(&path).map_err(Error::io(&path, "read"))?);
        let index = index.map_err(|error| error.within(&path.display().to_string()))?;
        return Ok((index.shards().to_vec(), Some(index)));
    }
    if has(SINGLE) {
        return Ok((vec![SINGLE.into()], None));
    }
    let only: Vec<&String> = remote.files().iter().filter(|name| name.ends_with(".safetensors")).collect();
    match only[..] {
        [name] => Ok((vec![name.clone()], None)),
        [] => Err(Error::NotFound(format!(
            "{label}: has no safetensors file; pickles are refused: download it and run `polmrs convert`"
        ))),
        _ => Err(Error::Checkpoint(format!("{label}: has {} safetensors files and no {INDEX}", only.len()))),
    }
}

/// The header of one file, by its first bytes, and the file's size.
fn header(remote: &Remote, file: &str, ctl: &Ctl) -> Result<(Header, u64)> {
    let (mut bytes, size) = remote.read(file, 0, BEGINNING, ctl)?;
    let within = |error: Error| error.within(&remote.snapshot().join(file).display().to_string());
    let short = || within(Error::Checkpoint(format!("the first bytes of {size} did not arrive")));
    let word = *bytes.first_chunk::<8>().ok_or_else(short)?;
    let len = Header::length(word, size).map_err(within)?;
    let end = 8 + len;
    if let Some(missing) = end.checked_sub(bytes.len() as u64) {
        bytes.extend(remote.read(file, bytes.len() as u64, missing, ctl)?.0);
    }
    let json = bytes.get(8..end as usize).ok_or_else(short)?;
    Ok((Header::parse(json, size - end).map_err(within)?, size))
}
