//! An index: vectors, their names, and the one search.
//!
//! Rows are only ever appended. A row that is deleted or replaced loses its bit in a bitmap, which every scan reads, so that
//! deleting costs nothing and filters are exact; once half of the rows are dead, the living are moved together. A search
//! chooses candidates by a scan of its kind and scores them from the stored vectors (see [`crate::metric`]); equal scores
//! come in the order in which rows were added.

pub(crate) mod persist;

use crate::column::Column;
use crate::dense;
use crate::fields::Fields;
use crate::filter::Filter;
use crate::finder::{Finder, Found, Wanted};
use crate::graph;
use crate::ids::{Ids, Names};
use crate::ivf;
use crate::metric::{Metric, squared_norm};
use crate::quantized::Bits;
use crate::shortlist::Shortlist;
use crate::vectors::Vectors;
use persist::Attached;
use polmrs_core::{Ctl, Dtype, Error, Result, pool};
use rayon::prelude::*;
use serde_json::{Map, Value as Json};
use std::borrow::Cow;

/// How an index finds candidates. As JSON: `{"kind": "quantized", "bits": 1, "margin": 3.25}`; what is left out has its
/// default.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Kind {
    /// Looks at every vector.
    Flat,
    /// Looks at every code, then at the vectors within `margin` standard deviations of the `k`-th best.
    Quantized {
        /// The width of a code.
        #[serde(default)]
        bits: Bits,
        /// Standard deviations of the estimate.
        #[serde(default = "margin")]
        margin: f32,
    },
    /// Walks along a graph, then looks at the nearest vectors.
    Hnsw(graph::Settings),
    /// Looks at the codes of the nearest lists, then as `Quantized` does.
    Ivf(ivf::Settings),
}

fn margin() -> f32 {
    crate::quantized::MARGIN
}

impl Kind {
    /// From JSON.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is no kind, or out of range.
    pub fn from_json(json: Json) -> Result<Kind> {
        let fields = json.as_object().map_or(0, Map::len); // serde lets a variant without fields have any
        let kind: Kind = serde_json::from_value(json).map_err(|error| Error::Usage(error.to_string()))?;
        match kind {
            Kind::Flat if fields > 1 => Err(Error::Usage("flat: has no parameters".into())),
            Kind::Quantized { margin, .. } | Kind::Ivf(ivf::Settings { margin, .. })
                if !(margin > 0.0 && margin <= 100.0) =>
            {
                Err(Error::Usage(format!("margin: {margin} is not in (0, 100]")))
            }
            Kind::Hnsw(settings) => settings.check().map(|()| kind),
            Kind::Ivf(settings) => settings.check().map(|()| kind),
            _ => Ok(kind),
        }
    }
}

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

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Vectors, row after row.
    pub vectors: &'a [f32],
    /// At most how many rows each finds.
    pub k: usize,
    /// Which rows count.
    pub filter: Option<&'a Filter>,
    /// The lowest score that counts.
    pub min_score: Option<f32>,
    /// How much of a graph, or how many lists, are looked at, in place of its own setting.
    pub effort: Option<usize>,
    /// Scores are those of codes, and full vectors are not looked at; `Flat` has no codes.
    pub estimate: bool,
}

/// What was found: the hits of query `i` are `offsets[i]..offsets[i + 1]`, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Hits {
    /// Names.
    pub ids: Ids,
    /// Scores, larger for nearer.
    pub scores: Vec<f32>,
    /// Where each query's hits begin and end.
    pub offsets: Vec<i64>,
}

impl Hits {
    /// The scores and rows of every query.
    pub(crate) fn of(names: &Names, found: Vec<Vec<(f32, u32)>>) -> Hits {
        let mut offsets = vec![0];
        offsets.extend(found.iter().scan(0, |end, hits| {
            *end += hits.len() as i64;
            Some(*end)
        }));
        let ids = names.select(found.iter().flatten().map(|(_, row)| *row as usize));
        Hits { ids, scores: found.into_iter().flatten().map(|(score, _)| score).collect(), offsets }
    }
}

/// Vectors of one length under names.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    names: Names,
    fields: Fields,
    vectors: Vectors,
    rankings: Column<[f32; 2]>,
    alive: Vec<u64>,
    living: usize,
    largest_norm: f64,
    finder: Finder,
    attached: Option<Attached>,
}

/// The longest vector.
const MAX_DIM: usize = 65_536;
/// Beyond this squared norm, sums in f32 could overflow.
const MAX_SQUARED_NORM: f64 = 1e36;
/// So few rows are scored without a look at codes.
const FEW: usize = 64;
/// Rows that are asked for before the first of them is scored.
const PREFETCHED: usize = 64;
/// Queries that a thread takes at a time, so that the transposing of rows is shared by many.
const MAX_SHARE: usize = 256;

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
            names: Names::None,
            fields: Fields::default(),
            vectors: Vectors::new(settings.dim, settings.storage),
            rankings: Column::default(),
            alive: Vec::new(),
            living: 0,
            largest_norm: 0.0,
            finder: Finder::new(settings.dim, settings.metric, settings.kind),
            attached: None,
        })
    }

    /// What it was made with.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// How many vectors it holds.
    pub fn len(&self) -> usize {
        self.living
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.living == 0
    }

    /// Bytes of vectors and codes in memory.
    pub fn bytes(&self) -> usize {
        self.vectors.bytes() + self.finder.bytes() + self.rankings.bytes() + 8 * self.alive.len()
    }

    /// Adds vectors, row after row, with as many metadata or none; one whose id is there already replaces it, metadata
    /// and all. Of two equal ids the later stands.
    ///
    /// # Errors
    /// [`Error::Array`] for a wrong length, a NaN, an infinity or a norm above 1e18; [`Error::Usage`] for ids of
    /// another kind than before, or metadata that is no field; [`Error::Cancelled`]. Nothing is added then.
    pub fn add(&mut self, ids: &Ids, vectors: &[f32], metadata: &[Map<String, Json>], ctl: &Ctl) -> Result<()> {
        let dim = self.settings.dim;
        if vectors.len() != ids.len() * dim {
            let rows = vectors.len() / dim;
            return Err(Error::Array(format!("vectors: {rows} rows of {dim}, but there are {} ids", ids.len())));
        }
        self.names.check_kind(ids)?;
        let first = self.rankings.len();
        if first + ids.len() > u32::MAX as usize {
            return Err(Error::Usage("vectors: an index holds at most 2^32 - 1 rows".into()));
        }
        check(vectors, dim, "vectors")?;
        if !metadata.is_empty() && metadata.len() != ids.len() {
            return Err(Error::Usage(format!("metadata: {} for {} ids", metadata.len(), ids.len())));
        }
        Fields::check(metadata)?;
        self.vectors.push(vectors);
        for row in first..first + ids.len() {
            let norm = squared_norm(&self.vectors.row(row)); // of what is stored, which may be rounded
            self.largest_norm = self.largest_norm.max(norm.sqrt());
            self.rankings.to_mut().push(self.settings.metric.ranking(norm));
        }
        if let Err(error) = self.finder.extend(&self.vectors, ctl) {
            self.forget_from(first, ids);
            return Err(error);
        }
        self.fields.push(metadata, first);
        self.alive.resize(self.rankings.len().div_ceil(64), 0);
        for row in first..self.rankings.len() {
            self.alive[row / 64] |= 1 << (row % 64);
        }
        self.living += ids.len();
        for row in self.names.push(ids, first) {
            self.kill(row as usize);
        }
        self.compact_if_due()
    }

    /// After an addition that stopped midway: what codes or links know stays as dead rows, the rest goes.
    fn forget_from(&mut self, first: usize, ids: &Ids) {
        if first == 0 {
            // Without names there is nothing that dead rows could be called.
            let Settings { dim, metric, kind, .. } = self.settings;
            self.finder = Finder::new(dim, metric, kind);
        }
        let rows = self.finder.len(self.vectors.len()).max(first);
        self.vectors.truncate(rows);
        self.rankings.to_mut().truncate(rows);
        self.alive.resize(rows.div_ceil(64), 0);
        if rows > first {
            self.names.push_dead(&ids.select(0..rows - first));
        }
    }

    /// Deletes; how many were there.
    ///
    /// # Errors
    /// [`Error::Usage`] for ids of the other kind.
    pub fn delete(&mut self, ids: &Ids) -> Result<usize> {
        self.names.check_kind(ids)?;
        let mut rows: Vec<u32> = self.names.find(ids).into_iter().flatten().collect();
        rows.sort_unstable();
        rows.dedup();
        self.delete_rows(&rows)
    }

    /// Deletes every row that passes; how many did.
    ///
    /// # Errors
    /// Those of making a thread pool.
    pub fn delete_where(&mut self, filter: &Filter) -> Result<usize> {
        let bits = self.eligible(Some(filter));
        let rows: Vec<u32> = ones(&bits).map(|row| row as u32).collect();
        self.delete_rows(&rows)
    }

    fn delete_rows(&mut self, rows: &[u32]) -> Result<usize> {
        let ids = self.names.select(rows.iter().map(|row| *row as usize));
        if let Some(attached) = self.attached.as_mut().filter(|_| !rows.is_empty()) {
            match &mut attached.deleted {
                Some(deleted) => deleted.extend(ids),
                None => attached.deleted = Some(ids),
            }
        }
        for row in rows {
            self.names.forget(*row);
            self.kill(*row as usize);
        }
        self.compact_if_due()?;
        Ok(rows.len())
    }

    /// The row of each id; `None` where it is not there.
    ///
    /// # Errors
    /// [`Error::Usage`] for ids of the other kind.
    pub fn find(&self, ids: &Ids) -> Result<Vec<Option<usize>>> {
        self.names.check_kind(ids)?;
        Ok(self.names.find(ids).into_iter().map(|row| row.map(|row| row as usize)).collect())
    }

    /// The stored vector of a row that [`find`](Index::find) gave, widened to f32.
    pub fn vector(&self, row: usize) -> Vec<f32> {
        self.vectors.row(row).into_owned()
    }

    /// The metadata of a row that [`find`](Index::find) gave.
    pub fn metadata(&self, row: usize) -> Map<String, Json> {
        self.fields.row(row)
    }

    /// The rows that live and pass.
    fn eligible(&self, filter: Option<&Filter>) -> Cow<'_, [u64]> {
        let Some(filter) = filter else { return Cow::Borrowed(&self.alive) };
        let mut bits = filter.matches(&self.fields, self.rankings.len());
        for (bits, alive) in bits.iter_mut().zip(&self.alive) {
            *bits &= alive;
        }
        Cow::Owned(bits)
    }

    fn kill(&mut self, row: usize) {
        self.alive[row / 64] &= !(1 << (row % 64));
        self.living -= 1;
    }

    fn compact_if_due(&mut self) -> Result<()> {
        let rows = self.rankings.len();
        if rows >= 1024 && 2 * self.living <= rows { self.compact() } else { Ok(()) }
    }

    /// Moves the living together.
    fn compact(&mut self) -> Result<()> {
        let keep: Vec<usize> = ones(&self.alive).collect();
        let ids = self.names.select(keep.iter().copied());
        self.fields = self.fields.select(&keep);
        self.vectors.keep(&keep);
        self.rankings = Column::Owned(keep.iter().map(|row| self.rankings[*row]).collect());
        self.names = Names::None;
        self.names.push(&ids, 0);
        self.alive = all_ones(keep.len());
        if let Some(attached) = &mut self.attached {
            attached.rows = keep.partition_point(|row| *row < attached.rows);
        }
        self.finder.keep(&keep, &self.vectors)
    }

    /// The best rows of every query.
    ///
    /// # Errors
    /// [`Error::Array`] for a wrong length, a NaN or an infinity; [`Error::Usage`] for `k` of 0; [`Error::Cancelled`].
    pub fn search(&self, query: Query<'_>, ctl: &Ctl) -> Result<Hits> {
        let dim = self.settings.dim;
        check(query.vectors, dim, "queries")?;
        for (name, value) in [("k", query.k), ("effort", query.effort.unwrap_or(1))] {
            if value == 0 {
                return Err(Error::Usage(format!("{name}: 0 is not at least 1")));
            }
        }
        let n = query.vectors.len() / dim;
        let eligible = self.eligible(query.filter);
        let work = |queries: &[f32]| {
            ctl.check()?;
            Ok(self.share(queries, query, &eligible))
        };
        let found: Vec<Vec<(f32, u32)>> = if n <= 8 {
            work(query.vectors)?
        } else {
            let pool = pool::shared()?;
            let share = n.div_ceil(pool.current_num_threads()).clamp(8, MAX_SHARE).next_multiple_of(8);
            let shares: Result<Vec<_>> = pool.install(|| query.vectors.par_chunks(share * dim).map(work).collect());
            shares?.into_iter().flatten().collect()
        };
        Ok(Hits::of(&self.names, found))
    }

    /// The best rows of a few queries, on this thread.
    fn share(&self, queries: &[f32], query: Query<'_>, eligible: &[u64]) -> Vec<Vec<(f32, u32)>> {
        let count: usize = eligible.iter().map(|word| word.count_ones() as usize).sum();
        let dim = self.settings.dim;
        let vectors = queries.chunks_exact(dim);
        if count <= FEW.max(query.k) {
            return vectors.map(|vector| self.best(vector, ones(eligible).map(|row| row as u32), query)).collect();
        }
        let wanted = Wanted { queries, dim, k: query.k, eligible, count, effort: query.effort };
        let found = self.finder.candidates(wanted).unwrap_or_else(|| self.scanned(queries, query.k, eligible));
        let best = |(vector, found): (&[f32], Found)| {
            if query.estimate && !matches!(self.finder, Finder::All) {
                return ranked(found.estimates(), query.k, query.min_score);
            }
            self.best(vector, found.candidates.iter().map(|candidate| candidate.slot), query)
        };
        vectors.zip(found).map(best).collect()
    }

    /// What is found by a look at all vectors.
    fn scanned(&self, queries: &[f32], k: usize, eligible: &[u64]) -> Vec<Found> {
        let (dim, metric) = (self.settings.dim, self.settings.metric);
        let width = |query| dense::margin(metric, query, self.largest_norm);
        let widths: Vec<f32> = queries.chunks_exact(dim).map(width).collect();
        let mut lists: Vec<Shortlist> = widths.iter().map(|_| Shortlist::new(k)).collect();
        let rows = dense::Rows { vectors: &self.vectors, rankings: &self.rankings, eligible, dim };
        dense::scan(rows, queries, &widths, &mut lists);
        let found = |list: Shortlist| Found { candidates: list.finish(), line: [1.0, 0.0] };
        lists.into_iter().map(found).collect()
    }

    /// These rows by their scores; equal ones by row.
    fn best(&self, vector: &[f32], rows: impl Iterator<Item = u32> + Clone, query: Query<'_>) -> Vec<(f32, u32)> {
        rows.clone().take(PREFETCHED).for_each(|row| self.vectors.prefetch(row as usize));
        let score = |row: u32| (self.settings.metric.score(vector, &self.vectors.row(row as usize)), row);
        ranked(rows.map(score).collect(), query.k, query.min_score)
    }
}

/// The `k` best scores, equal ones by row, that reach the least.
pub(crate) fn ranked(mut scored: Vec<(f32, u32)>, k: usize, least: Option<f32>) -> Vec<(f32, u32)> {
    scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.truncate(k);
    if let Some(least) = least {
        scored.retain(|(score, _)| *score >= least);
    }
    scored
}

/// As many bits that are set.
pub(crate) fn all_ones(rows: usize) -> Vec<u64> {
    (0..rows).step_by(64).map(|first| u64::MAX >> (64 - (rows - first).min(64))).collect()
}

/// The places of the bits that are set.
pub(crate) fn ones(bits: &[u64]) -> impl Iterator<Item = usize> + Clone {
    bits.iter().enumerate().flat_map(|(at, word)| {
        std::iter::successors(Some(*word), |word| Some(word & word.wrapping_sub(1)))
            .take_while(|word| *word != 0)
            .map(move |word| 64 * at + word.trailing_zeros() as usize)
    })
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
