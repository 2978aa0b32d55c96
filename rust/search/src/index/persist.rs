//! An index as a file: saved whole, opened by mapping, and brought up to date by a record at its end.
//!
//! The first record is everything, rows without gaps: vectors, rankings, ids, metadata and codes as they lie in memory. Each
//! record after it holds ids to delete, then rows to add, and is replayed when the file is opened.

use super::{Index, Kind, Settings};
use crate::column::Column;
use crate::fields::Fields;
use crate::file::{self, Content, Extent, Opened, Record};
use crate::finder::Finder;
use crate::ids::{Ids, Names};
use crate::metric::Metric;
use crate::vectors::Vectors;
use memmap2::Mmap;
use polmrs_core::{Ctl, Dtype, Error, Result, dtype};
use serde_json::{Map, Value as Json, json};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that an index was saved to or opened from, and what it does not know yet.
#[derive(Debug)]
pub(super) struct Attached {
    path: PathBuf,
    extent: Extent,
    /// The first row that is not in the file.
    pub(super) rows: usize,
    /// Ids that were deleted since.
    pub(super) deleted: Option<Ids>,
}

impl Index {
    /// Writes everything to a file that appears whole, in place of one that is there. Dead rows are dropped first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&mut self, path: &Path) -> Result<()> {
        if self.living < self.rankings.len() {
            self.compact()?;
        }
        let settings = self.settings;
        let (ids, id_bytes) = (self.names.select(0..self.living), Vec::new());
        let mut texts = (Vec::new(), id_bytes);
        let metadata = self.fields.json(self.living);
        let mut content = Content::default();
        let name = Metric::NAMES.iter().find(|(_, metric)| *metric == settings.metric).map_or("", |(name, _)| name);
        content.facts.insert("dim".into(), settings.dim.into());
        content.facts.insert("metric".into(), name.into());
        content.facts.insert("storage".into(), settings.storage.name().into());
        content.facts.insert("rows".into(), self.living.into());
        content.facts.insert("largest_norm".into(), self.largest_norm.into());
        content.facts.insert("kind".into(), json!(settings.kind));
        content.facts.insert("finder".into(), self.finder.facts());
        put_ids(&mut content, &ids, &mut texts, "ids");
        content.sections.push(("metadata", Cow::Borrowed(metadata.as_bytes())));
        content.sections.push(("vectors", Cow::Borrowed(self.vectors.as_bytes())));
        content.sections.push(("rankings", Cow::Borrowed(bytemuck::cast_slice(&self.rankings))));
        content.sections.extend(self.finder.sections());
        let extent = file::create(path, &content)?;
        self.attached = Some(Attached { path: path.to_path_buf(), extent, rows: self.living, deleted: None });
        Ok(())
    }

    /// Adds to the file what has changed since it was saved, opened or brought up to date; how many rows and deletions.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no file yet; [`Error::Exists`] if another process has written it; [`Error::Io`].
    pub fn sync(&mut self) -> Result<(usize, usize)> {
        let Some(attached) = &self.attached else {
            return Err(Error::Usage("sync: this index has no file yet; save it first".into()));
        };
        let rows: Vec<usize> = super::ones(&self.alive).filter(|row| *row >= attached.rows).collect();
        let deleted = attached.deleted.as_ref().map_or(0, Ids::len);
        if rows.is_empty() && deleted == 0 {
            return Ok((0, 0));
        }
        let vectors: Vec<f32> = rows.iter().flat_map(|row| self.vector(*row)).collect();
        let metadata = Json::from_iter(rows.iter().map(|row| self.metadata(*row))).to_string();
        let ids = self.names.select(rows.iter().copied());
        let (mut texts, mut gone) = Default::default();
        let mut content = Content::default();
        content.facts.insert("rows".into(), rows.len().into());
        put_ids(&mut content, &ids, &mut texts, "ids");
        if let Some(deleted) = &attached.deleted {
            put_ids(&mut content, deleted, &mut gone, "deleted");
        }
        content.sections.push(("metadata", Cow::Borrowed(metadata.as_bytes())));
        content.sections.push(("vectors", Cow::Borrowed(bytemuck::cast_slice(&vectors))));
        let extent = file::append(&attached.path, attached.extent, &content)?;
        let path = attached.path.clone();
        self.attached = Some(Attached { path, extent, rows: self.rankings.len(), deleted: None });
        Ok((rows.len(), deleted))
    }

    /// Opens a file. With `mapped`, vectors and codes stay in it, and are read when they are looked at; their checksum is
    /// compared only if `verify` is set. Rows that records after the first add are in memory, and then everything is.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], or [`Error::Checkpoint`] that says what is wrong with the file.
    pub fn open(path: &Path, mapped: bool, verify: bool, ctl: &Ctl) -> Result<Index> {
        let opened = file::open(path, verify || !mapped)?;
        let damaged = || Error::Checkpoint(format!("{}: its first record is damaged", path.display()));
        let mut index = opened.records.first().and_then(|record| base(record, &opened.map)).ok_or_else(damaged)?;
        for record in &opened.records[1..] {
            replay(&mut index, record, &opened, ctl)
                .ok_or_else(|| Error::Checkpoint(format!("{}: a record is damaged", path.display())))??;
        }
        if !mapped {
            index.vectors.to_mut();
            index.rankings.to_mut();
            index.finder.to_mut();
        }
        let (rows, extent) = (index.rankings.len(), opened.extent);
        index.attached = Some(Attached { path: path.to_path_buf(), extent, rows, deleted: None });
        Ok(index)
    }
}

/// Everything, from the first record; nothing if it does not fit together.
fn base(record: &Record, map: &Arc<Mmap>) -> Option<Index> {
    let facts = &record.facts;
    let number = |name: &str| usize::try_from(facts.get(name)?.as_u64()?).ok();
    let metric = facts.get("metric")?.as_str()?;
    let kind = Kind::from_json(facts.get("kind")?.clone()).ok()?;
    let settings = Settings {
        dim: number("dim")?,
        metric: Metric::NAMES.iter().find(|(name, _)| *name == metric)?.1,
        kind,
        storage: Dtype::from_name(facts.get("storage")?.as_str()?)?,
    };
    let mut index = Index::new(settings).ok()?;
    let rows = number("rows").filter(|rows| *rows < u32::MAX as usize)?;
    index.vectors = Vectors::map(settings.dim, settings.storage, map, record.section("vectors")?)?;
    index.rankings = Column::map(map, record.section("rankings")?)?;
    let ids = ids_of(record, map, "ids")?;
    if index.vectors.len() != rows || index.rankings.len() != rows || ids.len() != rows {
        return None;
    }
    index.names = Names::None;
    index.names.push(&ids, 0).is_empty().then_some(())?;
    let metadata = metadata_of(record, map)?;
    Fields::check(&metadata).ok()?;
    index.fields.push(&metadata, 0);
    index.largest_norm = facts.get("largest_norm")?.as_f64()?;
    index.living = rows;
    index.alive = super::all_ones(rows);
    let empty = Finder::new(settings.dim, settings.metric, kind);
    index.finder = empty.mapped(rows, facts.get("finder")?, map, &|name| record.section(name))?;
    Some(index)
}

/// Deletes and adds what a later record says.
fn replay(index: &mut Index, record: &Record, opened: &Opened, ctl: &Ctl) -> Option<Result<()>> {
    let bytes = &opened.map[record.section("vectors")?];
    let mut vectors = vec![0.0; bytes.len() / 4];
    dtype::to_f32(Dtype::F32, bytes.get(..4 * vectors.len())?, &mut vectors);
    let ids = ids_of(record, &opened.map, "ids")?;
    let metadata = metadata_of(record, &opened.map)?;
    if record.section("deleted").is_some() {
        let deleted = ids_of(record, &opened.map, "deleted")?;
        if let Err(error) = index.delete(&deleted) {
            return Some(Err(error));
        }
    }
    Some(index.add(&ids, &vectors, &metadata, ctl))
}

pub(crate) fn metadata_of(record: &Record, map: &Mmap) -> Option<Vec<Map<String, Json>>> {
    serde_json::from_slice(&map[record.section("metadata")?]).ok()
}

/// Ids as sections: integers as they are, strings end to end, with where each ends.
pub(crate) fn put_ids<'a>(
    content: &mut Content<'a>,
    ids: &'a Ids,
    texts: &'a mut (Vec<u64>, Vec<u8>),
    name: &'static str,
) {
    match ids {
        Ids::Numbers(numbers) => content.sections.push((name, Cow::Borrowed(bytemuck::cast_slice(numbers)))),
        Ids::Texts(all) => {
            for text in all {
                texts.1.extend_from_slice(text.as_bytes());
                texts.0.push(texts.1.len() as u64);
            }
            content.facts.insert(format!("{name}_are_texts"), json!(true));
            content.sections.push((name, Cow::Borrowed(&texts.1)));
            content.sections.push((
                if name == "ids" { "id_ends" } else { "deleted_ends" },
                Cow::Borrowed(bytemuck::cast_slice(&texts.0)),
            ));
        }
    }
}

pub(crate) fn ids_of(record: &Record, map: &Mmap, name: &str) -> Option<Ids> {
    let bytes = &map[record.section(name)?];
    if !record.facts.contains_key(&format!("{name}_are_texts")) {
        return Some(Ids::Numbers(bytemuck::try_cast_slice(bytes).ok()?.to_vec()));
    }
    let ends = record.section(if name == "ids" { "id_ends" } else { "deleted_ends" })?;
    let ends: &[u64] = bytemuck::try_cast_slice(&map[ends]).ok()?;
    let text = std::str::from_utf8(bytes).ok()?;
    let (mut start, mut all) = (0, Vec::with_capacity(ends.len()));
    for end in ends {
        let end = usize::try_from(*end).ok()?;
        all.push(text.get(start..end)?.into());
        start = end;
    }
    Some(Ids::Texts(all))
}
