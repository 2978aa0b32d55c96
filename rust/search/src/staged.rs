//! Rows around one centre, coded twice: signs for a first look at all of them, 8 bits for a second at those that are left.

use crate::factors::Factors;
use crate::levels::{self, Width};
use crate::metric::squared_norm;
use crate::onebit::{Line, Signs, Tables};
use crate::rows8::Rows8;
use crate::shortlist::Shortlist;
use crate::tile::Asked;
use std::ops::Range;

/// Standard deviations of the 8-bit estimate that stay, after the 1-bit one or without it.
pub(crate) const REFINED: f32 = 6.0;

/// The codes of rows.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) signs: Signs,
    pub(crate) rows: Rows8,
    pub(crate) coarse: Factors,
    pub(crate) refined: Factors,
}

/// A rotated query in the forms in which it meets codes.
#[derive(Debug)]
pub(crate) struct Turned {
    pub(crate) vector: Vec<f32>,
    pub(crate) norm: f32,
    pub(crate) levels: Vec<i8>,
    pub(crate) step: f32,
}

/// A query as it is seen from the centre of some rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Its distance.
    pub(crate) norm: f32,
    /// What all keys lack.
    pub(crate) shift: f32,
}

/// Under which numbers rows are offered, and which of them: a bit a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots<'a> {
    pub(crate) base: usize,
    pub(crate) eligible: &'a [u64],
}

impl Turned {
    /// Of a query that is rotated, and centred if the codes want it so.
    pub(crate) fn new(vector: Vec<f32>) -> Turned {
        let norm = squared_norm(&vector).sqrt() as f32;
        let mut levels = Vec::new();
        levels::quantize(&vector, Width::Eight, &mut levels);
        let step = vector.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
        Turned { vector, norm, levels, step }
    }

    /// Seen from the centre that was taken from it.
    pub(crate) fn seen(&self) -> Seen {
        Seen { norm: self.norm, shift: 0.0 }
    }

    /// As whole numbers for rows with these factors, seen from so far from their centre. The variance of a coordinate that was
    /// rounded is that of a uniform number of a step.
    pub(crate) fn asked(&self, factors: &Factors, norm: f32, margin: f32) -> Asked<'_> {
        let reach = factors.reach(norm, self.step * self.step / 12.0, margin);
        Asked { levels: &self.levels, step: self.step, reach }
    }
}

impl Staged {
    /// No rows yet.
    pub(crate) fn new(dim: usize) -> Staged {
        Staged {
            signs: Signs::new(dim),
            rows: Rows8::new(dim),
            coarse: Factors::default(),
            refined: Factors::default(),
        }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.coarse.scales.len()
    }

    /// Adds a row, centred and rotated. Its key for a query is `offset` and its dot product with the centred query; `centre`
    /// is for queries that are not centred.
    pub(crate) fn push(&mut self, r: &[f32], offset: f32, centre: Option<&[f32]>, numbers: &mut Vec<i8>) {
        self.signs.push(r);
        let along = r.iter().map(|x| f64::from(x.abs())).sum();
        let signed = |(c, x): (&f32, &f32)| f64::from(if *x > 0.0 { *c } else { -c });
        let of_centre = centre.unwrap_or_default().iter().zip(r).map(signed).sum();
        self.coarse.push(r, along, r.len() as f64, offset, of_centre);
        levels::quantize(r, Width::Eight, numbers);
        self.rows.push(numbers);
        self.refined.push_levels(r, numbers, offset, centre);
    }

    /// Offers the eligible rows of `span`, which begins with a block, to a query's list.
    pub(crate) fn scan(
        &self,
        span: Range<usize>,
        tables: &Tables,
        seen: Seen,
        margin: f32,
        slots: Slots<'_>,
        list: &mut Shortlist,
    ) {
        let reach = self.coarse.reach(seen.norm, tables.rounding(), margin);
        let (scales, offsets) = (&self.coarse.scales, &self.coarse.offsets);
        let line = Line { reach, shift: seen.shift, scales, offsets, eligible: slots.eligible, base: slots.base };
        self.signs.scan(span, tables, line, list);
    }

    /// Looks at some rows again, whose slots count from `base` on.
    pub(crate) fn refine(&self, query: &Turned, seen: Seen, slots: &[u32], base: usize, list: &mut Shortlist) {
        const AHEAD: usize = 8;
        let asked = query.asked(&self.refined, seen.norm, REFINED);
        let (padded, correction) = self.rows.query(&query.levels);
        slots.iter().take(AHEAD).for_each(|slot| self.rows.prefetch(*slot as usize - base));
        for (at, slot) in slots.iter().enumerate() {
            if let Some(next) = slots.get(at + AHEAD) {
                self.rows.prefetch(*next as usize - base);
            }
            let row = *slot as usize - base;
            let scale = self.refined.scales[row];
            let key = asked.key(self.rows.dot(row, &padded) - correction) * scale;
            list.push(key + (self.refined.offsets[row] + seen.shift), 2.0 * asked.reach * scale, *slot);
        }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.signs.bytes() + self.rows.bytes() + self.coarse.bytes() + self.refined.bytes()
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        self.signs.to_mut();
        self.rows.to_mut();
        self.coarse.to_mut();
        self.refined.to_mut();
    }
}
