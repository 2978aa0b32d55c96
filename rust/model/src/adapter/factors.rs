//! Low-rank factors of one tensor: `delta[i, j] = sum_k left[i, k] right[k, j]`, k in order, so that the bits of an
//! element do not depend on the block that it is computed in.

use polmrs_core::{Result, simd};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of factors that are kept for the next block.
const KEPT: usize = 128 << 20;

/// The factors of one stored tensor, in the order of its rows and columns.
#[derive(Debug)]
pub struct Factors {
    /// Rows x rank.
    pub left: Vec<f32>,
    /// Rank x columns.
    pub right: Vec<f32>,
    /// How many products make an element.
    pub rank: usize,
    /// Columns of the tensor.
    pub columns: usize,
}

impl Factors {
    /// Adds `scale * delta` to the elements from `first` on, in the order of rows.
    pub fn add(&self, first: u64, values: &mut [f32], scale: f32) {
        let mut sums = vec![0.0; self.columns.min(values.len())];
        for (row, column, values) in by_rows(first, values, self.columns) {
            let sums = &mut sums[..values.len()];
            sums.fill(0.0);
            let by = &self.left[row * self.rank..][..self.rank];
            add_products(sums, by, &self.right[column..], self.columns);
            add_scaled(values, sums, scale);
        }
    }

    /// The bytes it takes.
    pub fn nbytes(&self) -> usize {
        (self.left.len() + self.right.len()) * size_of::<f32>()
    }
}

/// Factors of several tensors that were read, kept for the next block.
#[derive(Debug, Default)]
pub struct Cache(Mutex<Vec<(usize, Arc<Factors>)>>);

impl Cache {
    /// The factors of a tensor, kept or read anew.
    ///
    /// # Errors
    /// Whatever `read` meets.
    pub fn factors(&self, tensor: usize, read: impl FnOnce() -> Result<Factors>) -> Result<Arc<Factors>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, kept)) = lock().iter().find(|(at, _)| *at == tensor) {
            return Ok(Arc::clone(kept));
        }
        let fresh = Arc::new(read()?);
        let mut kept = lock();
        kept.push((tensor, Arc::clone(&fresh)));
        let mut held: usize = kept.iter().map(|(_, factors)| factors.nbytes()).sum();
        while held > KEPT && kept.len() > 1 {
            held -= kept.remove(0).1.nbytes();
        }
        Ok(fresh)
    }
}

/// A run of elements cut at the ends of rows: each piece with its row and its first column.
pub fn by_rows(first: u64, values: &mut [f32], columns: usize) -> impl Iterator<Item = (usize, usize, &mut [f32])> {
    let columns = columns.max(1); // a tensor without columns has no elements
    let (mut row, mut column) = ((first / columns as u64) as usize, (first % columns as u64) as usize);
    let mut rest = values;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = (columns - column).min(rest.len());
        let (piece, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        let here = (row, column, piece);
        (row, column) = (row + 1, 0);
        Some(here)
    })
}

simd! {
    /// Adds `by[k] * right[k * stride ..]` to `sums`, k in order; four at a time, which changes no bit.
    fn add_products(sums: &mut [f32], by: &[f32], right: &[f32], stride: usize) {
        let n = sums.len();
        let mut k = 0;
        while k + 4 <= by.len() {
            let row = |k: usize| &right[k * stride..][..n];
            let (a, b, c, d) = (row(k), row(k + 1), row(k + 2), row(k + 3));
            for i in 0..n {
                sums[i] = sums[i] + by[k] * a[i] + by[k + 1] * b[i] + by[k + 2] * c[i] + by[k + 3] * d[i];
            }
            k += 4;
        }
        while k < by.len() {
            let row = &right[k * stride..][..n];
            for i in 0..n {
                sums[i] += by[k] * row[i];
            }
            k += 1;
        }
    }
}

simd! {
    fn add_scaled(values: &mut [f32], sums: &[f32], scale: f32) {
        for (value, sum) in values.iter_mut().zip(sums) {
            *value += scale * sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_do_not_depend_on_where_a_block_begins() {
        let (rows, columns, rank) = (5, 7, 6);
        let number = |at: usize| ((at * 2_654_435_761) % 1000) as f32 / 997.0 - 0.5;
        let factors = Factors {
            left: (0..rows * rank).map(number).collect(),
            right: (100..100 + rank * columns).map(number).collect(),
            rank,
            columns,
        };
        let mut whole = vec![0.25; rows * columns];
        factors.add(0, &mut whole, 2.0);
        let by_hand = |i: usize, j: usize| {
            let products = (0..rank).map(|k| factors.left[i * rank + k] * factors.right[k * columns + j]);
            0.25 + 2.0 * products.fold(0.0f32, |sum, product| sum + product)
        };
        assert!((0..rows * columns).all(|at| whole[at] == by_hand(at / columns, at % columns)));
        for (first, len) in [(3, 20), (7, 7), (34, 1), (10, 2)] {
            let mut piece = vec![0.25; len];
            factors.add(first as u64, &mut piece, 2.0);
            assert_eq!(piece, whole[first..first + len]);
        }
    }
}
