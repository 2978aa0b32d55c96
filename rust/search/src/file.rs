//! The file of an index: records one after another, each whole or not there.
//!
//! ```text
//! 0    "polmrsVI", version u32 = 3, zeros to 64
//! 64   record, record, ...
//!
//! record:   "rec1", zeros to 8, length of the payload u64, BLAKE3 of the payload [32], the first 16 bytes of the BLAKE3
//!           of the 48 before, then the payload, zeros to a multiple of 64
//! payload:  length of a JSON object u64, the object, zeros to 64; its "sections" are [name, bytes] in order, each
//!           from a multiple of 64 on
//! ```
//!
//! All little-endian. A file is written beside its place and renamed, so its first record is whole. Records are added at the
//! end and synced one by one; a process that dies meanwhile leaves a tail that is shorter than its header says, or whose
//! hash is wrong, and that tail alone is not believed. Damage anywhere else is an error.

use memmap2::Mmap;
use polmrs_core::{Ctl, Error, Result};
use polmrs_io::whole;
use serde_json::{Map, Value as Json, json};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

#[cfg(target_endian = "big")]
compile_error!("an index is mapped as it lies on disk, which is little-endian");

const MAGIC: &[u8; 8] = b"polmrsVI";
const RECORD: &[u8; 4] = b"rec1";
const VERSION: u32 = 3;
const ALIGN: usize = 64;
/// Bytes that are written between two looks at whether to stop.
const PIECE: usize = 1 << 22;
/// The longest JSON object of a payload.
const MAX_HEADER: usize = 1 << 26;

/// Named bytes.
pub(crate) type Sections<'a> = Vec<(&'static str, Cow<'a, [u8]>)>;

/// The content of a record.
#[derive(Debug, Default)]
pub(crate) struct Content<'a> {
    pub(crate) facts: Map<String, Json>,
    pub(crate) sections: Sections<'a>,
}

impl Content<'_> {
    /// The JSON object, with the length before it, up to the first section.
    fn header(&self) -> Vec<u8> {
        let mut facts = self.facts.clone();
        let sections: Vec<Json> = self.sections.iter().map(|(name, bytes)| json!([name, bytes.len()])).collect();
        facts.insert("sections".into(), sections.into());
        let text = Json::Object(facts).to_string();
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(text.as_bytes());
        header.resize(header.len().next_multiple_of(ALIGN), 0);
        header
    }

    /// Everything in order, aligned.
    fn parts<'s>(&'s self, header: &'s [u8]) -> impl Iterator<Item = &'s [u8]> {
        let sections = self.sections.iter().flat_map(|(_, bytes)| [bytes, padding(bytes.len())]);
        std::iter::once(header).chain(sections)
    }

    /// Writes a record to this file.
    fn write(&self, to: &mut impl Write, path: &Path, ctl: &Ctl) -> Result<()> {
        let header = self.header();
        let pieces = || self.parts(&header).flat_map(|part| part.chunks(PIECE));
        let (mut hash, mut len) = (blake3::Hasher::new(), 0);
        for piece in pieces() {
            ctl.check()?;
            hash.update(piece);
            len += piece.len() as u64;
        }
        let mut start = [0; ALIGN];
        start[..4].copy_from_slice(RECORD);
        start[8..16].copy_from_slice(&len.to_le_bytes());
        start[16..48].copy_from_slice(hash.finalize().as_bytes());
        let seal = blake3::hash(&start[..48]);
        start[48..].copy_from_slice(&seal.as_bytes()[..16]);
        for piece in std::iter::once(&start[..]).chain(pieces()) {
            ctl.check()?;
            to.write_all(piece).map_err(Error::io(path, "write"))?;
        }
        Ok(())
    }
}

fn padding(len: usize) -> &'static [u8] {
    &[0; ALIGN][..len.next_multiple_of(ALIGN) - len]
}

/// A record of an open file.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) facts: Map<String, Json>,
    sections: Vec<(String, Range<usize>)>,
    hash: [u8; 32],
    payload: Range<usize>,
}

impl Record {
    /// Where a section lies in the file.
    pub(crate) fn section(&self, name: &str) -> Option<Range<usize>> {
        self.sections.iter().find(|(known, _)| known == name).map(|(_, range)| range.clone())
    }

    /// Whether the bytes are those that were written.
    pub(crate) fn is_whole(&self, map: &Mmap) -> bool {
        blake3::hash(&map[self.payload.clone()]).as_bytes() == &self.hash
    }
}

/// A file that was opened: its records, and where the last good one ends.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) map: Arc<Mmap>,
    pub(crate) records: Vec<Record>,
    pub(crate) extent: Extent,
}

/// How far a file is to be believed, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    end: u64,
    len: u64,
}

/// Reads the headers of all records, and compares the hashes of all but the first; of that too if `verify` is set.
pub(crate) fn open(path: &Path, verify: bool) -> Result<Opened> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    // SAFETY: the map is read-only. Files of ours are replaced by renaming, and grow at the end; what is mapped stays.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
    let wrong = |what: &str| Error::Checkpoint(format!("{}: {what}", path.display()));
    if map.len() < ALIGN || map[..8] != *MAGIC {
        return Err(wrong("not an index: it does not begin with 'polmrsVI'"));
    }
    let version = u32_at(&map, 8);
    if version != VERSION {
        return Err(wrong(&format!("an index of version {version}; this build reads version {VERSION}")));
    }
    let (mut records, mut at) = (Vec::<Record>::new(), ALIGN);
    while at < map.len() {
        let Some(record) = read(&map, at) else { break };
        if (verify || !records.is_empty()) && !record.is_whole(&map) {
            break;
        }
        at = record.payload.end;
        records.push(record);
    }
    if records.is_empty() || !is_torn(&map, at) {
        return Err(wrong(&format!("damaged at byte {at}; restore it from a copy")));
    }
    let extent = Extent { end: at as u64, len: map.len() as u64 };
    Ok(Opened { map: Arc::new(map), records, extent })
}

/// Whether what follows the last good record can be what a process wrote that died.
fn is_torn(map: &[u8], at: usize) -> bool {
    let rest = &map[at..];
    match rest.first_chunk().map(sealed) {
        None => true,
        Some(None) => rest.iter().all(|byte| *byte == 0), // a power cut may keep the length alone
        Some(Some(len)) => rest.len() as u64 - ALIGN as u64 <= len,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// The length of the payload, from a header that is whole.
fn sealed(start: &[u8; ALIGN]) -> Option<u64> {
    let is_whole = start[..4] == *RECORD && blake3::hash(&start[..48]).as_bytes()[..16] == start[48..];
    is_whole.then(|| u64_at(start, 8))
}

fn read(map: &[u8], at: usize) -> Option<Record> {
    let start = map.get(at..)?.first_chunk()?;
    let payload = at + ALIGN..usize::try_from(sealed(start)?).ok()?.checked_add(at + ALIGN)?;
    if payload.end > map.len() {
        return None;
    }
    let bytes = &map[payload.clone()];
    let len = usize::try_from(u64_at(bytes.get(..8)?, 0)).ok().filter(|len| *len <= MAX_HEADER)?;
    let Json::Object(facts) = serde_json::from_slice(bytes.get(8..)?.get(..len)?).ok()? else { return None };
    let mut sections = Vec::new();
    let mut end = (8 + len).next_multiple_of(ALIGN);
    for section in facts.get("sections")?.as_array()? {
        let (name, len) = (section.get(0)?.as_str()?, usize::try_from(section.get(1)?.as_u64()?).ok()?);
        let range = end..end.checked_add(len)?;
        end = range.end.checked_next_multiple_of(ALIGN)?;
        if end > bytes.len() {
            return None;
        }
        sections.push((name.to_owned(), payload.start + range.start..payload.start + range.end));
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(&start[16..48]);
    Some(Record { facts, sections, hash, payload })
}

/// Writes a file of one record, which takes its name once it is on the disk.
pub(crate) fn create(path: &Path, content: &Content<'_>, ctl: &Ctl) -> Result<Extent> {
    let mut writer = BufWriter::with_capacity(1 << 20, whole::beside(path)?);
    let mut start = [0; ALIGN];
    start[..8].copy_from_slice(MAGIC);
    start[8..12].copy_from_slice(&VERSION.to_le_bytes());
    writer.write_all(&start).map_err(Error::io(path, "write"))?;
    content.write(&mut writer, path, ctl)?;
    let file = writer.into_inner().map_err(|error| Error::io(path, "write")(error.into_error()))?;
    file.as_file().sync_all().map_err(Error::io(path, "write"))?;
    let len = file.as_file().metadata().map_err(Error::io(path, "read"))?.len();
    ctl.check()?;
    whole::settle(file, path, true)?;
    Ok(Extent { end: len, len })
}

/// Adds a record after the last good one of a file that is as we know it.
pub(crate) fn append(path: &Path, extent: Extent, content: &Content<'_>) -> Result<Extent> {
    let mut file = File::options().write(true).open(path).map_err(Error::io(path, "open"))?;
    file.try_lock().map_err(|_| Error::Exists(format!("{}: another process is writing it", path.display())))?;
    if file.metadata().map_err(Error::io(path, "read"))?.len() != extent.len {
        return Err(Error::Exists(format!("{}: was changed since it was opened; open it again", path.display())));
    }
    file.set_len(extent.end).and_then(|()| file.seek(SeekFrom::End(0))).map_err(Error::io(path, "write"))?;
    let mut writer = BufWriter::with_capacity(1 << 20, &file);
    content.write(&mut writer, path, &Ctl::new())?; // a record that is begun is ended
    writer.flush().map_err(Error::io(path, "write"))?;
    drop(writer);
    let len = file.sync_data().and_then(|()| file.metadata()).map_err(Error::io(path, "write"))?.len();
    Ok(Extent { end: len, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_writing_is_stopped_leaves_the_one_that_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        create(&path, &Content::default(), &Ctl::new()).unwrap();
        let (before, ctl) = (std::fs::read(&path).unwrap(), Ctl::new());
        ctl.cancel();
        let sections = vec![("much", Cow::Owned(vec![7; 3 * PIECE]))];
        let content = Content { sections, ..Content::default() };
        assert!(matches!(create(&path, &content, &ctl), Err(Error::Cancelled)));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        create(&path, &content, &Ctl::new()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap().len(), 64 + 64 + 64 + 3 * PIECE);
    }
}
