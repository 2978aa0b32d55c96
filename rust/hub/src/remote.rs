//! A model on the Hub.

use crate::cache;
use crate::download::{self, Said};
use crate::http::{Ask, Http};
use crate::lock;
use crate::repo::{Repo, is_commit};
use crate::settings::Settings;
use polmrs_core::{Ctl, Error, Result};
use serde_json::Value as Json;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Bytes of a listing that are read.
const MAX_LISTING: u64 = 50 << 20;

/// A model on the Hub, at one commit.
pub struct Remote {
    http: Http,
    settings: Settings,
    repo: Repo,
    commit: String,
    files: Vec<String>,
}

impl Remote {
    /// Asks the Hub for the commit of a revision and its files, and notes the commit in the cache.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown, private or gated model; [`Error::Io`] where the Hub cannot be reached.
    pub fn resolve(settings: &Settings, repo: &Repo, ctl: &Ctl) -> Result<Remote> {
        let http = Http::new(settings, repo);
        let url = format!("{}/api/models/{}/revision/{}", settings.endpoint, repo.id, encoded(repo.revision()));
        let bad = |rule: &str| Error::Checkpoint(format!("{url}: {rule}"));
        let mut text = Vec::new();
        let body = http.send(&url, Ask::Get(0, None), ctl)?.body();
        body.take(MAX_LISTING).read_to_end(&mut text).map_err(Error::io(&url, "read"))?;
        let listing: Json = serde_json::from_slice(&text).map_err(|error| bad(&error.to_string()))?;
        let commit = listing["sha"].as_str().filter(|sha| is_commit(sha)).ok_or_else(|| bad("names no commit"))?;
        let names = listing["siblings"].as_array().into_iter().flatten().filter_map(|file| file["rfilename"].as_str());
        let files = names.filter(|name| is_plain(name)).map(str::to_owned).collect();
        let remote = Remote { http, settings: settings.clone(), repo: repo.clone(), commit: commit.into(), files };
        remote.note_commit()?;
        Ok(remote)
    }

    /// The files at the top of the model, in the order of the listing; those in folders are left out.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// The folder of this commit's files in the cache.
    pub fn snapshot(&self) -> PathBuf {
        cache::folder(&self.settings, &self.repo).join("snapshots").join(&self.commit)
    }

    /// The bytes `first .. first + len` of a file, fewer at its end, and the size of the whole.
    pub fn read(&self, name: &str, first: u64, len: u64, ctl: &Ctl) -> Result<(Vec<u8>, u64)> {
        let url = self.url(name);
        let answer = self.http.send(&url, Ask::Get(first, Some(first + len)), ctl)?;
        let size = answer.size().ok_or_else(|| Error::Checkpoint(format!("{url}: the server states no size")))?;
        let skipped = first.checked_sub(answer.first());
        let skipped =
            skipped.ok_or_else(|| Error::Checkpoint(format!("{url}: another range than the one asked for")))?;
        let mut body = answer.body();
        let failed = || Error::io(&url, "read");
        std::io::copy(&mut (&mut body).take(skipped), &mut std::io::sink()).map_err(failed())?;
        let mut bytes = Vec::new();
        body.take(len).read_to_end(&mut bytes).map_err(failed())?;
        Ok((bytes, size))
    }

    /// Brings a file into the cache, if it is not there, and gives its path there.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the bytes are not the ones that the Hub names; [`Error::Cancelled`] leaves what has
    /// arrived for the next run.
    pub fn fetch(&self, name: &str, ctl: &Ctl) -> Result<PathBuf> {
        let pointer = self.snapshot().join(name);
        if let Ok(there) = pointer.metadata() {
            ctl.advance(there.len());
            return Ok(pointer);
        }
        let url = self.url(name);
        let answer = self.http.send(&url, Ask::Head, ctl)?;
        let etag = answer.etag().filter(|etag| is_etag(etag));
        let etag = etag.ok_or_else(|| Error::Checkpoint(format!("{url}: the server states no usable etag")))?;
        let said = Said { etag: etag.into(), size: answer.size() };
        let home = cache::folder(&self.settings, &self.repo);
        let lock = self.settings.cache.join(".locks").join(self.repo.folder()).join(format!("{etag}.lock"));
        let blobs = home.join("blobs");
        create(&blobs)?;
        let held = lock::acquire(&lock, ctl)?;
        if !blobs.join(etag).exists() {
            download::blob(&self.http, &url, &said, &blobs, ctl)?;
        }
        link(&Path::new("../../blobs").join(etag), &pointer)?;
        drop(held);
        Ok(pointer)
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{}/resolve/{}/{}", self.settings.endpoint, self.repo.id, self.commit, encoded(name))
    }

    /// Writes `refs/<revision>` whole, and the snapshot's folder.
    fn note_commit(&self) -> Result<()> {
        create(&self.snapshot())?;
        let revision = self.repo.revision();
        if is_commit(revision) || cache::commit(&self.settings, &self.repo).as_ref() == Some(&self.commit) {
            return Ok(());
        }
        let file = cache::folder(&self.settings, &self.repo).join("refs").join(revision);
        file.parent().map_or(Ok(()), create)?;
        let mut fresh = file.clone().into_os_string();
        fresh.push(format!(".{}.tmp", std::process::id()));
        fs::write(&fresh, &self.commit).map_err(Error::io(&fresh, "write"))?;
        fs::rename(&fresh, &file).map_err(Error::io(&file, "write"))
    }
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder, "create"))
}

/// Points a snapshot's file to its blob; a pointer to nothing is replaced.
fn link(blob: &Path, pointer: &Path) -> Result<()> {
    match symlink(blob, pointer) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && pointer.exists() => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(pointer).map_err(Error::io(pointer, "replace"))?;
            symlink(blob, pointer).map_err(Error::io(pointer, "create"))
        }
        other => other.map_err(Error::io(pointer, "create")),
    }
}

/// A file name that leads nowhere else.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// An etag that can be a file name.
fn is_etag(etag: &str) -> bool {
    (1..=128).contains(&etag.len()) && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A path's step as it stands in an address.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_leads_nowhere_else() {
        assert!(is_plain("model-00001-of-00002.safetensors") && is_etag(&"0a".repeat(32)));
        assert!(["", "../x", "a/b", ".gitattributes", "a\\b"].iter().all(|name| !is_plain(name)));
        assert!(["", "../x", "a/b", "a.b"].iter().all(|etag| !is_etag(etag)));
        assert_eq!(encoded("refs/pr/1+x"), "refs%2Fpr%2F1%2Bx");
    }
}
