//! Output folders that are whole or not there: work happens in `OUT.partial`, one rename makes it `OUT`.
//!
//! `OUT.partial` holds a locked file, so a second run into the same place is told that the first is at work, and what a
//! killed run left is recognised, and replaced or gone on with. It appears, and goes, by renaming a folder that holds the
//! lock, so of any number of runs that begin together exactly one wins, and the others say why they did not.

use polmrs_core::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const LOCK: &str = ".polmrs.lock";
const JOURNAL: &str = ".polmrs.journal";
const SCRATCH: &str = ".polmrs.scratch";

/// An output folder in the making.
#[derive(Debug)]
pub struct Output {
    out: PathBuf,
    partial: PathBuf,
    overwrite: bool,
    resumed: bool,
    _lock: File,
}

impl Output {
    /// Takes `OUT.partial` for this run. What a killed run left there is replaced, or kept if `resume` is set.
    ///
    /// # Errors
    /// [`Error::Exists`] if `out` is there and `overwrite` is not set, if it is there and does not look like a model
    /// folder, or if another run is writing it.
    pub fn begin(out: &Path, overwrite: bool, resume: bool) -> Result<Output> {
        let shown = out;
        let out = resolve(out)?;
        if out.join(LOCK).exists() && take_over(&out)?.is_some() {
            settle(&out, &beside(&out, ".partial"))?; // a run was killed between its last two steps
        }
        check(shown, overwrite)?;
        if out.file_name().is_none() {
            return Err(Error::Usage(format!("{}: not the name of a folder", out.display())));
        }
        let partial = beside(&out, ".partial");
        if let Some(parent) = out.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
        }
        for _ in 0..3 {
            let (lock, resumed) = match claim(&aside(&out), &partial)? {
                Some(lock) => (lock, false),
                None => match take_over(&partial)? {
                    Some(lock) if resume => (lock, true),
                    Some(_lock) => {
                        remove(&out, &partial).map_err(Error::io(&partial, "remove"))?;
                        continue;
                    }
                    None => continue,
                },
            };
            let output = Output { out, partial, overwrite, resumed, _lock: lock };
            // Another run may have finished since the first look.
            return match settle(&output.out, &output.partial).and_then(|()| check(shown, overwrite)) {
                Ok(()) => Ok(output),
                Err(error) if resumed => Err(error),
                Err(error) => {
                    output.discard();
                    Err(error)
                }
            };
        }
        Err(busy(&partial))
    }

    /// Whether an earlier run began it.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Where the journal of the work belongs; it goes when the folder becomes the output.
    pub fn journal(&self) -> PathBuf {
        self.partial.join(JOURNAL)
    }

    /// A folder for what is not part of the output: intermediate results. It goes when the folder becomes the output.
    pub fn scratch(&self) -> Result<PathBuf> {
        let scratch = self.partial.join(SCRATCH);
        fs::create_dir_all(&scratch).map_err(Error::io(&scratch, "create"))?;
        Ok(scratch)
    }

    /// Empties the folder that an earlier run began.
    pub fn clear(&self) -> Result<()> {
        let entries = fs::read_dir(&self.partial).map_err(Error::io(&self.partial, "list"))?;
        for entry in entries.filter_map(|entry| entry.ok()).filter(|entry| entry.file_name() != LOCK) {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                .map_err(Error::io(&path, "remove"))?;
        }
        Ok(())
    }

    /// Where to write.
    pub fn folder(&self) -> &Path {
        &self.partial
    }

    /// Writes a small file into the folder, durably, in place of one that an earlier run wrote.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.vacant(name)?;
        let mut file = File::create_new(&path).map_err(Error::io(&path, "create"))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(&path, "write"))
    }

    /// Copies a file into the folder, durably, in place of one that an earlier run wrote.
    pub fn copy(&self, from: &Path, name: &str) -> Result<()> {
        let path = self.vacant(name)?;
        let mut source = File::open(from).map_err(Error::io(from, "open"))?;
        let mut file = File::create_new(&path).map_err(Error::io(&path, "create"))?;
        io::copy(&mut source, &mut file).and_then(|_| file.sync_all()).map_err(Error::io(&path, "write"))
    }

    /// The path of a file that is not there (any more).
    fn vacant(&self, name: &str) -> Result<PathBuf> {
        let path = self.partial.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(&path, "replace")(error)),
            _ => Ok(path),
        }
    }

    /// Makes what the folder lists durable.
    pub fn sync(&self) -> Result<()> {
        sync_folder(&self.partial)
    }

    /// Makes the folder the output; everything in it must be durable already.
    pub fn commit(self) -> Result<()> {
        let scratch = self.partial.join(SCRATCH);
        if scratch.symlink_metadata().is_ok() {
            fs::remove_dir_all(&scratch).map_err(Error::io(&scratch, "remove"))?;
        }
        sync_folder(&self.partial)?;
        let old = beside(&self.partial, ".old");
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
        settle(&self.out, &self.partial)?;
        self.out.parent().map_or(Ok(()), sync_folder)
    }

    /// Removes what was written. The error that led here is the one to tell, so this one is passed over.
    pub fn discard(self) {
        let _ = remove(&self.out, &self.partial);
    }
}

/// Ends what a commit that was cut short began: takes lock and journal out of the output, and removes the folder that
/// it replaced, or puts that folder back if nothing took its place.
fn settle(out: &Path, partial: &Path) -> Result<()> {
    let old = beside(partial, ".old");
    if !out.is_dir() {
        if old.is_dir() {
            fs::rename(&old, out).map_err(Error::io(out, "put back"))?;
        }
        return Ok(());
    }
    for name in [JOURNAL, LOCK] {
        let path = out.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(&path, "remove")(error)),
            _ => {}
        }
    }
    if old.is_dir() {
        fs::remove_dir_all(&old).map_err(Error::io(&old, "remove"))?;
    }
    Ok(())
}

/// `path` with more to its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A name beside `out` that nobody else uses.
fn aside(out: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    beside(out, &format!(".partial-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed)))
}

/// Removes a folder whose lock we hold. It goes under another name first: nobody sees it half removed.
fn remove(out: &Path, partial: &Path) -> io::Result<()> {
    let doomed = aside(out);
    fs::rename(partial, &doomed)?;
    fs::remove_dir_all(&doomed)
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

/// Whether an interrupted run has left something of `out`.
pub fn has_remnant(out: &Path) -> bool {
    resolve(out).is_ok_and(|out| beside(&out, ".partial").exists())
}

/// Whether `out` may be written, before any work.
///
/// # Errors
/// [`Error::Exists`] if it is there and `overwrite` is not set, or if it does not look like a model folder.
pub fn check(out: &Path, overwrite: bool) -> Result<()> {
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

/// Locks what a killed run left, if it is that; nothing if it is gone.
fn take_over(partial: &Path) -> Result<Option<File>> {
    let path = partial.join(LOCK);
    let lock = match File::options().read(true).write(true).open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound && partial.is_dir() => {
            let shown = partial.display();
            return Err(Error::Exists(format!("{shown}: was not made by polmrs; move it away, or write elsewhere")));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(partial, "open")(error)),
    };
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(busy(partial)),
        Err(TryLockError::Error(error)) => return Err(Error::io(partial, "lock")(error)),
    }
    // Between opening and locking, its owner may have finished and another run have begun.
    let number = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let same = lock.metadata().ok().map(number) == path.metadata().ok().map(number);
    Ok(Some(lock).filter(|_| same))
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
        let output = Output::begin(&out, false, false).unwrap();
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
        let first = Output::begin(&out, false, false).unwrap();
        assert!(Output::begin(&out, false, false).unwrap_err().to_string().ends_with("another run is writing it"));
        drop(first); // as if it had been killed
        Output::begin(&out, false, false).unwrap().discard();
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
    fn what_a_killed_run_left_is_kept_if_asked() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let killed = Output::begin(&out, false, true).unwrap();
        assert!(!killed.resumed());
        killed.put("config.json", b"{}").unwrap();
        drop(killed);
        let output = Output::begin(&out, false, true).unwrap();
        assert!(output.resumed() && output.folder().join("config.json").exists());
        output.put("config.json", b"[]").unwrap();
        fs::write(output.journal(), "what was done").unwrap();
        fs::write(output.scratch().unwrap().join("step1"), "half a result").unwrap();
        output.commit().unwrap();
        let names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(
            (names.as_slice(), fs::read(out.join("config.json")).unwrap()),
            (["config.json".into()].as_slice(), b"[]".to_vec())
        );
        drop(Output::begin(&home.path().join("other"), false, false).unwrap());
        let output = Output::begin(&home.path().join("other"), false, true).unwrap();
        output.put("config.json", b"{}").unwrap();
        output.clear().unwrap();
        assert_eq!(fs::read_dir(output.folder()).unwrap().count(), 1);
    }

    #[test]
    fn a_replacement_that_was_cut_short_is_ended_or_undone() {
        let home = tempfile::tempdir().unwrap();
        let (out, old) = (home.path().join("out"), home.path().join("out.partial.old"));
        fs::create_dir(&old).unwrap();
        fs::write(old.join("model.safetensors"), "old").unwrap();
        assert!(Output::begin(&out, false, false).unwrap_err().to_string().contains("--overwrite replaces it"));
        assert_eq!(fs::read(out.join("model.safetensors")).unwrap(), b"old");
        fs::create_dir(&old).unwrap();
        fs::write(out.join(LOCK), "").unwrap();
        Output::begin(&out, true, false).unwrap().discard();
        assert_eq!((fs::read_dir(home.path()).unwrap().count(), fs::read_dir(&out).unwrap().count()), (1, 1));
    }

    #[test]
    fn only_a_model_folder_is_replaced_and_only_if_asked() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("thesis.tex"), "precious").unwrap();
        assert!(Output::begin(&out, true, false).unwrap_err().to_string().contains("holds no *.safetensors"));
        fs::write(out.join("model.safetensors"), "old").unwrap();
        assert!(Output::begin(&out, false, false).unwrap_err().to_string().contains("--overwrite replaces it"));
        let output = Output::begin(&out, true, false).unwrap();
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
        let error = Output::begin(&home.path().join("out"), false, false).unwrap_err().to_string();
        assert!(error.contains("was not made by polmrs"), "{error}");
        assert!(home.path().join("out.partial/mine").exists());
    }
}
