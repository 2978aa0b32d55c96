//! An index: vectors under names, and the one search.
//!
//! Rows are only ever appended. A row that is deleted or replaced loses its bit in a bitmap, which every scan reads, so that
//! deleting costs nothing and filters are exact; once half of the rows are dead, the living are moved together. A search
//! chooses candidates by a scan of its kind and scores them from the stored vectors (see [`crate::metric`]); equal scores
//! come in the order in which rows were added.
//!
//! An addition is made ready beside the index, which may be searched meanwhile, and then joins it in a moment.

mod kind;
mod persist;
mod search;

pub use kind::Kind;
pub(crate) use search::ranked;
pub use search::{Hits, Query};

use crate::column::Column;
use crate::filter::Filter;
use crate::finder::Finder;
use crate::ids::Ids;
use crate::metric::{Metric, squared_norm};
use crate::rows::Rows;
use crate::vectors::{Joined, Vectors};
use polmrs_core::{Ctl, Dtype, Error, Result};
use serde_json::{Map, Value as Json};

/// What an index is made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The length of a vector.
    pub dim: usize,
    /// How vectors are compared.
    pub metric: Metric,
    /// How candidates are found.
    pub kind: Kind,
    /// How vectors are kept: F32, F16 or BF16.
    pub storage: Dtype,
}

/// Vectors of one length under names.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    rows: Rows,
    vectors: Vectors,
    rankings: Column<[f32; 2]>,
    largest_norm: f64,
    finder: Finder,
}

/// Rows that are ready to join the index that they were made for.
#[derive(Debug)]
pub struct Addition<'a> {
    ids: &'a Ids,
    metadata: &'a [Map<String, Json>],
    version: u64,
    vectors: Vectors,
    rankings: Column<[f32; 2]>,
    largest_norm: f64,
    /// The codes or links of all rows, if they took long to make.
    finder: Option<Finder>,
}

/// The longest vector.
const MAX_DIM: usize = 65_536;
/// Beyond this squared norm, sums in f32 could overflow.
const MAX_SQUARED_NORM: f64 = 1e36;

impl Index {
    /// An empty index.
    ///
    /// # Errors
    /// [`Error::Usage`] for a dimension of 0 or above 65,536.
    pub fn new(settings: Settings) -> Result<Index> {
        if settings.dim == 0 || settings.dim > MAX_DIM {
            return Err(Error::Usage(format!("dim: {} is not in 1..={MAX_DIM}", settings.dim)));
        }
        Ok(Index {
            settings,
            rows: Rows::new(),
            vectors: Vectors::new(settings.dim, settings.storage),
            rankings: Column::default(),
            largest_norm: 0.0,
            finder: Finder::new(settings.dim, settings.metric, settings.kind),
        })
    }

    /// What it was made with.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// How many vectors it holds.
    pub fn len(&self) -> usize {
        self.rows.living()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of vectors and codes in memory.
    pub fn bytes(&self) -> usize {
        self.vectors.bytes() + self.finder.bytes() + self.rankings.bytes() + self.rows.bytes()
    }

    /// Adds vectors, row after row, with as many metadata or none; one whose id is there already replaces it, metadata
    /// and all. Of two equal ids the later stands.
    ///
    /// # Errors
    /// Those of [`prepare`](Index::prepare). Nothing is added then.
    pub fn add(&mut self, ids: &Ids, vectors: &[f32], metadata: &[Map<String, Json>], ctl: &Ctl) -> Result<()> {
        let addition = self.prepare(ids, vectors, metadata, ctl)?;
        self.commit(addition, ctl)
    }

    /// Makes ready what [`add`](Index::add) adds.
    ///
    /// # Errors
    /// [`Error::Array`] for a wrong length, a NaN, an infinity or a norm above 1e18; [`Error::Usage`] for ids of
    /// another kind than before, or metadata that is no field; [`Error::Cancelled`].
    pub fn prepare<'a>(
        &self,
        ids: &'a Ids,
        vectors: &[f32],
        metadata: &'a [Map<String, Json>],
        ctl: &Ctl,
    ) -> Result<Addition<'a>> {
        let Settings { dim, metric, storage, .. } = self.settings;
        if vectors.len() != ids.len() * dim {
            let rows = vectors.len() / dim;
            return Err(Error::Array(format!("vectors: {rows} rows of {dim}, but there are {} ids", ids.len())));
        }
        check(vectors, dim, "vectors")?;
        self.rows.check(ids, metadata)?;
        let (mut new, mut largest_norm) = (Vectors::new(dim, storage), self.largest_norm);
        new.push(vectors);
        let ranking = |row| {
            let norm = squared_norm(&new.row(row)); // of what is stored, which may be rounded
            largest_norm = largest_norm.max(norm.sqrt());
            metric.ranking(norm)
        };
        let rankings = Column::Owned((0..new.len()).map(ranking).collect());
        ctl.check()?;
        let is_long = self.finder.is_long(new.len());
        let extended = is_long.then(|| self.finder.extended(Joined::new(&self.vectors, &new), ctl));
        let finder = extended.transpose()?;
        Ok(Addition { ids, metadata, version: self.rows.version(), vectors: new, rankings, largest_norm, finder })
    }

    /// Adds what was made ready.
    ///
    /// # Errors
    /// [`Error::Usage`] if the index has got or moved rows since; [`Error::Cancelled`]; those of making a thread pool.
    /// Nothing is added then.
    pub fn commit(&mut self, addition: Addition<'_>, ctl: &Ctl) -> Result<()> {
        self.rows.check_version(addition.version)?;
        match addition.finder {
            Some(finder) => {
                ctl.check()?;
                self.finder = finder;
            }
            None => {
                if let Err(stopped) = self.finder.extend(Joined::new(&self.vectors, &addition.vectors), ctl) {
                    self.bury(addition);
                    return Err(stopped);
                }
            }
        }
        self.vectors.append(addition.vectors);
        self.rankings.append(addition.rankings);
        self.largest_norm = addition.largest_norm;
        self.rows.push(addition.ids, addition.metadata);
        self.compact_if_due()
    }

    /// Takes over as dead the first rows of an addition, which codes or links know already.
    fn bury(&mut self, addition: Addition<'_>) {
        let Addition { mut vectors, mut rankings, .. } = addition;
        let known: Vec<usize> = (0..self.finder.len().saturating_sub(self.rows.len())).collect();
        if known.is_empty() {
            return; // and what is mapped stays so
        }
        vectors.keep(&known);
        rankings.keep(1, &known);
        self.vectors.append(vectors);
        self.rankings.append(rankings);
        self.rows.push_dead(known.len());
    }

    /// Deletes; how many were there.
    ///
    /// # Errors
    /// [`Error::Usage`] for ids of the other kind; those of making a thread pool. Nothing is deleted then.
    pub fn delete(&mut self, ids: &Ids) -> Result<usize> {
        let rows = self.rows.of(ids)?;
        self.delete_rows(&rows)
    }

    /// Deletes every row that passes; how many did.
    ///
    /// # Errors
    /// Those of making a thread pool. Nothing is deleted then.
    pub fn delete_where(&mut self, filter: &Filter) -> Result<usize> {
        let rows = self.rows.passing(filter);
        self.delete_rows(&rows)
    }

    fn delete_rows(&mut self, rows: &[u32]) -> Result<usize> {
        self.finder.check_threads()?;
        self.rows.delete(rows);
        self.compact_if_due()?;
        Ok(rows.len())
    }

    /// The stored vector of each id, widened to f32; `None` where it is not there.
    ///
    /// # Errors
    /// [`Error::Usage`] for ids of the other kind.
    pub fn vectors(&self, ids: &Ids) -> Result<Vec<Option<Vec<f32>>>> {
        let vector = |row: Option<u32>| row.map(|row| self.vectors.row(row as usize).into_owned());
        Ok(self.rows.find(ids)?.into_iter().map(vector).collect())
    }

    /// The metadata of each id that is there.
    ///
    /// # Errors
    /// [`Error::Usage`] for ids of the other kind.
    pub fn metadata(&self, ids: &Ids) -> Result<Vec<Option<Map<String, Json>>>> {
        self.rows.metadata(ids)
    }

    fn compact_if_due(&mut self) -> Result<()> {
        if self.rows.is_sparse() { self.compact() } else { Ok(()) }
    }

    /// Moves the living together.
    fn compact(&mut self) -> Result<()> {
        self.finder.check_threads()?;
        let keep = self.rows.compact();
        self.vectors.keep(&keep);
        self.rankings.keep(1, &keep);
        self.finder.keep(&keep, &self.vectors)
    }
}

/// Refuses numbers that cannot be compared.
fn check(vectors: &[f32], dim: usize, name: &str) -> Result<()> {
    if !vectors.len().is_multiple_of(dim) {
        return Err(Error::Array(format!("{name}: {} numbers are not rows of {dim}", vectors.len())));
    }
    for (row, vector) in vectors.chunks_exact(dim).enumerate() {
        let norm = squared_norm(vector);
        if norm <= MAX_SQUARED_NORM {
            continue; // so every number is finite
        }
        return match vector.iter().position(|x| !x.is_finite()) {
            Some(at) => Err(Error::NonFinite(format!("{name}[{row}, {at}]: {} is not a finite number", vector[at]))),
            None => Err(Error::Array(format!("{name}[{row}]: norm {:e} is above 1e18", norm.sqrt()))),
        };
    }
    Ok(())
}
