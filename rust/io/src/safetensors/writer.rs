//! Writing a checkpoint: all files made at their final length first, then bytes from any thread in any order.

use super::handle::{Access, Handle};
use super::json::quote;
use super::layout::{Layout, Spec};
use polmrs_core::{Error, Result};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A checkpoint being written.
///
/// Dropped before [`finish`](Writer::finish), it leaves its files as they are: [`reopen`](Writer::reopen) goes on.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    layout: Layout,
    files: Vec<Handle>,
    written: AtomicU64,
}

impl Writer {
    /// Plans `model.safetensors`, or shards of it and their index, with the metadata `{"format": "pt"}`.
    ///
    /// Pure: nothing is touched. [`Layout::new`] takes other names and metadata.
    pub fn plan(specs: &[Spec], shard_size: u64) -> Result<Layout> {
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        Layout::new("model", &metadata, specs, shard_size)
    }

    /// Creates the files in a folder that is there, each with its header and its final length.
    ///
    /// # Errors
    /// [`Error::Exists`] if one of them, or an index that would hide them, is there already, be it as a symlink; then
    /// nothing of the new checkpoint is left behind.
    pub fn create(dir: &Path, layout: Layout) -> Result<Writer> {
        refuse_index(dir, &layout)?;
        let mut files = Vec::with_capacity(layout.files.len());
        match create_all(dir, &layout, &mut files) {
            Ok(()) => Ok(Writer { dir: dir.to_path_buf(), layout, files, written: AtomicU64::new(0) }),
            Err(error) => {
                for file in files {
                    // The first error is the one to tell.
                    let _ = fs::remove_file(file.path());
                }
                Err(error)
            }
        }
    }

    /// Goes on with files that [`create`](Writer::create) made from the same layout; `done` are the tensors that are in
    /// them whole, by their places among the specs. Every other one must be written again.
    ///
    /// # Errors
    /// [`Error::NotFound`] if one is missing, [`Error::Checkpoint`] if its length or header is another.
    pub fn reopen(dir: &Path, layout: Layout, done: impl IntoIterator<Item = usize>) -> Result<Writer> {
        let mut files = Vec::with_capacity(layout.files.len());
        for (ordinal, file) in layout.files.iter().enumerate() {
            let handle = Handle::open(dir.join(&file.name), Access::Write, ordinal)?;
            let mut header = vec![0; file.header.len()];
            let same = handle.with(|open| {
                let same_len = open.metadata()?.len() == file.len;
                Ok(same_len && open.read_exact_at(&mut header, 0).map(|()| header == file.header)?)
            });
            if !same.map_err(Error::io(handle.path(), "read"))? {
                let path = handle.path().display();
                return Err(Error::Checkpoint(format!("{path}: not the file that this plan began")));
            }
            files.push(handle);
        }
        let whole = done.into_iter().filter_map(|tensor| layout.places.get(tensor)).map(|place| place.nbytes).sum();
        let written = AtomicU64::new(whole);
        Ok(Writer { dir: dir.to_path_buf(), layout, files, written })
    }

    /// The plan that is followed.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes bytes of a tensor from `offset` on; `tensor` is its place among the specs. For many threads at once.
    pub fn write(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let count = self.layout.places.len();
        let Some(place) = self.layout.places.get(tensor) else {
            return Err(Error::Internal(format!("write of tensor {tensor} in a checkpoint of {count}")));
        };
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > place.nbytes) {
            return Err(Error::Internal(format!(
                "tensor {}: write of {} bytes at {offset}, of {}",
                quote(&place.name),
                bytes.len(),
                place.nbytes
            )));
        }
        let file = &self.files[place.file];
        file.with(|file| file.write_all_at(bytes, place.start + offset)).map_err(Error::io(file.path(), "write"))?;
        self.written.fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }

    /// Waits until what was written is on the disk; other threads may go on writing. Called now and then, it keeps
    /// [`finish`](Writer::finish) short.
    pub fn sync(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| file.with(File::sync_data).map_err(Error::io(file.path(), "sync")))
    }

    /// Makes everything durable, the index last, and gives the paths of all files.
    ///
    /// # Errors
    /// [`Error::Internal`] if fewer bytes were written than the tensors have: zeros would stand for weights.
    pub fn finish(self) -> Result<Vec<PathBuf>> {
        let (written, total) = (self.written.load(Relaxed), self.layout.tensor_bytes());
        if written < total {
            return Err(Error::Internal(format!("{}: {written} of {total} bytes were written", self.dir.display())));
        }
        for file in &self.files {
            file.with(File::sync_all).map_err(Error::io(file.path(), "sync"))?;
        }
        let mut paths: Vec<PathBuf> = self.files.iter().map(|file| file.path().to_path_buf()).collect();
        sync_folder(&self.dir)?;
        if let Some(json) = &self.layout.index {
            let path = self.dir.join(&self.layout.index_name);
            replace(&path, json)?;
            sync_folder(&self.dir)?;
            paths.push(path);
        }
        Ok(paths)
    }
}

fn refuse_index(dir: &Path, layout: &Layout) -> Result<()> {
    let path = dir.join(&layout.index_name);
    match path.symlink_metadata() {
        Ok(_) => Err(Error::Exists(format!("{}: is there already", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(&path, "look for")(error)),
    }
}

fn create_all(dir: &Path, layout: &Layout, files: &mut Vec<Handle>) -> Result<()> {
    for (ordinal, file) in layout.files.iter().enumerate() {
        files.push(Handle::create(dir.join(&file.name), ordinal)?);
        if let Some(handle) = files.last() {
            let begin = |open: &File| open.write_all_at(&file.header, 0).and_then(|()| open.set_len(file.len));
            handle.with(begin).map_err(Error::io(handle.path(), "write"))?;
        }
    }
    Ok(())
}

/// Writes a small file whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    let temporary = PathBuf::from(name);
    // A remnant of an interrupted run; removing a symlink leaves its target alone.
    let _ = fs::remove_file(&temporary);
    let mut file = File::create_new(&temporary).map_err(Error::io(&temporary, "create"))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(&temporary, "write"))?;
    fs::rename(&temporary, path).map_err(Error::io(path, "create"))
}

fn sync_folder(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(Error::io(dir, "sync"))
}
