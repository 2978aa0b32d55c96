//! The cache on disk, as `huggingface_hub` lays it out:
//!
//! ```text
//! models--org--name/
//!     refs/main                        the commit that a branch or tag named when it was last asked
//!     blobs/<etag>                     the files' bytes
//!     snapshots/<commit>/config.json   a symlink to ../../blobs/<etag>
//! ```

use crate::repo::{Repo, is_commit};
use crate::settings::Settings;
use std::fs;
use std::path::PathBuf;

/// The folder of a model, whether it is there or not.
pub fn folder(settings: &Settings, repo: &Repo) -> PathBuf {
    settings.cache.join(repo.folder())
}

/// The commit that a revision named when it was last asked; a commit names itself.
pub fn commit(settings: &Settings, repo: &Repo) -> Option<String> {
    let revision = repo.revision();
    if is_commit(revision) {
        return Some(revision.into());
    }
    let text = fs::read_to_string(folder(settings, repo).join("refs").join(revision)).ok()?;
    Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
}

/// The folder of the files at a revision, if the cache has any of them.
pub fn snapshot(settings: &Settings, repo: &Repo) -> Option<PathBuf> {
    let snapshot = folder(settings, repo).join("snapshots").join(commit(settings, repo)?);
    snapshot.is_dir().then_some(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_and_its_commit_are_one_snapshot() {
        let home = tempfile::tempdir().unwrap();
        let settings = Settings { cache: home.path().into(), endpoint: String::new(), token: None, offline: true };
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let snapshots = home.path().join("models--a--b/snapshots");
        fs::create_dir_all(snapshots.join(hash)).unwrap();
        fs::create_dir_all(home.path().join("models--a--b/refs/pr")).unwrap();
        fs::write(home.path().join("models--a--b/refs/main"), hash).unwrap();
        fs::write(home.path().join("models--a--b/refs/pr/1"), "../../../elsewhere").unwrap();
        let at = |text: &str| snapshot(&settings, &Repo::parse(text).unwrap());
        assert_eq!(at("a/b"), Some(snapshots.join(hash)));
        assert_eq!(at(&format!("a/b@{hash}")), Some(snapshots.join(hash)));
        assert_eq!((at("a/b@pr/1"), at("a/b@other"), at("a/c")), (None, None, None));
    }
}
