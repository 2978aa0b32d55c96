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
//! taken from that of the `k`-th. With 1 bit, 8-bit codes of the same $r$ then leave a few; a batch of queries shares the reading
//! of those, and does without signs. In a rotated space $\sigma$ is nearly proportional to the factor before $\langle y, q' \rangle$, so one number, from sums over all rows, gives that of each.

use crate::column::Column;
use crate::factors::Factors;
use crate::finder::Found;
use crate::levels::{self, Nibbles, Width};
use crate::metric::{Metric, squared_norm};
use crate::onebit::Tables;
use crate::rotation::Rotation;
use crate::rows8::Rows8;
use crate::shortlist::Shortlist;
use crate::staged::{REFINED, Slots, Staged, Turned};
use crate::tile::{self, Asked, Tiles};
use crate::vectors::Joined;
use memmap2::Mmap;
use polmrs_core::{Ctl, Result};
use serde_json::{Value as Json, json};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Standard deviations of an estimate, if nothing else is said.
pub const MARGIN: f32 = 3.25;
/// Rows of 1-bit codes that all queries meet before the next: they stay in the cache.
const TILE: usize = 2048;
/// Queries from which turning 8-bit rows into tiles pays.
const BATCH: usize = 8;
/// Rows that are coded between two looks at whether to stop.
const CHECKED: usize = 256;

/// The codes of an index.
#[derive(Clone, Debug)]
pub struct Quantized {
    metric: Metric,
    margin: f32,
    rotation: Rotation,
    /// Rotated.
    centre: Vec<f32>,
    codes: Codes,
    /// How many rows the centre is the mean of.
    fitted: usize,
}

#[derive(Clone, Debug)]
enum Codes {
    One(Staged),
    Four(Nibbles, Factors),
    Eight(Rows8, Factors),
}

/// How many bits the first look takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub enum Bits {
    /// Signs, and 8 bits for a second look.
    #[default]
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

impl Quantized {
    /// No rows yet.
    pub fn new(dim: usize, metric: Metric, bits: Bits, margin: f32) -> Quantized {
        let codes = match bits {
            Bits::One => Codes::One(Staged::new(dim)),
            Bits::Four => Codes::Four(Nibbles::new(dim), Factors::default()),
            Bits::Eight => Codes::Eight(Rows8::new(dim), Factors::default()),
        };
        Quantized { metric, margin, rotation: Rotation::new(dim), centre: vec![0.0; dim], codes, fitted: 0 }
    }

    /// Whether so many rows more would have all of them coded anew.
    pub(crate) fn is_due(&self, more: usize) -> bool {
        self.len() + more >= self.fitted.saturating_mul(2)
    }

    /// Codes of all rows, from their own mean.
    ///
    /// # Errors
    /// [`polmrs_core::Error::Cancelled`].
    pub fn remade(&self, vectors: Joined<'_>, ctl: &Ctl) -> Result<Quantized> {
        let mut fresh = Quantized::new(self.centre.len(), self.metric, self.bits(), self.margin);
        fresh.fit(vectors);
        fresh.extend(vectors, ctl)?;
        Ok(fresh)
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        match &self.codes {
            Codes::One(staged) => staged.len(),
            Codes::Four(_, factors) | Codes::Eight(_, factors) => factors.scales.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bits(&self) -> Bits {
        match &self.codes {
            Codes::One(..) => Bits::One,
            Codes::Four(..) => Bits::Four,
            Codes::Eight(..) => Bits::Eight,
        }
    }

    /// Bytes of codes and factors.
    pub fn bytes(&self) -> usize {
        match &self.codes {
            Codes::One(staged) => staged.bytes(),
            Codes::Four(rows, factors) => rows.bytes() + factors.bytes(),
            Codes::Eight(rows, factors) => rows.bytes() + factors.bytes(),
        }
    }

    fn fit(&mut self, vectors: Joined<'_>) {
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

    /// Codes the rows that came since. If it is cancelled, some of them are coded, and all is well with those.
    ///
    /// # Errors
    /// [`polmrs_core::Error::Cancelled`].
    pub fn extend(&mut self, vectors: Joined<'_>, ctl: &Ctl) -> Result<()> {
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
                Codes::One(staged) => staged.push(&r, offset, None, &mut numbers),
                Codes::Four(rows, factors) => {
                    levels::quantize(&r, Width::Four, &mut numbers);
                    rows.push(&numbers);
                    factors.push_levels(&r, &numbers, offset, None);
                }
                Codes::Eight(rows, factors) => {
                    levels::quantize(&r, Width::Eight, &mut numbers);
                    rows.push(&numbers);
                    factors.push_levels(&r, &numbers, offset, None);
                }
            }
        }
        Ok(())
    }

    /// What a file keeps besides [`sections`](Quantized::sections).
    pub(crate) fn facts(&self) -> Json {
        let sums = match &self.codes {
            Codes::One(staged) => vec![staged.coarse.sums(), staged.refined.sums()],
            Codes::Four(_, factors) | Codes::Eight(_, factors) => vec![factors.sums()],
        };
        json!({"fitted": self.fitted, "sums": sums})
    }

    /// The parts that a file keeps as they lie in memory.
    pub(crate) fn sections(&self) -> Vec<(&'static str, Cow<'_, [u8]>)> {
        let (levels, factors) = match &self.codes {
            Codes::One(staged) => (staged.rows.codes(), &staged.coarse),
            Codes::Four(rows, factors) => (rows.codes(), factors),
            Codes::Eight(rows, factors) => (rows.codes(), factors),
        };
        let mut all: Vec<(&'static str, &[u8])> = vec![
            ("centre", bytemuck::cast_slice(&self.centre)),
            ("scales", bytemuck::cast_slice(&factors.scales)),
            ("offsets", bytemuck::cast_slice(&factors.offsets)),
            ("levels", levels),
        ];
        if let Codes::One(staged) = &self.codes {
            all.push(("signs", staged.signs.codes()));
            all.push(("fine_scales", bytemuck::cast_slice(&staged.refined.scales)));
            all.push(("fine_offsets", bytemuck::cast_slice(&staged.refined.offsets)));
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
        let factors = |look: usize, scales: &str, offsets: &str| {
            let sum = |at: usize| facts.get("sums")?.get(look)?.get(at)?.as_f64();
            Factors::with(rows, floats(scales)?, floats(offsets)?, [sum(0)?, sum(1)?, sum(2)?])
        };
        let centre = floats("centre").filter(|centre| centre.len() == self.centre.len())?;
        self.centre = centre.to_vec();
        self.fitted = usize::try_from(facts.get("fitted")?.as_u64()?).ok()?;
        let coarse = factors(0, "scales", "offsets")?;
        self.codes = match self.codes {
            Codes::One(empty) => Codes::One(Staged {
                signs: empty.signs.with(rows, bytes("signs")?)?,
                rows: empty.rows.with(rows, bytes("levels")?)?,
                coarse,
                refined: factors(1, "fine_scales", "fine_offsets")?,
            }),
            Codes::Four(empty, _) => Codes::Four(empty.with(rows, bytes("levels")?)?, coarse),
            Codes::Eight(empty, _) => Codes::Eight(empty.with(rows, bytes("levels")?)?, coarse),
        };
        Some(self)
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        match &mut self.codes {
            Codes::One(staged) => staged.to_mut(),
            Codes::Four(rows, factors) => {
                rows.to_mut();
                factors.to_mut();
            }
            Codes::Eight(rows, factors) => {
                rows.to_mut();
                factors.to_mut();
            }
        }
    }

    fn turn(&self, query: &[f32]) -> Turned {
        let mut vector = self.metric.directed(query);
        self.rotation.apply(&mut vector);
        for (x, c) in vector.iter_mut().zip(&self.centre) {
            *x -= c;
        }
        Turned::new(vector)
    }

    /// What is found for each query among the eligible rows, for the best `k`. `queries` holds whole rows, and is a part of a
    /// batch of so many.
    pub fn candidates(&self, queries: &[f32], batch: usize, k: usize, eligible: &[u64]) -> Vec<Found> {
        let turned: Vec<Turned> = queries.chunks_exact(self.centre.len()).map(|query| self.turn(query)).collect();
        let (rows, factors, margin): (&dyn Tiles, _, _) = match &self.codes {
            Codes::One(staged) => (&staged.rows, &staged.refined, REFINED),
            Codes::Four(rows, factors) => (rows, factors, self.margin),
            Codes::Eight(rows, factors) => (rows, factors, self.margin),
        };
        let asked: Vec<Asked<'_>> = turned.iter().map(|query| query.asked(factors, query.norm, margin)).collect();
        let mut lists: Vec<Shortlist> = turned.iter().map(|_| Shortlist::new(k)).collect();
        match &self.codes {
            Codes::One(staged) if batch < BATCH => self.scan_signs(staged, &turned, k, eligible, &mut lists),
            Codes::Eight(rows, factors) if batch < BATCH => {
                for (asked, list) in asked.into_iter().zip(&mut lists) {
                    rows.scan(factors, eligible, asked, list);
                }
            }
            _ => tile::scan(rows, factors, eligible, &asked, &mut lists),
        }
        let found = |(query, list): (&Turned, Shortlist)| Found {
            candidates: list.finish(),
            // What the product of the centred query and row lacks of the score.
            line: match self.metric {
                Metric::L2 => [2.0, -query.norm * query.norm],
                _ => [1.0, crate::metric::dot(&query.vector, &self.centre) as f32 + squared_norm(&self.centre) as f32],
            },
        };
        turned.iter().zip(lists).map(found).collect()
    }

    fn scan_signs(&self, staged: &Staged, turned: &[Turned], k: usize, eligible: &[u64], lists: &mut [Shortlist]) {
        let n = staged.len();
        let tables: Vec<Tables> = turned.iter().map(|query| Tables::new(&query.vector)).collect();
        let mut coarse: Vec<Shortlist> = turned.iter().map(|_| Shortlist::new(k)).collect();
        for tile in (0..n).step_by(TILE) {
            for ((query, tables), coarse) in turned.iter().zip(&tables).zip(&mut coarse) {
                let span = tile..n.min(tile + TILE);
                staged.scan(span, tables, query.seen(), self.margin, Slots { base: 0, eligible }, coarse);
            }
        }
        for ((query, coarse), list) in turned.iter().zip(coarse).zip(lists) {
            let slots: Vec<u32> = coarse.finish().iter().map(|candidate| candidate.slot).collect();
            staged.refine(query, query.seen(), &slots, 0, list);
        }
    }
}
