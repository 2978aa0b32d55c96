//! An append-only file of checksummed lines: what a piece of work has done so far, for the run that goes on after it.
//!
//! A line is a checksum, a space, and JSON. The checksum covers all lines before it too, so a tail that a power cut left
//! half-written, or that belongs elsewhere, is recognised and cut off; every line before it is whole.

use crate::output::Output;
use blake3::Hasher;
use polmrs_core::{Error, Result};
use serde_json::Value as Json;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The longest journal that is read: a line for every 256 MB of a petabyte is less.
const MAX_LEN: u64 = 1 << 30;

/// A journal that is open for more lines.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    open: Mutex<(File, Hasher)>,
}

impl Journal {
    /// Begins a journal with its first line, in place of one that may be there.
    pub fn create(path: &Path, first: &Json) -> Result<Journal> {
        let _ = fs::remove_file(path); // what it says is of no use any more
        let file = File::create_new(path).map_err(Error::io(path, "create"))?;
        let journal = Journal { path: path.into(), open: Mutex::new((file, Hasher::new())) };
        journal.append(first)?;
        Ok(journal)
    }

    /// Opens a journal: its whole lines, and the journal without what stood after them. `None` if there is no whole line.
    pub fn open(path: &Path) -> Result<Option<(Journal, Vec<Json>)>> {
        let bytes = match path.symlink_metadata() {
            Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_LEN => {
                fs::read(path).map_err(Error::io(path, "read"))?
            }
            _ => return Ok(None),
        };
        let (mut hasher, mut lines, mut end) = (Hasher::new(), Vec::new(), 0);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some((checksum, text)) = line.strip_suffix(b"\n").and_then(|line| line.split_at_checked(65)) else {
                break;
            };
            let mut covered = hasher.clone();
            covered.update(text);
            let Ok(json) = serde_json::from_slice(text) else { break };
            if checksum != format!("{} ", covered.finalize().to_hex()).as_bytes() {
                break;
            }
            (hasher, end) = (covered, end + line.len());
            lines.push(json);
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let mut file = File::options().write(true).open(path).map_err(Error::io(path, "open"))?;
        file.set_len(end as u64)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .and_then(|_| file.sync_data())
            .map_err(Error::io(path, "write"))?;
        Ok(Some((Journal { path: path.into(), open: Mutex::new((file, hasher)) }, lines)))
    }

    /// The journal that an earlier run left in an output folder, and the lines after its first, which must say the same as
    /// `work`. `None` if this run begins: a folder without a journal holds nothing to go on from, and is emptied.
    ///
    /// # Errors
    /// [`Error::Exists`] if the folder holds work of another description; the message names what differs.
    pub fn take_up(output: &Output, work: &Json) -> Result<Option<(Journal, Vec<Json>)>> {
        if !output.resumed() {
            return Ok(None);
        }
        let Some((journal, mut lines)) = Journal::open(&output.journal())? else {
            output.clear()?;
            return Ok(None);
        };
        match difference(&lines.remove(0), work) {
            None => Ok(Some((journal, lines))),
            Some(difference) => {
                let folder = output.folder().display();
                Err(Error::Exists(format!(
                    "{folder} holds unfinished work that differs in {difference}; without --resume it is replaced"
                )))
            }
        }
    }

    /// Adds a line, durably.
    pub fn append(&self, line: &Json) -> Result<()> {
        let text = line.to_string();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, hasher) = &mut *open;
        hasher.update(text.as_bytes());
        let line = format!("{} {text}\n", hasher.finalize().to_hex());
        file.write_all(line.as_bytes()).and_then(|()| file.sync_data()).map_err(Error::io(&self.path, "write"))
    }
}

/// Where two descriptions of work first differ, and how, for a message: `seed: was 0, is 1`.
pub fn difference(then: &Json, now: &Json) -> Option<String> {
    fn walk(path: &str, then: &Json, now: &Json) -> Option<String> {
        let under = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match (then, now) {
            _ if then == now => None,
            (Json::Object(a), Json::Object(b)) => {
                let keys = b.keys().chain(a.keys().filter(|key| !b.contains_key(*key)));
                keys.filter_map(|key| walk(&under(key), &then[key], &now[key])).next()
            }
            (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
                let pairs = a.iter().zip(b).enumerate();
                pairs.filter_map(|(at, (a, b))| walk(&format!("{path}[{at}]"), a, b)).next()
            }
            _ => Some(format!("{path}: was {}, is {}", shown(then), shown(now))),
        }
    }
    walk("", then, now)
}

fn shown(value: &Json) -> String {
    match value {
        Json::Null => "absent".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(lines: &[Json]) -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("journal");
        let journal = Journal::create(&path, &lines[0]).unwrap();
        lines[1..].iter().for_each(|line| journal.append(line).unwrap());
        (home, path)
    }

    #[test]
    fn a_journal_cut_anywhere_gives_its_whole_lines_and_goes_on() {
        let lines = [json!({"seed": 1}), json!({"done": [0, 1]}), json!({"done": [2]})];
        let (_home, path) = written(&lines);
        let bytes = fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').map(|at| at + 1).collect();
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count();
            match Journal::open(&path).unwrap() {
                None => assert_eq!(whole, 0),
                Some((journal, found)) => {
                    assert_eq!(found, lines[..whole]);
                    journal.append(&json!("more")).unwrap();
                    let (_, again) = Journal::open(&path).unwrap().unwrap();
                    assert_eq!((again.len(), &again[whole]), (whole + 1, &json!("more")));
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_ends_what_is_believed() {
        let (_home, path) = written(&[json!({"seed": 1}), json!({"done": [0]}), json!({"done": [1]})]);
        let bytes = fs::read(&path).unwrap();
        let second = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for at in second..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            fs::write(&path, &broken).unwrap();
            let (_, lines) = Journal::open(&path).unwrap().unwrap();
            assert!(lines.len() < 3, "byte {at}");
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let then = json!({"seed": 0, "config": {"models": [{"weight": 0.5}]}});
        assert_eq!(difference(&then, &then), None);
        let mut now = then.clone();
        now["config"]["models"][0]["weight"] = json!(0.25);
        assert_eq!(difference(&then, &now).unwrap(), "config.models[0].weight: was 0.5, is 0.25");
        now = then.clone();
        now["shard_size"] = json!(7);
        assert_eq!(difference(&then, &now).unwrap(), "shard_size: was absent, is 7");
    }
}
