//! Lists of rows around centres, of which a search looks at the nearest few: IVF (Sivic and Zisserman 2003; Jegou et al.,
//! [paper](https://doi.org/10.1109/TPAMI.2010.57), section IV), with the codes of RaBitQ inside each list
//! ([paper](https://arxiv.org/abs/2405.12497), section 4).
//!
//! Centres are those of k-means over rotated rows. A list codes what rows differ from its centre by ([`crate::staged`]). With
//! $x = c + r$, the key of a row is
//!
//! $$ \langle r, q - c \rangle + \langle r, c \rangle + \langle c, q \rangle \quad\text{or}\quad \langle r, q - c \rangle -
//! \tfrac12 \lVert r \rVert^2 - \tfrac12 \lVert q - c \rVert^2 $$
//!
//! for `ip` and `cosine`, or `l2`, and $\langle y, c \rangle$ of a code $y$ is known when it is made, so that one set of tables
//! of $q$ serves all lists.

mod kmeans;
mod stored;

use crate::column::Column;
use crate::finder::Found;
use crate::metric::{Metric, squared_norm};
use crate::onebit::Tables;
use crate::quantized::MARGIN;
use crate::rotation::Rotation;
use crate::shortlist::Shortlist;
use crate::staged::{Seen, Slots, Staged, Turned};
use crate::vectors::Joined;
use kmeans::Centres;
use polmrs_core::{Ctl, Error, Result, pool};
use rayon::prelude::*;
use std::collections::HashMap;

/// The parameters of lists.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How many; if nothing is said, twice the square root of the number of rows.
    pub lists: Option<usize>,
    /// How many of them a search looks at.
    pub probes: usize,
    /// Standard deviations of the 1-bit estimate.
    pub margin: f32,
    /// Of the rows that k-means begins with.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { lists: None, probes: 64, margin: MARGIN, seed: 0 }
    }
}

impl Settings {
    /// Refuses what is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, value) in [("lists", self.lists.unwrap_or(1)), ("probes", self.probes)] {
            if !(1..=1 << 20).contains(&value) {
                return Err(Error::Usage(format!("{name}: {value} is not in 1..={}", 1 << 20)));
            }
        }
        Ok(())
    }
}

/// Rows whose nearest centres are found together.
const CHUNK: usize = 4096;

/// The lists of an index.
#[derive(Clone, Debug)]
pub struct Lists {
    settings: Settings,
    metric: Metric,
    rotation: Rotation,
    centres: Centres,
    lists: Vec<List>,
    /// How many rows there are.
    len: usize,
    /// How many there were when the centres were made.
    fitted: usize,
}

/// The rows of one centre.
#[derive(Clone, Debug)]
struct List {
    /// Their numbers.
    rows: Column<u32>,
    codes: Staged,
}

impl Lists {
    /// No rows yet.
    pub fn new(dim: usize, metric: Metric, settings: Settings) -> Lists {
        let (rotation, centres) = (Rotation::new(dim), Centres::new(Vec::new(), dim));
        Lists { settings, metric, rotation, centres, lists: Vec::new(), len: 0, fitted: 0 }
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of codes and centres.
    pub fn bytes(&self) -> usize {
        let lists: usize = self.lists.iter().map(|list| list.rows.bytes() + list.codes.bytes()).sum();
        lists + self.centres.bytes()
    }

    /// As they are compared, and rotated.
    fn turned(&self, rows: &[f32]) -> Vec<f32> {
        let dim = self.rotation.dim();
        let mut all = Vec::with_capacity(rows.len());
        for row in rows.chunks_exact(dim) {
            let mut turned = self.metric.directed(row);
            self.rotation.apply(&mut turned);
            all.extend(turned);
        }
        all
    }

    /// Whether so many rows more would have new centres made.
    pub(crate) fn is_due(&self, more: usize) -> bool {
        self.lists.is_empty() || self.len + more >= self.fitted.saturating_mul(2)
    }

    /// Takes in the rows that came since. If it is cancelled, some of them are in, and all is well with those.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; those of making a thread pool, before anything is done.
    pub fn extend(&mut self, vectors: Joined<'_>, ctl: &Ctl) -> Result<()> {
        pool::shared()?; // what fails later is nothing but a stop
        ctl.expect(4 * ((vectors.len() - self.len) * self.rotation.dim()) as u64);
        self.take_in(vectors, ctl)
    }

    /// Lists of all rows, of which there are some, around new centres.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; those of making a thread pool.
    pub fn remade(&self, vectors: Joined<'_>, ctl: &Ctl) -> Result<Lists> {
        ctl.expect(4 * (vectors.len() * self.rotation.dim()) as u64);
        let mut fresh = Lists::new(self.rotation.dim(), self.metric, self.settings);
        fresh.fit(vectors, ctl)?;
        fresh.take_in(vectors, ctl)?;
        Ok(fresh)
    }

    /// Takes in all rows anew, around the same centres.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn regroup(&mut self, vectors: Joined<'_>, ctl: &Ctl) -> Result<()> {
        (self.lists, self.len) = (self.empty_lists(), 0);
        self.take_in(vectors, ctl)
    }

    fn empty_lists(&self) -> Vec<List> {
        let empty = |_| List { rows: Column::default(), codes: Staged::new(self.rotation.dim()) };
        (0..self.centres.len()).map(empty).collect()
    }

    fn fit(&mut self, vectors: Joined<'_>, ctl: &Ctl) -> Result<()> {
        let n = vectors.len();
        let lists = self.settings.lists.unwrap_or(2 * n.isqrt()).clamp(1, n.max(1));
        let sample = n.min(kmeans::SAMPLE * lists);
        let chosen = (0..sample).map(|at| vectors.row(at * n / sample)); // spread evenly
        let rows: Vec<f32> = chosen.flat_map(|row| self.turned(&row)).collect();
        self.centres = kmeans::fit(&rows, self.rotation.dim(), lists, self.settings.seed, ctl)?;
        self.lists = self.empty_lists();
        self.fitted = n;
        Ok(())
    }

    fn take_in(&mut self, vectors: Joined<'_>, ctl: &Ctl) -> Result<()> {
        let dim = self.rotation.dim();
        while self.len < vectors.len() {
            ctl.check()?;
            let (first, last) = (self.len, vectors.len().min(self.len + CHUNK));
            let turned: Vec<f32> = pool::shared()?.install(|| {
                (first..last).into_par_iter().flat_map_iter(|row| self.turned(&vectors.row(row))).collect()
            });
            let nearest = self.centres.nearest(&turned)?;
            let mut members: HashMap<u32, Vec<usize>> = HashMap::new();
            for (at, list) in nearest.iter().enumerate() {
                members.entry(*list).or_default().push(at);
            }
            let (metric, centres) = (self.metric, &self.centres);
            let mut work: Vec<(&mut List, &[f32], &Vec<usize>)> = self
                .lists
                .iter_mut()
                .enumerate()
                .filter_map(|(number, list)| Some((list, centres.row(number), members.get(&(number as u32))?)))
                .collect();
            pool::shared()?.install(|| {
                work.par_iter_mut().for_each(|(list, centre, members)| {
                    for at in *members {
                        list.push(metric, (first + at) as u32, &turned[at * dim..(at + 1) * dim], centre);
                    }
                });
            });
            self.len = last;
            ctl.advance(4 * ((last - first) * dim) as u64);
        }
        Ok(())
    }

    /// What is found for a query among the eligible rows, of which there are `count`, for the best `k`, in the nearest lists, and
    /// in more of them if few rows are eligible, until there are `k`.
    pub fn candidates(&self, query: &[f32], k: usize, eligible: &[u64], count: usize, probes: Option<usize>) -> Found {
        let query = Turned::new(self.turned(query));
        let tables = Tables::new(&query.vector);
        let share = (self.len as f32 / count.max(1) as f32).sqrt();
        let probes = (probes.unwrap_or(self.settings.probes) as f32 * share) as usize;
        let mut list = Shortlist::new(k);
        // Slots count through the lists in the order in which they are looked at.
        let (mut looked, mut base) = (Vec::new(), 0);
        for (number, seen) in self.nearest_lists(&query) {
            if looked.len() >= probes && list.threshold() > f32::NEG_INFINITY {
                break;
            }
            let one = &self.lists[number];
            let bits = one.eligible(eligible, count == self.len);
            let slots = Slots { base, eligible: &bits };
            one.codes.scan(0..one.rows.len(), &tables, seen, self.settings.margin, slots, &mut list);
            looked.push((one, seen, base));
            base += one.rows.len();
        }
        let slots: Vec<u32> = list.finish().iter().map(|candidate| candidate.slot).collect();
        let (mut list, mut rest) = (Shortlist::new(k), &slots[..]);
        for (one, seen, base) in &looked {
            let (mine, others) = rest.split_at(rest.partition_point(|slot| (*slot as usize) < base + one.rows.len()));
            one.codes.refine(&query, *seen, mine, *base, &mut list);
            rest = others;
        }
        let mut found = list.finish();
        let mut at = looked.iter().peekable();
        for candidate in &mut found {
            while let Some((one, _, base)) = at.peek() {
                match one.rows.get(candidate.slot as usize - base) {
                    Some(row) => {
                        candidate.slot = *row;
                        break;
                    }
                    None => drop(at.next()),
                }
            }
        }
        Found { candidates: found, line: if self.metric == Metric::L2 { [2.0, 0.0] } else { [1.0, 0.0] } }
    }

    /// The lists, nearest first, and how the query is seen from their centres.
    fn nearest_lists(&self, query: &Turned) -> Vec<(usize, Seen)> {
        let square = squared_norm(&query.vector) as f32;
        let dots = self.centres.dots(&query.vector);
        let mut seen: Vec<(usize, Seen)> = dots
            .iter()
            .zip(self.centres.halves())
            .enumerate()
            .map(|(number, (dot, half))| {
                let square = (square - 2.0 * dot + 2.0 * half).max(0.0);
                let shift = if self.metric == Metric::L2 { -0.5 * square } else { *dot };
                (number, Seen { norm: square.sqrt(), shift })
            })
            .collect();
        seen.sort_unstable_by(|a, b| b.1.shift.total_cmp(&a.1.shift).then(a.0.cmp(&b.0)));
        seen
    }
}

impl List {
    fn push(&mut self, metric: Metric, row: u32, turned: &[f32], centre: &[f32]) {
        let r: Vec<f32> = turned.iter().zip(centre).map(|(x, c)| x - c).collect();
        let offset = match metric {
            Metric::L2 => -0.5 * squared_norm(&r),
            _ => crate::metric::dot(centre, &r),
        } as f32;
        self.codes.push(&r, offset, Some(centre), &mut Vec::new());
        self.rows.to_mut().push(row);
    }

    /// A bit for each of these rows, from one for each of all.
    fn eligible(&self, bits: &[u64], all: bool) -> Vec<u64> {
        if all {
            return vec![u64::MAX; self.rows.len().div_ceil(64)];
        }
        let bit = |row: &u32| bits.get(*row as usize / 64).map_or(0, |word| word >> (row % 64) & 1);
        let word = |rows: &[u32]| rows.iter().rev().fold(0, |word, row| word << 1 | bit(row));
        self.rows.chunks(64).map(word).collect()
    }
}
