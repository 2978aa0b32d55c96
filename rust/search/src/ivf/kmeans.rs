//! Lloyd's k-means, whose bits depend on the seed alone: every row finds its centre for itself, and sums are in the order of
//! rows.

use crate::dense::{self, Packed};
use polmrs_core::philox::{self, Key};
use polmrs_core::{Ctl, Result, pool};
use rayon::prelude::*;

/// Rows a centre that centres are made from.
pub(super) const SAMPLE: usize = 48;
const ROUNDS: usize = 8;
/// Rows that a thread takes at a time.
const SHARE: usize = 256;

/// Centres, and what makes dot products with them distances.
#[derive(Clone, Debug)]
pub(super) struct Centres {
    dim: usize,
    rows: Vec<f32>,
    /// Half of the squared norm of each.
    halves: Vec<f32>,
    packed: Packed,
}

impl Centres {
    pub(super) fn new(rows: Vec<f32>, dim: usize) -> Centres {
        let halves = rows.chunks_exact(dim).map(|row| (0.5 * crate::metric::squared_norm(row)) as f32).collect();
        let packed = Packed::new(&rows, dim);
        Centres { dim, rows, halves, packed }
    }

    pub(super) fn len(&self) -> usize {
        self.halves.len()
    }

    pub(super) fn row(&self, number: usize) -> &[f32] {
        &self.rows[number * self.dim..(number + 1) * self.dim]
    }

    pub(super) fn rows(&self) -> &[f32] {
        &self.rows
    }

    pub(super) fn halves(&self) -> &[f32] {
        &self.halves
    }

    pub(super) fn bytes(&self) -> usize {
        8 * self.rows.len() + 4 * self.halves.len()
    }

    /// The dot product of a query with each.
    pub(super) fn dots(&self, query: &[f32]) -> Vec<f32> {
        let mut dots = vec![0.0; self.len()];
        dense::row_dots(query, &self.rows, &mut dots);
        dots
    }

    /// The nearest centre of each row; the first of equals.
    pub(super) fn nearest(&self, rows: &[f32]) -> Result<Vec<u32>> {
        let of_share = |rows: &[f32]| {
            let mut best = vec![(f32::NEG_INFINITY, 0u32); rows.len() / self.dim];
            self.packed.dots(rows, |row, first, dots| {
                for (at, (dot, half)) in dots.iter().zip(&self.halves[first..]).enumerate() {
                    let key = dot - half;
                    if key > best[row].0 {
                        best[row] = (key, (first + at) as u32);
                    }
                }
            });
            best.into_iter().map(|(_, number)| number).collect::<Vec<u32>>()
        };
        let work = || rows.par_chunks(SHARE * self.dim).flat_map_iter(of_share).collect();
        Ok(pool::shared()?.install(work))
    }
}

/// `lists` centres of rows, of which there are as many or more.
pub(super) fn fit(rows: &[f32], dim: usize, lists: usize, seed: u64, ctl: &Ctl) -> Result<Centres> {
    let n = rows.len() / dim;
    let mut words = vec![0u32; n];
    philox::fill(Key::new(seed, "polmrs.search", "centres"), 0, &mut words);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_unstable_by_key(|row| (words[*row], *row));
    let first = order.iter().take(lists).flat_map(|row| rows[row * dim..(row + 1) * dim].iter().copied());
    let mut centres = Centres::new(first.collect(), dim);
    for _ in 0..ROUNDS {
        ctl.check()?;
        let nearest = centres.nearest(rows)?;
        let (mut sums, mut counts) = (vec![0f64; centres.rows.len()], vec![0u32; lists]);
        for (row, list) in rows.chunks_exact(dim).zip(&nearest) {
            let list = *list as usize;
            counts[list] += 1;
            for (sum, x) in sums[list * dim..(list + 1) * dim].iter_mut().zip(row) {
                *sum += f64::from(*x);
            }
        }
        let mut next = centres.rows.clone(); // one that no row is nearest to stays
        for ((to, sums), count) in next.chunks_exact_mut(dim).zip(sums.chunks_exact(dim)).zip(&counts) {
            if *count > 0 {
                for (to, sum) in to.iter_mut().zip(sums) {
                    *to = (sum / f64::from(*count)) as f32;
                }
            }
        }
        centres = Centres::new(next, dim);
    }
    Ok(centres)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separate_clusters_get_a_centre_each_and_rows_their_nearest() {
        let dim = 5;
        let rows: Vec<f32> = (0..300usize)
            .flat_map(|row| {
                (0..dim).map(move |at| if row % 3 == at { 9.0 } else { 0.0 } + ((row * 7 + at) as f32).sin())
            })
            .collect();
        let centres = fit(&rows, dim, 40, 0, &Ctl::new()).unwrap();
        let nearest = centres.nearest(&rows).unwrap();
        for (row, number) in rows.chunks(dim).zip(nearest) {
            let distance = |other: usize| crate::metric::squared_distance(row, centres.row(other));
            let least = (0..40).map(distance).fold(f64::MAX, f64::min);
            assert!(distance(number as usize) <= least + 1e-4);
            assert!(least < 9.0);
        }
    }
}
