//! One downloader of a file at a time: the lock files that `huggingface_hub` uses, `.locks/models--org--name/<etag>.lock`.

use polmrs_core::{Ctl, Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Between two looks at a lock that somebody holds.
const LOOK: Duration = Duration::from_millis(100);

/// Waits for a lock; it is held until the file is dropped.
pub(crate) fn acquire(path: &Path, ctl: &Ctl) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    }
    loop {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(path).map_err(Error::io(path, "open"))?;
        match file.try_lock() {
            // Its last holder may have removed the file between the opening and the locking.
            Ok(()) if is_at(&file, path) => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                ctl.check()?;
                thread::sleep(LOOK);
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(path, "lock")(error)),
        }
    }
}

/// Whether the path still names the open file.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((file.metadata(), path.metadata()), (Ok(a), Ok(b)) if same(&a, &b))
}
