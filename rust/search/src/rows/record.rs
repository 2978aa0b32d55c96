//! Rows in a record of a file, and what their file does not know yet.

use super::Rows;
use crate::bitmap::ones;
use crate::file::{self, Content, Extent, Record, Sections};
use crate::ids::Ids;
use memmap2::Mmap;
use polmrs_core::{Error, Result};
use serde_json::{Map, Value as Json, json};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The file that rows were saved to or opened from, and what it does not know yet.
#[derive(Debug)]
pub(super) struct Attached {
    path: PathBuf,
    extent: Extent,
    /// The first row that is not in the file.
    pub(super) rows: usize,
    /// Ids that were deleted since.
    pub(super) deleted: Option<Ids>,
}

/// What was added to a file.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    /// How many rows and deletions.
    counts: (usize, usize),
    /// How far it goes now, if it was written.
    extent: Option<Extent>,
}

/// What a record says of rows.
#[derive(Debug)]
pub(crate) struct Told {
    /// To delete first.
    pub(crate) deleted: Option<Ids>,
    /// To add.
    pub(crate) ids: Ids,
    /// As many, or none.
    pub(crate) metadata: Vec<Map<String, Json>>,
}

impl Rows {
    /// The beginning of a record of these rows, and of what is deleted before they are added.
    pub(crate) fn content<'a>(&self, rows: &[usize], deleted: Option<&Ids>) -> Content<'a> {
        let mut content = Content::default();
        content.facts.insert("rows".into(), rows.len().into());
        put_ids(&mut content, &self.names.select(rows.iter().copied()), IDS);
        if let Some(deleted) = deleted {
            put_ids(&mut content, deleted, DELETED);
        }
        let metadata = self.fields.json(rows.iter().copied());
        content.sections.push(("metadata", Cow::Owned(metadata.into_bytes())));
        content
    }

    /// From now on these rows are those of a file that knows them all.
    pub(crate) fn attach(&mut self, path: &Path, extent: Extent) {
        self.attached = Some(Attached { path: path.to_path_buf(), extent, rows: self.len, deleted: None });
    }

    /// Adds to the file what has changed since it knew all. The record has `more` of the rows that are new, none of which is
    /// before a first.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no file yet; [`Error::Exists`] if another process has written it; [`Error::Io`].
    pub(crate) fn append(&self, more: impl FnOnce(usize, &[usize]) -> Sections<'static>) -> Result<Appended> {
        let Some(Attached { path, extent, rows: first, deleted }) = &self.attached else {
            return Err(Error::Usage("sync: this index has no file yet; save it first".into()));
        };
        let rows: Vec<usize> = ones(&self.alive).filter(|row| row >= first).collect();
        let counts = (rows.len(), deleted.as_ref().map_or(0, Ids::len));
        if counts == (0, 0) {
            return Ok(Appended { counts, extent: None });
        }
        let mut content = self.content(&rows, deleted.as_ref());
        content.sections.extend(more(*first, &rows));
        Ok(Appended { counts, extent: Some(file::append(path, *extent, &content)?) })
    }

    /// From now on the file knows what was added to it; how many rows and deletions that were.
    pub(crate) fn advance(&mut self, appended: Appended) -> (usize, usize) {
        if let (Some(extent), Some(attached)) = (appended.extent, &mut self.attached) {
            (attached.extent, attached.rows, attached.deleted) = (extent, self.len, None);
        }
        appended.counts
    }
}

impl Told {
    /// What this record says; nothing if it does not fit together.
    pub(crate) fn of(record: &Record, map: &Mmap) -> Option<Told> {
        let rows = usize::try_from(record.facts.get("rows")?.as_u64()?).ok()?;
        let ids = ids_of(record, map, IDS).filter(|ids| ids.len() == rows)?;
        let metadata: Vec<_> = serde_json::from_slice(&map[record.section("metadata")?]).ok()?;
        (metadata.is_empty() || metadata.len() == rows).then_some(())?;
        let deleted = match record.section(DELETED[0]) {
            Some(_) => Some(ids_of(record, map, DELETED)?),
            None => None,
        };
        Some(Told { deleted, ids, metadata })
    }
}

/// The names of the section of ids, and of that which says where each ends.
type Names = [&'static str; 2];
const IDS: Names = ["ids", "id_ends"];
const DELETED: Names = ["deleted", "deleted_ends"];

/// Integers as they are, strings end to end, with where each ends.
fn put_ids(content: &mut Content<'_>, ids: &Ids, [name, ends]: Names) {
    match ids {
        Ids::Numbers(numbers) => content.sections.push((name, Cow::Owned(bytemuck::cast_slice(numbers).to_vec()))),
        Ids::Texts(all) => {
            let places: Vec<u64> = all
                .iter()
                .scan(0, |end, text| {
                    *end += text.len() as u64;
                    Some(*end)
                })
                .collect();
            content.facts.insert(format!("{name}_are_texts"), json!(true));
            content.sections.push((name, Cow::Owned(all.concat().into_bytes())));
            content.sections.push((ends, Cow::Owned(bytemuck::cast_slice(&places).to_vec())));
        }
    }
}

fn ids_of(record: &Record, map: &Mmap, [name, ends]: Names) -> Option<Ids> {
    let bytes = &map[record.section(name)?];
    if !record.facts.contains_key(&format!("{name}_are_texts")) {
        return Some(Ids::Numbers(bytemuck::try_cast_slice(bytes).ok()?.to_vec()));
    }
    let ends: &[u64] = bytemuck::try_cast_slice(&map[record.section(ends)?]).ok()?;
    let text = std::str::from_utf8(bytes).ok()?;
    let (mut start, mut all) = (0, Vec::with_capacity(ends.len()));
    for end in ends {
        let end = usize::try_from(*end).ok()?;
        all.push(text.get(start..end)?.into());
        start = end;
    }
    Some(Ids::Texts(all))
}
