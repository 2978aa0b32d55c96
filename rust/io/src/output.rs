//! Output folders that are whole or not there: work happens in `OUT.partial`, one rename makes it `OUT`.
//!
//! `OUT.partial` holds a locked file, so a second run into the same place is told that the first is at work, and what a
//! killed run left is recognised and replaced. It appears by renaming a folder that holds the lock already, so of any
//! number of runs that begin together exactly one wins.

use polmrs_core::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

const LOCK: &str = ".polmrs.lock";

/// An output folder in the making.
#[derive(Debug)]
pub struct Output {
    out: PathBuf,
    partial: PathBuf,
    overwrite: bool,
    _lock: File,
}

impl Output {
    /// Takes `OUT.partial` for this run.
    ///
    /// # Errors
    /// [`Error::Exists`] if `out` is there and `overwrite` is not set, if it is there and does not look like a model
    /// folder, or if another run is writing it.
    pub fn begin(out: &Path, overwrite: bool) -> Result<Output> {
        check_target(out, overwrite)?;
        let out = resolve(out)?;
        let Some(name) = out.file_name() else {
            return Err(Error::Usage(format!("{}: not the name of a folder", out.display())));
        };
        let beside = |suffix: String| {
            let mut name = name.to_owned();
            name.push(suffix);
            out.with_file_name(name)
        };
        let partial = beside(".partial".into());
        let fresh = beside(format!(".partial-{}", std::process::id()));
        if let Some(parent) = out.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
        }
        for _ in 0..3 {
            match claim(&fresh, &partial)? {
                Some(lock) => return Ok(Output { out, partial, overwrite, _lock: lock }),
                None => clear_remnant(&partial)?,
            }
        }
        Err(busy(&partial))
    }

    /// Where to write.
    pub fn folder(&self) -> &Path {
        &self.partial
    }

    /// Writes a small file into the folder, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial.join(name);
        let mut file = File::create_new(&path).map_err(Error::io(&path, "create"))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(&path, "write"))
    }

    /// Copies a file into the folder, durably.
    pub fn copy(&self, from: &Path, name: &str) -> Result<()> {
        let path = self.partial.join(name);
        let mut source = File::open(from).map_err(Error::io(from, "open"))?;
        let mut file = File::create_new(&path).map_err(Error::io(&path, "create"))?;
        io::copy(&mut source, &mut file).and_then(|_| file.sync_all()).map_err(Error::io(&path, "write"))
    }

    /// Makes the folder the output; everything in it must be durable already.
    pub fn commit(self) -> Result<()> {
        let lock = self.partial.join(LOCK);
        fs::remove_file(&lock).map_err(Error::io(&lock, "remove"))?;
        sync_folder(&self.partial)?;
        let mut old = self.partial.clone().into_os_string();
        old.push(".old");
        let old = PathBuf::from(old);
        let replaced = self.overwrite && self.out.symlink_metadata().is_ok();
        if replaced {
            fs::rename(&self.out, &old).map_err(Error::io(&self.out, "replace"))?;
        }
        if let Err(error) = fs::rename(&self.partial, &self.out) {
            if replaced {
                fs::rename(&old, &self.out).map_err(Error::io(&self.out, "put back"))?;
            }
            return Err(Error::io(&self.out, "create")(error));
        }
        if let Some(parent) = self.out.parent() {
            sync_folder(parent)?;
        }
        if replaced {
            fs::remove_dir_all(&old).map_err(Error::io(&old, "remove"))?;
        }
        Ok(())
    }

    /// Removes what was written. The error that led here is the one to tell, so this one is passed over.
    pub fn discard(self) {
        let _ = fs::remove_dir_all(&self.partial);
    }
}

/// The absolute path of an output that need not exist: what exists of it with links followed, then the rest by name.
pub fn resolve(out: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(out).map_err(Error::io(out, "find"))?;
    let mut resolved = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => drop(resolved.pop()),
            other => resolved.push(other),
        }
        if let Ok(real) = resolved.canonicalize() {
            resolved = real;
        }
    }
    Ok(resolved)
}

/// Whether `out` may be written.
fn check_target(out: &Path, overwrite: bool) -> Result<()> {
    let shown = out.display();
    let kind = match out.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(out, "look at")(error)),
        Ok(metadata) => metadata.file_type(),
    };
    if !kind.is_dir() {
        return Err(Error::Exists(format!("{shown}: exists and is not a folder")));
    }
    let entries = fs::read_dir(out).map_err(Error::io(out, "list"))?;
    let names: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name())).collect();
    let is_model = names.iter().any(|name| Path::new(name).extension().is_some_and(|end| end == "safetensors"));
    match (names.is_empty(), overwrite, is_model) {
        (true, ..) | (_, true, true) => Ok(()),
        (_, false, _) => Err(Error::Exists(format!("{shown}: exists; --overwrite replaces it"))),
        (_, true, false) => {
            Err(Error::Exists(format!("{shown}: holds no *.safetensors, so --overwrite does not replace it")))
        }
    }
}

/// Makes a folder with a locked file and renames it to `partial`; nothing if `partial` is there already.
fn claim(fresh: &Path, partial: &Path) -> Result<Option<File>> {
    let _ = fs::remove_dir_all(fresh); // of an earlier process with our number
    fs::create_dir(fresh).map_err(Error::io(fresh, "create"))?;
    let lock = File::create_new(fresh.join(LOCK)).map_err(Error::io(fresh, "create"))?;
    lock.lock().map_err(Error::io(fresh, "lock"))?;
    match fs::rename(fresh, partial) {
        Ok(()) => Ok(Some(lock)),
        Err(error) => {
            let _ = fs::remove_dir_all(fresh);
            match error.kind() {
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => Ok(None),
                _ => Err(Error::io(partial, "create")(error)),
            }
        }
    }
}

/// Removes what a killed run left, if it is that.
fn clear_remnant(partial: &Path) -> Result<()> {
    let lock = match File::options().read(true).write(true).open(partial.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound && partial.is_dir() => {
            let shown = partial.display();
            return Err(Error::Exists(format!("{shown}: was not made by polmrs; move it away, or write elsewhere")));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(partial, "open")(error)),
    };
    match lock.try_lock() {
        Ok(()) => fs::remove_dir_all(partial).map_err(Error::io(partial, "remove")),
        Err(TryLockError::WouldBlock) => Err(busy(partial)),
        Err(TryLockError::Error(error)) => Err(Error::io(partial, "lock")(error)),
    }
}

fn busy(partial: &Path) -> Error {
    Error::Exists(format!("{}: another run is writing it", partial.display()))
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder, "sync"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_appears_only_when_committed() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("deep/out");
        let output = Output::begin(&out, false).unwrap();
        output.put("config.json", b"{}").unwrap();
        assert!(!out.exists() && output.folder().ends_with("out.partial"));
        output.commit().unwrap();
        let names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["config.json"]);
    }

    #[test]
    fn a_second_run_is_told_that_the_first_is_at_work() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let first = Output::begin(&out, false).unwrap();
        assert!(Output::begin(&out, false).unwrap_err().to_string().ends_with("another run is writing it"));
        drop(first); // as if it had been killed
        Output::begin(&out, false).unwrap().discard();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn of_many_runs_that_begin_together_one_wins() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let winners: usize = std::thread::scope(|scope| {
            // Threads share a process number, so each takes a name of its own for the folder that it renames.
            let begin = |fresh: PathBuf, partial: PathBuf| claim(&fresh, &partial).unwrap();
            let runs: Vec<_> = (0..20)
                .map(|run| {
                    let (fresh, partial) = (home.path().join(format!("fresh{run}")), out.clone());
                    scope.spawn(move || begin(fresh, partial))
                })
                .collect();
            let locks: Vec<_> = runs.into_iter().map(|run| run.join().unwrap()).collect();
            locks.iter().flatten().count()
        });
        assert_eq!(winners, 1);
    }

    #[test]
    fn only_a_model_folder_is_replaced_and_only_if_asked() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("thesis.tex"), "precious").unwrap();
        assert!(Output::begin(&out, true).unwrap_err().to_string().contains("holds no *.safetensors"));
        fs::write(out.join("model.safetensors"), "old").unwrap();
        assert!(Output::begin(&out, false).unwrap_err().to_string().contains("--overwrite replaces it"));
        let output = Output::begin(&out, true).unwrap();
        output.put("model.safetensors", b"new").unwrap();
        output.commit().unwrap();
        assert_eq!(fs::read(out.join("model.safetensors")).unwrap(), b"new");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_polmrs_did_not_make_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("out.partial")).unwrap();
        fs::write(home.path().join("out.partial/mine"), "").unwrap();
        let error = Output::begin(&home.path().join("out"), false).unwrap_err().to_string();
        assert!(error.contains("was not made by polmrs"), "{error}");
        assert!(home.path().join("out.partial/mine").exists());
    }
}
