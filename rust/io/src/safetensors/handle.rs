//! Files that stay open, as many as a process may hold.

use polmrs_core::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Files of one checkpoint that stay open; those beyond are opened for each access. Half of the usual limit.
const KEPT_OPEN: usize = 512;

/// What a file is opened for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    /// Reading, through a symlink too: the Hugging Face cache is made of them.
    Read,
    /// Reading and writing the file itself, never what it links to.
    Write,
}

/// A regular file of a checkpoint.
#[derive(Debug)]
pub(super) struct Handle {
    path: PathBuf,
    access: Access,
    kept: Option<File>,
}

impl Handle {
    /// Opens a file. `ordinal` is its place in the checkpoint.
    pub(super) fn open(path: PathBuf, access: Access, ordinal: usize) -> Result<Handle> {
        // Asked before opening: opening a pipe would wait for its other end.
        if !path.metadata().map_err(Error::io(&path, "open"))?.is_file() {
            return Err(Error::Checkpoint(format!("{}: not a file", path.display())));
        }
        let file = open(&path, access).map_err(Error::io(&path, "open"))?;
        Ok(Handle::keep(path, file, access, ordinal))
    }

    /// Creates a file that is not there yet.
    pub(super) fn create(path: PathBuf, ordinal: usize) -> Result<Handle> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                Error::Exists(format!("{}: is there already", path.display()))
            } else {
                Error::io(&path, "create")(error)
            }
        })?;
        Ok(Handle::keep(path, file, Access::Write, ordinal))
    }

    fn keep(path: PathBuf, file: File, access: Access, ordinal: usize) -> Handle {
        Handle { path, access, kept: (ordinal < KEPT_OPEN).then_some(file) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Calls with the open file.
    pub(super) fn with<T>(&self, call: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        match &self.kept {
            Some(file) => call(file),
            None => call(&open(&self.path, self.access)?),
        }
    }
}

fn open(path: &Path, access: Access) -> io::Result<File> {
    match access {
        Access::Read => File::open(path),
        Access::Write => OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path),
    }
}
