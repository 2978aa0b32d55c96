//! A file that appears whole, or not at all: written beside its place, and renamed once it is on the disk.

use polmrs_core::{Error, Result};
use std::fs::File;
use std::path::Path;
use tempfile::NamedTempFile;

/// A file beside `out`, with the rights of any new file, which goes unless [`settle`] gives it its name.
pub fn beside(out: &Path) -> Result<NamedTempFile> {
    let folder = folder_of(out);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".polmrs-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666)); // less what the umask takes
    }
    builder.tempfile_in(folder).map_err(Error::io(folder, "create a file in"))
}

/// Gives a finished file its name; it is on the disk then.
pub fn settle(file: NamedTempFile, out: &Path, overwrite: bool) -> Result<()> {
    if overwrite {
        file.persist(out).map_err(|error| Error::io(out, "create")(error.error))?;
    } else {
        file.persist_noclobber(out).map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(out),
            _ => Error::io(out, "create")(error.error),
        })?;
    }
    let folder = folder_of(out);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder, "sync"))
}

/// The folder that a file lies in.
pub fn folder_of(out: &Path) -> &Path {
    out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The error for an output that is there already.
pub fn exists(out: &Path) -> Error {
    Error::Exists(format!("{}: exists; overwrite=True (--overwrite) replaces it", out.display()))
}
