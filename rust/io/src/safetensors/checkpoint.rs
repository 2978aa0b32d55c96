//! Reading a checkpoint: headers at once, bytes when asked.

use super::handle::{Access, Handle};
use super::header::{Header, MAX_HEADER};
use super::index::Index;
use super::json::quote;
use super::locate::{Found, locate};
use super::tensor::{Tensor, by_name};
use polmrs_core::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An open checkpoint. Reads are `pread` calls and may come from many threads at once.
#[derive(Debug)]
pub struct Checkpoint {
    root: PathBuf,
    files: Vec<Handle>,
    tensors: Vec<Tensor>,
    by_name: Vec<u32>,
    metadata: BTreeMap<String, String>,
    unlisted: Vec<String>,
}

impl Checkpoint {
    /// Opens a folder or a file and checks every header.
    ///
    /// In a folder, `model.safetensors.index.json` comes first, then `model.safetensors`, then the only `*.safetensors`.
    /// Where an index is, it decides: a tensor that it gives to another shard is left out here, one that it does not list
    /// is [`unlisted`](Checkpoint::unlisted).
    ///
    /// # Errors
    /// [`Error::NotFound`] for a missing file, naming a tensor that needs it; [`Error::Checkpoint`] for a malformed one.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        match locate(path)? {
            Found::Single(file) => {
                let (handle, header) = open_file(file, 0)?;
                Ok(Checkpoint::assemble(path, vec![handle], header.tensors, header.metadata, Vec::new()))
            }
            Found::Index(file) => open_shards(path, &file),
        }
    }

    fn assemble(
        root: &Path,
        files: Vec<Handle>,
        tensors: Vec<Tensor>,
        metadata: BTreeMap<String, String>,
        unlisted: Vec<String>,
    ) -> Checkpoint {
        let by_name = by_name(&tensors);
        Checkpoint { root: root.to_path_buf(), files, tensors, by_name, metadata, unlisted }
    }

    /// The folder or file that was opened.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The tensors in the order in which they lie on disk: by file, then by offset.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The position in [`tensors`](Checkpoint::tensors) of the tensor with this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        let at = self.by_name.binary_search_by(|at| self.tensors[*at as usize].name.as_str().cmp(name)).ok()?;
        Some(self.by_name[at] as usize)
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(Handle::path)
    }

    /// The file that holds a tensor. Panics, as a slice does, where [`tensors`](Checkpoint::tensors) has none.
    pub fn file_of(&self, tensor: usize) -> &Path {
        self.files[self.tensors[tensor].file as usize].path()
    }

    /// `__metadata__` of the first file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Tensors that lie in a shard but not in the index; they are left out, as transformers does.
    pub fn unlisted(&self) -> &[String] {
        &self.unlisted
    }

    /// Fills `out` with the bytes of a tensor from `offset` on.
    ///
    /// # Errors
    /// [`Error::Internal`] where the tensor or the range does not exist; [`Error::Checkpoint`] where the file became
    /// shorter after it was opened.
    pub fn read(&self, tensor: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let count = self.tensors.len();
        let Some(described) = self.tensors.get(tensor) else {
            return Err(Error::Internal(format!("read of tensor {tensor} in a checkpoint of {count}")));
        };
        let called = || format!("{}: {}", self.file_of(tensor).display(), described.called());
        let nbytes = described.nbytes();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > nbytes) {
            let len = out.len();
            return Err(Error::Internal(format!("{}: read of {len} bytes at {offset}, of {nbytes}", called())));
        }
        let file = &self.files[described.file as usize];
        file.with(|file| file.read_exact_at(out, described.start + offset)).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                Error::Checkpoint(format!("{}: the file shrank after it was opened", called()))
            } else {
                Error::io(file.path(), "read")(error)
            }
        })
    }
}

/// Opens one safetensors file and checks its header. The tensors' bytes are counted from the start of the file.
fn open_file(path: PathBuf, ordinal: usize) -> Result<(Handle, Header)> {
    let handle = Handle::open(path, Access::Read, ordinal)?;
    let path = handle.path();
    let len = handle.with(|file| Ok(file.metadata()?.len())).map_err(Error::io(path, "read"))?;
    if len < 8 {
        return Err(Error::Checkpoint(format!(
            "{}: {len} bytes are no safetensors file, which starts with 8 bytes of length",
            path.display()
        )));
    }
    let mut word = [0; 8];
    handle.with(|file| file.read_exact_at(&mut word, 0)).map_err(Error::io(path, "read"))?;
    let within = |error: Error| error.within(&path.display().to_string());
    let header_len = Header::length(word, len).map_err(within)?;
    let mut json = vec![0; header_len as usize];
    handle.with(|file| file.read_exact_at(&mut json, 8)).map_err(Error::io(path, "read"))?;
    let data_start = 8 + header_len;
    let mut header = Header::parse(&json, len - data_start).map_err(within)?;
    for tensor in &mut header.tensors {
        tensor.file = ordinal as u32;
        tensor.start += data_start;
        tensor.end += data_start;
    }
    Ok((handle, header))
}

fn open_shards(root: &Path, path: &Path) -> Result<Checkpoint> {
    let named = path.display().to_string();
    let index = Index::parse(&read_bounded(path)?).map_err(|error| error.within(&named))?;
    let mut files = Vec::with_capacity(index.shards().len());
    let (mut tensors, mut unlisted) = (Vec::new(), Vec::new());
    let mut metadata = BTreeMap::new();
    for (ordinal, shard) in index.shards().iter().enumerate() {
        let (handle, header) = open_file(root.join(shard), ordinal).map_err(|error| match error {
            Error::NotFound(_) => missing_shard(root, &index, ordinal),
            other => other,
        })?;
        files.push(handle);
        if ordinal == 0 {
            metadata = header.metadata;
        }
        for tensor in header.tensors {
            match index.find(&tensor.name) {
                Some(holder) if holder == ordinal => tensors.push(tensor),
                Some(_) => {}
                None => unlisted.push(tensor.name),
            }
        }
    }
    let checkpoint = Checkpoint::assemble(root, files, tensors, metadata, unlisted);
    // What was kept lies where the index says; what it names must have been kept.
    match index.tensors().find(|(name, _)| checkpoint.find(name).is_none()) {
        None => Ok(checkpoint),
        Some((name, holder)) => Err(Error::Checkpoint(format!(
            "{named}: weight_map: tensor {} is not in shard {}",
            quote(name),
            quote(&index.shards()[holder])
        ))),
    }
}

fn missing_shard(root: &Path, index: &Index, shard: usize) -> Error {
    let needs = index.tensors().find(|(_, holder)| *holder == shard).map_or("", |(name, _)| name);
    let shard = quote(&index.shards()[shard]);
    Error::NotFound(format!("{}: shard {shard} is missing; tensor {} needs it", root.display(), quote(needs)))
}

/// A whole file of at most [`MAX_HEADER`] bytes.
fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let handle = Handle::open(path.to_path_buf(), Access::Read, 0)?;
    let mut bytes = Vec::new();
    let read = |file: &File| file.take(MAX_HEADER + 1).read_to_end(&mut bytes);
    handle.with(read).map_err(Error::io(path, "read"))?;
    Ok(bytes)
}
