//! One error type for the whole library.
//!
//! A message names the thing, the value and the rule: `merge.density: 1.4 is not in (0, 1]`.
//! The variant says whose fault it is; the exit code and the Python class follow from it.

use std::io;
use std::path::{Path, PathBuf};

/// What went wrong, in words for the person who can mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line does not make sense.
    #[error("{0}")]
    Usage(String),
    /// A configuration (YAML, method parameters) breaks a rule.
    #[error("{0}")]
    Config(String),
    /// A checkpoint is malformed, or does not fit the others.
    #[error("{0}")]
    Checkpoint(String),
    /// An array argument has the wrong dtype, shape or layout.
    #[error("{0}")]
    Array(String),
    /// Something named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The output is there already, or somebody is writing it.
    #[error("{0}")]
    Exists(String),
    /// The operating system refused to read or write.
    #[error("{}: cannot {action}: {source}{}", path.display(), hint(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb: `read`, `create`.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A NaN or an infinity where numbers are needed.
    #[error("{0}")]
    NonFinite(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// A broken promise inside polmrs.
    #[error("{0} (this is a bug in polmrs)")]
    Internal(String),
}

/// `Result` with the library's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps the operating system's answer with the path and what was tried.
    pub fn io(path: impl AsRef<Path>, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| {
            if source.kind() == io::ErrorKind::NotFound {
                Error::NotFound(format!("{}: no such file or folder", path.display()))
            } else {
                Error::Io { path, action, source }
            }
        }
    }

    /// The process exit code: 1 failed, 2 usage, 3 bad input, 4 I/O or space, 5 non-finite, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Internal(_) => 1,
            Error::Usage(_) => 2,
            Error::Config(_) | Error::Checkpoint(_) | Error::Array(_) | Error::NotFound(_) | Error::Exists(_) => 3,
            Error::Io { .. } => 4,
            Error::NonFinite(_) => 5,
            Error::Cancelled => 130,
        }
    }

    /// The same error with `context: ` before its message, where the variant holds words.
    #[must_use]
    pub fn within(self, context: &str) -> Error {
        let join = |message: String| format!("{context}: {message}");
        match self {
            Error::Usage(m) => Error::Usage(join(m)),
            Error::Config(m) => Error::Config(join(m)),
            Error::Checkpoint(m) => Error::Checkpoint(join(m)),
            Error::Array(m) => Error::Array(join(m)),
            Error::NotFound(m) => Error::NotFound(join(m)),
            Error::NonFinite(m) => Error::NonFinite(join(m)),
            Error::Internal(m) => Error::Internal(join(m)),
            other @ (Error::Exists(_) | Error::Io { .. } | Error::Cancelled) => other,
        }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => "; free some space or write elsewhere",
        io::ErrorKind::PermissionDenied => "; check the owner and the mode of the folder",
        io::ErrorKind::ReadOnlyFilesystem => "; write to another file system",
        _ => "",
    }
}

/// The candidate nearest to `word` by edit distance, if near enough to be a slip of the finger.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `"; did you mean x?"` for the nearest candidate, or nothing.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |near| format!("; did you mean '{near}'?"))
}

/// Levenshtein distance over characters, a swap of neighbours counting as one edit.
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut older: Vec<usize> = vec![0; b.len() + 1];
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let substitution = previous[j] + usize::from(a[i] != b[j]);
            row[j + 1] = substitution.min(previous[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(older[j - 1] + 1);
            }
        }
        older = std::mem::replace(&mut previous, row);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_named_and_a_stranger_is_not() {
        let known = ["density", "weight", "lambda"];
        assert_eq!(nearest("densitty", known), Some("density"));
        assert_eq!(nearest("wieght", known), Some("weight"));
        assert_eq!(nearest("temperature", known), None);
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        let error = Error::io("/x", "write")(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().ends_with("free some space or write elsewhere"), "{error}");
    }

    #[test]
    fn a_missing_file_is_bad_input() {
        let error = Error::io("/x", "read")(io::Error::from(io::ErrorKind::NotFound));
        assert_eq!((error.exit_code(), error.to_string()), (3, "/x: no such file or folder".into()));
    }
}
