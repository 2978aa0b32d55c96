//! One file into the cache. What has arrived stays in `blobs/<etag>.incomplete`, from where the next try, or the next run,
//! goes on; it becomes `blobs/<etag>` once its size and, for large files, its SHA-256 are what the Hub says.

use crate::http::{Ask, Http};
use polmrs_core::{Ctl, Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// How often a transfer may break off without a byte.
const FRUITLESS: u32 = 5;
const PIECE: usize = 1 << 18;

/// What the Hub says of a file.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// The name of its bytes.
    pub(crate) etag: String,
    /// How many there are, where that is known.
    pub(crate) size: Option<u64>,
}

/// Brings a file into the folder of blobs. The caller holds its lock.
pub(crate) fn blob(http: &Http, url: &str, said: &Said, blobs: &Path, ctl: &Ctl) -> Result<()> {
    let path = blobs.join(format!("{}.incomplete", said.etag));
    let mut options = OpenOptions::new();
    let options = options.create(true).read(true).append(true).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(&path).map_err(Error::io(&path, "create"))?;
    ctl.advance(length(&file, &path)?);
    let mut fruitless = 0;
    loop {
        let have = length(&file, &path)?;
        if Some(have) == said.size {
            break;
        }
        let answer = http.send(url, Ask::Get(have, None), ctl)?;
        if answer.status() == 416 || answer.first() != have || said.size.is_some_and(|size| have > size) {
            file.set_len(0).map_err(Error::io(&path, "cut"))?; // what is there is no beginning of this file
            if answer.status() == 416 || answer.first() != 0 {
                fruitless = tried(fruitless, url, io::Error::other("the server does not keep to ranges"))?;
                continue;
            }
        }
        match pour(answer.body(), &mut file, &path, said.size, ctl)? {
            Poured::All => break,
            Poured::Broken(error) if length(&file, &path)? == have => fruitless = tried(fruitless, url, error)?,
            Poured::Broken(_) => fruitless = 0,
        }
    }
    check(&mut file, &path, url, said, ctl)?;
    file.sync_all().map_err(Error::io(&path, "write"))?;
    fs::rename(&path, blobs.join(&said.etag)).map_err(Error::io(&path, "rename"))
}

/// How a transfer ended.
enum Poured {
    All,
    Broken(io::Error),
}

fn pour(mut body: impl Read, file: &mut File, path: &Path, size: Option<u64>, ctl: &Ctl) -> Result<Poured> {
    let mut piece = vec![0; PIECE];
    loop {
        ctl.check()?;
        match body.read(&mut piece) {
            Ok(0) => {
                let have = length(file, path)?;
                let cut = size.is_some_and(|size| have < size);
                let broken = || Poured::Broken(io::ErrorKind::UnexpectedEof.into());
                return Ok(if cut { broken() } else { Poured::All });
            }
            Ok(len) => {
                file.write_all(&piece[..len]).map_err(Error::io(path, "write"))?;
                ctl.advance(len as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Poured::Broken(error)),
        }
    }
}

/// Counts a try that brought nothing; too many in a row are an error.
fn tried(fruitless: u32, url: &str, source: io::Error) -> Result<u32> {
    if fruitless + 1 < FRUITLESS {
        return Ok(fruitless + 1);
    }
    Err(Error::Io { path: url.into(), action: "download", source })
}

/// Refuses, and removes, bytes that are not the ones that the Hub named.
fn check(file: &mut File, path: &Path, url: &str, said: &Said, ctl: &Ctl) -> Result<()> {
    let have = length(file, path)?;
    let wrong = |what: String| {
        fs::remove_file(path).map_err(Error::io(path, "remove"))?;
        Err(Error::Checkpoint(format!("{url}: {what}; what had arrived is removed, so the next run begins anew")))
    };
    if let Some(size) = said.size.filter(|size| *size != have) {
        return wrong(format!("{have} bytes arrived, but the Hub says {size}"));
    }
    if said.etag.len() != 64 {
        return Ok(()); // the hash of a small file is git's, over more than its bytes
    }
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    file.rewind().map_err(Error::io(path, "read"))?;
    loop {
        ctl.check()?;
        match file.read(&mut piece).map_err(Error::io(path, "read"))? {
            0 => break,
            len => hash.update(&piece[..len]),
        }
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == said.etag.to_ascii_lowercase() {
        return Ok(());
    }
    wrong(format!("SHA-256 {found}, but the Hub says {}", said.etag))
}

fn length(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(Error::io(path, "read"))?.len())
}
