//! Candidates from codes of 1, 4 or 8 bits, after RaBitQ ([paper](https://arxiv.org/abs/2405.12497)).
//!
//! A row $x$ is centred and rotated, $r = P(x - c)$, and coded as whole numbers $y$ (signs, or see [`crate::levels`]). With
//! $q' = P(q - c)$, an estimate of $\langle r, q' \rangle$ that errs to neither side is
//!
//! $$ \frac{\lVert r \rVert^2}{\langle r, y \rangle} \langle y, q' \rangle, \qquad
//! \sigma = \lVert r \rVert \lVert q' \rVert \sqrt{\frac{1 - a^2}{a^2 (d - 1)}}, \quad a = \cos(r, y) $$
//!
//! (the paper's theorem 3.2, there for signs). A key is the estimate and what does not depend on the query: $q \cdot x =
//! \langle r, q' \rangle + c \cdot r + q \cdot c$ for `ip` and `cosine`, whose rows and queries have unit length;
//! $-\lVert q - x \rVert^2 / 2 = \langle r, q' \rangle - \lVert r \rVert^2 / 2 - \lVert q' \rVert^2 / 2$ for `l2`.
//!
//! What is within `margin` standard deviations of the `k`-th best stays: half of them are added to a row's estimate, and half
//! taken from that of the `k`-th. With 1 bit, 8-bit codes of the same $r$ then leave a few. In a rotated space $\sigma$ is
//! nearly proportional to the factor before $\langle y, q' \rangle$, so one number, from sums over all rows, gives that of each.

use crate::column::Column;
use crate::dense::eligible_of;
use crate::levels::{self, Group, Levels, Rows8, Width};
use crate::metric::{Metric, squared_norm};
use crate::onebit::{Line, Signs, Tables};
use crate::rotation::Rotation;
use crate::shortlist::{Candidate, Shortlist};
use crate::vectors::Vectors;
use memmap2::Mmap;
use polmrs_core::{Ctl, Result};
use serde_json::{Value as Json, json};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Standard deviations of the 8-bit estimate that stay after the 1-bit one.
const REFINED: f32 = 6.0;
/// Rows of 1-bit codes that all queries meet before the next: they stay in the cache.
const TILE: usize = 2048;

/// Rows that are coded between two looks at whether to stop.
const CHECKED: usize = 256;

/// The codes of an index.
#[derive(Debug)]
pub struct Quantized {
    metric: Metric,
    margin: f32,
    rotation: Rotation,
    /// Rotated.
    centre: Vec<f32>,
    codes: Codes,
    refined: Factors,
    coarse: Factors,
    /// How many rows the centre is the mean of.
    fitted: usize,
}

#[derive(Debug)]
enum Codes {
    One(Signs, Rows8),
    Many(Width, Levels),
}

/// What makes an integer dot product a key, row by row, and sums over rows from which the error of keys follows.
#[derive(Debug, Default)]
struct Factors {
    scales: Column<f32>,
    offsets: Column<f32>,
    /// Of the squared errors for a query of length 1.
    variance: f64,
    /// Of the squared scales.
    squares: f64,
    /// Of the squared norms of scaled codes.
    norms: f64,
}

/// How many bits the first look takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub enum Bits {
    /// Signs, and 8 bits for a second look.
    One,
    /// Four.
    Four,
    /// Eight.
    Eight,
}

impl Bits {
    /// As a number.
    pub fn number(self) -> u32 {
        match self {
            Bits::One => 1,
            Bits::Four => 4,
            Bits::Eight => 8,
        }
    }
}

impl From<Bits> for u32 {
    fn from(bits: Bits) -> u32 {
        bits.number()
    }
}

impl TryFrom<u32> for Bits {
    type Error = String;

    fn try_from(number: u32) -> std::result::Result<Bits, String> {
        let found = [Bits::One, Bits::Four, Bits::Eight].into_iter().find(|bits| bits.number() == number);
        found.ok_or_else(|| format!("bits: {number} is not one of 1, 4, 8"))
    }
}

/// A query, centred and rotated.
struct Turned {
    vector: Vec<f32>,
    norm: f32,
    levels: Vec<i8>,
    step: f32,
}

impl Quantized {
    /// No rows yet.
    pub fn new(dim: usize, metric: Metric, bits: Bits, margin: f32) -> Quantized {
        let codes = match bits {
            Bits::One => Codes::One(Signs::new(dim), Rows8::new(dim)),
            Bits::Four => Codes::Many(Width::Four, Levels::new(dim, Width::Four)),
            Bits::Eight => Codes::Many(Width::Eight, Levels::new(dim, Width::Eight)),
        };
        Quantized {
            metric,
            margin,
            rotation: Rotation::new(dim),
            centre: vec![0.0; dim],
            codes,
            refined: Factors::default(),
            coarse: Factors::default(),
            fitted: 0,
        }
    }

    /// Codes the rows that came since, or, once there are twice as many as the centre was made from, all of them anew. If it
    /// is cancelled, some of the rows are coded, or none of them.
    ///
    /// # Errors
    /// [`polmrs_core::Error::Cancelled`].
    pub fn extend(&mut self, vectors: &Vectors, ctl: &Ctl) -> Result<()> {
        if vectors.len() < 2 * self.fitted {
            return self.push(vectors, ctl);
        }
        self.remake(vectors, ctl)
    }

    /// Codes all rows anew, from their own mean; if it is cancelled, it stays as it was.
    ///
    /// # Errors
    /// [`polmrs_core::Error::Cancelled`].
    pub fn remake(&mut self, vectors: &Vectors, ctl: &Ctl) -> Result<()> {
        let mut fresh = Quantized::new(self.centre.len(), self.metric, self.bits(), self.margin);
        fresh.fit(vectors);
        fresh.push(vectors, ctl)?;
        *self = fresh;
        Ok(())
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.coarse.scales.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bits(&self) -> Bits {
        match &self.codes {
            Codes::One(..) => Bits::One,
            Codes::Many(Width::Four, _) => Bits::Four,
            Codes::Many(Width::Eight, _) => Bits::Eight,
        }
    }

    /// Bytes of codes and factors.
    pub fn bytes(&self) -> usize {
        let codes = match &self.codes {
            Codes::One(signs, rows) => signs.bytes() + rows.bytes(),
            Codes::Many(_, levels) => levels.bytes(),
        };
        let factors = [&self.coarse.scales, &self.coarse.offsets, &self.refined.scales, &self.refined.offsets];
        codes + factors.iter().map(|column| column.bytes()).sum::<usize>()
    }

    fn fit(&mut self, vectors: &Vectors) {
        let n = vectors.len();
        let mut sums = vec![0f64; self.centre.len()];
        for row in 0..n {
            for (sum, x) in sums.iter_mut().zip(self.metric.directed(&vectors.row(row))) {
                *sum += f64::from(x);
            }
        }
        self.centre = sums.into_iter().map(|sum| (sum / n.max(1) as f64) as f32).collect();
        self.rotation.apply(&mut self.centre);
        self.fitted = n;
    }

    fn push(&mut self, vectors: &Vectors, ctl: &Ctl) -> Result<()> {
        let (mut numbers, first, bytes) = (Vec::new(), self.len(), 4 * self.centre.len() as u64);
        ctl.expect((vectors.len() - first) as u64 * bytes);
        for row in first..vectors.len() {
            if row % CHECKED == 0 {
                ctl.check()?;
            }
            ctl.advance(bytes);
            let mut r = self.metric.directed(&vectors.row(row));
            self.rotation.apply(&mut r);
            for (x, c) in r.iter_mut().zip(&self.centre) {
                *x -= c;
            }
            let offset = match self.metric {
                Metric::L2 => -0.5 * squared_norm(&r),
                _ => crate::metric::dot(&self.centre, &r),
            } as f32;
            match &mut self.codes {
                Codes::One(signs, rows) => {
                    signs.push(&r);
                    let along = r.iter().map(|x| f64::from(x.abs())).sum();
                    self.coarse.push(&r, along, r.len() as f64, offset);
                    levels::quantize(&r, Width::Eight, &mut numbers);
                    rows.push(&numbers);
                    self.refined.push_levels(&r, &numbers, offset);
                }
                Codes::Many(width, levels) => {
                    levels::quantize(&r, *width, &mut numbers);
                    levels.push(&numbers);
                    self.coarse.push_levels(&r, &numbers, offset);
                }
            }
        }
        Ok(())
    }

    /// What a file keeps besides [`sections`](Quantized::sections).
    pub(crate) fn facts(&self) -> Json {
        json!({"fitted": self.fitted, "coarse": self.coarse.sums(), "refined": self.refined.sums()})
    }

    /// The parts that a file keeps as they lie in memory.
    pub(crate) fn sections(&self) -> Vec<(&'static str, Cow<'_, [u8]>)> {
        let mut all: Vec<(&'static str, &[u8])> = vec![
            ("centre", bytemuck::cast_slice(&self.centre)),
            ("scales", bytemuck::cast_slice(&self.coarse.scales)),
            ("offsets", bytemuck::cast_slice(&self.coarse.offsets)),
        ];
        match &self.codes {
            Codes::One(signs, rows) => {
                all.push(("signs", signs.codes()));
                all.push(("levels", rows.codes()));
                all.push(("fine_scales", bytemuck::cast_slice(&self.refined.scales)));
                all.push(("fine_offsets", bytemuck::cast_slice(&self.refined.offsets)));
            }
            Codes::Many(_, levels) => all.push(("levels", levels.codes())),
        }
        all.into_iter().map(|(name, bytes)| (name, Cow::Borrowed(bytes))).collect()
    }

    /// These codes with what a file keeps of `rows` rows; nothing if it does not fit together.
    pub(crate) fn mapped(
        mut self,
        rows: usize,
        facts: &Json,
        map: &Arc<Mmap>,
        section: &dyn Fn(&str) -> Option<Range<usize>>,
    ) -> Option<Quantized> {
        let floats = |name: &str| Column::<f32>::map(map, section(name)?);
        let bytes = |name: &str| Column::<u8>::map(map, section(name)?);
        let factors = |key: &str, scales: &str, offsets: &str| {
            let columns = [floats(scales)?, floats(offsets)?];
            columns.iter().all(|column| column.len() == rows).then_some(())?;
            let [scales, offsets] = columns;
            let sum = |at: usize| facts.get(key)?.get(at)?.as_f64();
            Some(Factors { scales, offsets, variance: sum(0)?, squares: sum(1)?, norms: sum(2)? })
        };
        let centre = floats("centre").filter(|centre| centre.len() == self.centre.len())?;
        self.centre = centre.to_vec();
        self.fitted = usize::try_from(facts.get("fitted")?.as_u64()?).ok()?;
        self.coarse = factors("coarse", "scales", "offsets")?;
        self.codes = match self.codes {
            Codes::One(signs, levels) => {
                self.refined = factors("refined", "fine_scales", "fine_offsets")?;
                Codes::One(signs.with(rows, bytes("signs")?)?, levels.with(rows, bytes("levels")?)?)
            }
            Codes::Many(width, levels) => Codes::Many(width, levels.with(rows, bytes("levels")?)?),
        };
        Some(self)
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        match &mut self.codes {
            Codes::One(signs, rows) => {
                signs.to_mut();
                rows.to_mut();
            }
            Codes::Many(_, levels) => levels.to_mut(),
        }
        for factors in [&mut self.coarse, &mut self.refined] {
            factors.scales.to_mut();
            factors.offsets.to_mut();
        }
    }

    fn turn(&self, query: &[f32]) -> Turned {
        let mut vector = self.metric.directed(query);
        self.rotation.apply(&mut vector);
        for (x, c) in vector.iter_mut().zip(&self.centre) {
            *x -= c;
        }
        let norm = squared_norm(&vector).sqrt() as f32;
        let mut levels = Vec::new();
        levels::quantize(&vector, Width::Eight, &mut levels);
        let step = vector.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
        Turned { vector, norm, levels, step }
    }

    /// The candidates of each query for the best `k` of the eligible rows. `queries` holds whole rows.
    pub fn candidates(&self, queries: &[f32], k: usize, eligible: &[u64]) -> Vec<Vec<Candidate>> {
        let turned: Vec<Turned> = queries.chunks_exact(self.centre.len()).map(|query| self.turn(query)).collect();
        match &self.codes {
            Codes::One(signs, rows) => {
                let lists = self.scan_signs(signs, &turned, k, eligible);
                turned.iter().zip(lists).map(|(query, list)| self.refine(rows, query, list.finish(), k)).collect()
            }
            Codes::Many(_, levels) => {
                self.scan_levels(levels, &turned, k, eligible).into_iter().map(Shortlist::finish).collect()
            }
        }
    }

    fn scan_signs(&self, signs: &Signs, turned: &[Turned], k: usize, eligible: &[u64]) -> Vec<Shortlist> {
        let n = self.coarse.scales.len();
        let tables: Vec<Tables> = turned.iter().map(|query| Tables::new(&query.vector)).collect();
        let reach = |(query, tables): (&Turned, &Tables)| {
            // A table's rounding is uniform over a step.
            let rounding = tables.step * tables.step / 12.0 * query.vector.len().div_ceil(6) as f32;
            self.coarse.reach(query.norm, rounding / query.vector.len() as f32, self.margin)
        };
        let reaches: Vec<f32> = turned.iter().zip(&tables).map(reach).collect();
        let mut lists: Vec<Shortlist> = turned.iter().map(|_| Shortlist::new(k)).collect();
        for tile in (0..n).step_by(TILE) {
            for ((tables, reach), list) in tables.iter().zip(&reaches).zip(&mut lists) {
                let (scales, offsets) = (&self.coarse.scales, &self.coarse.offsets);
                let line = Line { reach: *reach, scales, offsets, eligible };
                signs.scan(tile..n.min(tile + TILE), tables, line, list);
            }
        }
        lists
    }

    fn refine(&self, rows: &Rows8, query: &Turned, coarse: Vec<Candidate>, k: usize) -> Vec<Candidate> {
        const AHEAD: usize = 8;
        let mut list = Shortlist::new(k);
        let reach = self.refined.level_reach(query, REFINED);
        let (padded, correction) = rows.query(&query.levels);
        coarse.iter().take(AHEAD).for_each(|candidate| rows.prefetch(candidate.slot as usize));
        for (at, candidate) in coarse.iter().enumerate() {
            if let Some(next) = coarse.get(at + AHEAD) {
                rows.prefetch(next.slot as usize);
            }
            let row = candidate.slot as usize;
            let dot = (rows.dot(row, &padded) - correction) as f32;
            let scale = self.refined.scales[row];
            let key = (dot * query.step + reach) * scale + self.refined.offsets[row];
            list.push(key, 2.0 * reach * scale, candidate.slot);
        }
        list.finish()
    }

    fn scan_levels(&self, levels: &Levels, turned: &[Turned], k: usize, eligible: &[u64]) -> Vec<Shortlist> {
        let n = self.coarse.scales.len();
        let reaches: Vec<f32> = turned.iter().map(|query| self.coarse.level_reach(query, self.margin)).collect();
        let mut lists: Vec<Shortlist> = turned.iter().map(|_| Shortlist::new(k)).collect();
        let groups: Vec<Group> = turned
            .chunks(levels::QUERIES)
            .map(|queries| Group::new(&queries.iter().map(|query| query.levels.clone()).collect::<Vec<_>>()))
            .collect();
        for first in (0..n).step_by(levels::ROWS) {
            let last = n.min(first + levels::ROWS);
            let allowed = eligible_of(eligible, first, last);
            if allowed == 0 {
                continue;
            }
            let (scales, offsets) = (&self.coarse.scales[first..last], &self.coarse.offsets[first..last]);
            let asked = turned.chunks(levels::QUERIES).zip(reaches.chunks(levels::QUERIES));
            for ((group, (queries, reaches)), lists) in groups.iter().zip(asked).zip(lists.chunks_mut(levels::QUERIES))
            {
                let mut dots = [[0; levels::ROWS]; levels::QUERIES];
                levels.dots(first / levels::ROWS, group, &mut dots);
                for (((dots, query), reach), list) in dots.iter().zip(queries).zip(reaches).zip(lists) {
                    let mut keys = [f32::NEG_INFINITY; levels::ROWS];
                    level_keys(dots, [*reach, query.step], scales, offsets, &mut keys);
                    list.offer(&keys, allowed, first, |row| 2.0 * reach * scales[row]);
                }
            }
        }
        lists
    }
}

impl Factors {
    /// A row `r` with code `y`: `along` is their dot product, `square` the code's squared norm.
    fn push(&mut self, r: &[f32], along: f64, square: f64, offset: f32) {
        let norm = squared_norm(r);
        let scale = if along > 0.0 { norm / along } else { 0.0 };
        if along > 0.0 {
            let cosine2 = (along * along / (norm * square)).min(1.0);
            self.variance += norm * (1.0 - cosine2) / cosine2 / (r.len().max(2) - 1) as f64;
        }
        self.squares += scale * scale;
        self.norms += scale * scale * square;
        self.scales.to_mut().push(scale as f32);
        self.offsets.to_mut().push(offset);
    }

    fn sums(&self) -> [f64; 3] {
        [self.variance, self.squares, self.norms]
    }

    fn push_levels(&mut self, r: &[f32], y: &[i8], offset: f32) {
        let (mut along, mut square) = (0f64, 0f64);
        for (x, y) in r.iter().zip(y) {
            along += f64::from(*x) * f64::from(*y);
            square += f64::from(*y) * f64::from(*y);
        }
        self.push(r, along, square, offset);
    }

    /// Half of `deviations` standard deviations of the dot product that a scale multiplies, for a query of this norm whose
    /// coordinates were rounded with this variance.
    fn reach(&self, query_norm: f32, rounding: f32, deviations: f32) -> f32 {
        if self.squares == 0.0 {
            return 0.0;
        }
        let query2 = f64::from(query_norm) * f64::from(query_norm);
        let variance = (self.variance * query2 + self.norms * f64::from(rounding)) / self.squares;
        (0.5 * f64::from(deviations) * variance.sqrt()) as f32
    }

    /// The same for a query of 8 bits, whose rounding is uniform over a step.
    fn level_reach(&self, query: &Turned, deviations: f32) -> f32 {
        self.reach(query.norm, query.step * query.step / 12.0, deviations)
    }
}

polmrs_core::simd! {
    fn level_keys(dots: &[i32; levels::ROWS], line: [f32; 2], scales: &[f32], offsets: &[f32], keys: &mut [f32; levels::ROWS]) {
        for (((key, dot), scale), offset) in keys.iter_mut().zip(dots).zip(scales).zip(offsets) {
            *key = (line[0] + line[1] * *dot as f32) * scale + offset;
        }
    }
}
