//! An index as a file: saved whole, opened by mapping, and brought up to date by a record at its end.
//!
//! The first record is everything, rows without gaps: vectors, rankings, ids, metadata and codes as they lie in memory. Each
//! record after it holds ids to delete, then rows to add, and is replayed when the file is opened.

use super::{Index, Kind, Settings};
use crate::bm25::is_of_words;
use crate::column::Column;
use crate::file::{self, Extent, Record};
use crate::finder::Finder;
use crate::metric::Metric;
use crate::rows::record::{Appended, Told};
use crate::vectors::Vectors;
use memmap2::Mmap;
use polmrs_core::{Ctl, Dtype, Error, Result, dtype};
use serde_json::json;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

impl Index {
    /// Writes everything to a file that appears whole, in place of one that is there. Dead rows are dropped first.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Cancelled`]; those of [`tidy`](Index::tidy).
    pub fn save(&mut self, path: &Path, ctl: &Ctl) -> Result<()> {
        self.tidy()?;
        let extent = self.write(path, ctl)?;
        self.attach(path, extent);
        Ok(())
    }

    /// Drops dead rows, which a file has not.
    ///
    /// # Errors
    /// Those of making a thread pool.
    pub fn tidy(&mut self) -> Result<()> {
        if self.rows.living() < self.rows.len() { self.compact() } else { Ok(()) }
    }

    /// Writes everything to a file that appears whole, in place of one that is there.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is not [tidy](Index::tidy); [`Error::Io`]; [`Error::Cancelled`].
    pub fn write(&self, path: &Path, ctl: &Ctl) -> Result<Extent> {
        self.rows.check_tidy()?;
        let settings = self.settings;
        let rows: Vec<usize> = (0..self.rows.len()).collect();
        let mut content = self.rows.content(&rows, None);
        let name = Metric::NAMES.iter().find(|(_, metric)| *metric == settings.metric).map_or("", |(name, _)| name);
        content.facts.insert("dim".into(), settings.dim.into());
        content.facts.insert("metric".into(), name.into());
        content.facts.insert("storage".into(), settings.storage.name().into());
        content.facts.insert("largest_norm".into(), self.largest_norm.into());
        content.facts.insert("kind".into(), json!(settings.kind));
        content.facts.insert("finder".into(), self.finder.facts());
        content.sections.push(("vectors", Cow::Borrowed(self.vectors.as_bytes())));
        content.sections.push(("rankings", Cow::Borrowed(bytemuck::cast_slice(&self.rankings))));
        content.sections.extend(self.finder.sections());
        file::create(path, &content, ctl)
    }

    /// From now on what changes is added to this file, which was [written](Index::write) as the index is.
    pub fn attach(&mut self, path: &Path, extent: Extent) {
        self.rows.attach(path, extent);
    }

    /// Adds to the file what has changed since it was saved, opened or brought up to date; how many rows and deletions.
    ///
    /// # Errors
    /// Those of [`append`](Index::append).
    pub fn sync(&mut self) -> Result<(usize, usize)> {
        let appended = self.append()?;
        Ok(self.advance(appended))
    }

    /// Adds to the file what it does not know.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no file yet; [`Error::Exists`] if another process has written it; [`Error::Io`].
    pub fn append(&self) -> Result<Appended> {
        self.rows.append(|_, rows| {
            let wide: Vec<f32> = rows.iter().flat_map(|row| self.vectors.row(*row).into_owned()).collect();
            vec![("vectors", Cow::Owned(bytemuck::cast_slice(&wide).to_vec()))]
        })
    }

    /// From now on the file knows what was [added](Index::append) to it; how many rows and deletions.
    pub fn advance(&mut self, appended: Appended) -> (usize, usize) {
        self.rows.advance(appended)
    }

    /// Opens a file. With `mapped`, vectors and codes stay in it, and are read when they are looked at; their checksum is
    /// compared only if `verify` is set. Rows that records after the first add are in memory, and then everything is.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], or [`Error::Checkpoint`] that says what is wrong with the file.
    pub fn open(path: &Path, mapped: bool, verify: bool, ctl: &Ctl) -> Result<Index> {
        let opened = file::open(path, verify || !mapped)?;
        let wrong = |what: &str| Error::Checkpoint(format!("{}: {what}", path.display()));
        let first = opened.records.first().filter(|record| !is_of_words(record));
        let first = first.ok_or_else(|| wrong("an index of words, not of vectors; open it with BM25"))?;
        let mut index = base(first, &opened.map).ok_or_else(|| wrong("its first record is damaged"))?;
        for record in &opened.records[1..] {
            replay(&mut index, record, &opened.map, ctl).ok_or_else(|| wrong("a record is damaged"))??;
        }
        if !mapped {
            index.vectors.to_mut();
            index.rankings.to_mut();
            index.finder.to_mut();
        }
        index.rows.attach(path, opened.extent);
        Ok(index)
    }
}

/// Everything, from the first record; nothing if it does not fit together.
fn base(record: &Record, map: &Arc<Mmap>) -> Option<Index> {
    let facts = &record.facts;
    let metric = facts.get("metric")?.as_str()?;
    let kind = Kind::from_json(facts.get("kind")?.clone()).ok()?;
    let settings = Settings {
        dim: usize::try_from(facts.get("dim")?.as_u64()?).ok()?,
        metric: Metric::NAMES.iter().find(|(name, _)| *name == metric)?.1,
        kind,
        storage: Dtype::from_name(facts.get("storage")?.as_str()?)?,
    };
    let mut index = Index::new(settings).ok()?;
    let Told { ids, metadata, .. } = Told::of(record, map)?;
    let rows = ids.len();
    index.vectors = Vectors::map(settings.dim, settings.storage, map, record.section("vectors")?)?;
    index.rankings = Column::map(map, record.section("rankings")?)?;
    (index.vectors.len() == rows && index.rankings.len() == rows).then_some(())?;
    index.rows.check(&ids, &metadata).ok()?;
    index.rows.push(&ids, &metadata).is_empty().then_some(())?;
    index.largest_norm = facts.get("largest_norm")?.as_f64()?;
    let empty = Finder::new(settings.dim, settings.metric, kind);
    index.finder = empty.mapped(rows, facts.get("finder")?, map, &|name| record.section(name))?;
    Some(index)
}

/// Deletes and adds what a later record says.
fn replay(index: &mut Index, record: &Record, map: &Mmap, ctl: &Ctl) -> Option<Result<()>> {
    let Told { deleted, ids, metadata } = Told::of(record, map)?;
    let bytes = &map[record.section("vectors")?];
    let mut vectors = vec![0.0; bytes.len() / 4];
    dtype::to_f32(Dtype::F32, bytes.get(..4 * vectors.len())?, &mut vectors);
    let deleted = deleted.map_or(Ok(0), |ids| index.delete(&ids));
    Some(deleted.and_then(|_| index.add(&ids, &vectors, &metadata, ctl)))
}
