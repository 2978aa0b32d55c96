//! `OUT.parts`: the folder of results that stand beside an output while it is made.
//!
//! A result stands there under a key, the SHA-256 of everything that its bits depend on, and appears by the rename that ends
//! every merge: what an interrupted run has left is used again if the key is the same, and is whole if it is there at all.

use polmrs_core::{Error, Result};
use polmrs_io::output;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

const LOCK: &str = ".polmrs.lock";

/// The folder, held by one run.
pub(crate) struct Parts {
    folder: PathBuf,
    /// The keys of this run.
    keys: Vec<String>,
    _lock: File,
}

impl Parts {
    /// Takes the folder for an output that may be written.
    pub(super) fn claim(out: &Path, overwrite: bool) -> Result<Parts> {
        output::check(out, overwrite)?;
        let out = output::resolve(out)?;
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".parts");
        let folder = out.with_file_name(name);
        let (lock, shown) = (folder.join(LOCK), folder.display());
        // A run that was killed as it came or went may have left the folder empty.
        let emptied = || fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
        if folder.exists() && !lock.exists() && !emptied() {
            return Err(Error::Exists(format!("{shown}: was not made by polmrs; move it away, or write elsewhere")));
        }
        fs::create_dir_all(&folder).map_err(Error::io(&folder, "create"))?;
        let held = File::options().create(true).append(true).open(&lock).map_err(Error::io(&lock, "open"))?;
        match held.try_lock() {
            Ok(()) => Ok(Parts { folder, keys: Vec::new(), _lock: held }),
            Err(TryLockError::WouldBlock) => Err(Error::Exists(format!("{shown}: another run is writing it"))),
            Err(TryLockError::Error(error)) => Err(Error::io(&folder, "lock")(error)),
        }
    }

    /// Where a result of a key is, or is to be written; whether it is there. If not, what belongs to no key of this
    /// run so far goes.
    pub(super) fn place(&mut self, key: String, name: &str) -> Result<(PathBuf, bool)> {
        let path = self.folder.join(&key).join(name);
        self.keys.push(key);
        let there = path.exists();
        if !there {
            self.clear()?;
        }
        Ok((path, there))
    }

    /// Whether the result of a key is there.
    pub(super) fn holds(&self, key: &str, name: &str) -> bool {
        self.folder.join(key).join(name).exists()
    }

    /// Removes the results of other keys. The lock, which says whose folder it is, stays.
    fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder).map_err(Error::io(&self.folder, "list"))?.flatten() {
            if entry.path().is_dir() && !self.keys.iter().any(|key| entry.file_name() == key.as_str()) {
                fs::remove_dir_all(entry.path()).map_err(Error::io(entry.path(), "remove"))?;
            }
        }
        Ok(())
    }

    /// Passes on what came of the output. The folder goes, unless the next run can use what is in it: after a cancellation,
    /// an error of the disk, and a refusal of what stands there.
    pub(crate) fn settle<T>(self, done: Result<T>) -> Result<T> {
        match done {
            Err(error @ (Error::Cancelled | Error::Io { .. } | Error::Exists(_))) => Err(error),
            other => {
                self.remove()?;
                other
            }
        }
    }

    /// Removes the folder.
    fn remove(mut self) -> Result<()> {
        self.keys.clear();
        self.clear()?;
        fs::remove_dir_all(&self.folder).map_err(Error::io(&self.folder, "remove"))
    }
}
