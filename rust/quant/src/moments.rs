//! What codes do to a layer's output, from the second moments of its inputs.
//!
//! For the weight $W$ `[out, in]`, the codes' weight $\hat W$, and the inputs $X$ that a statistics file was taken over, with
//! $C = X X^\top$ (`gram`, [`stats`](polmrs_io::stats)):
//! $$ \lVert (\hat W - W) X \rVert^2 = \operatorname{tr}\left((\hat W - W)\, C\, (\hat W - W)^\top\right). $$
//! Its root over that of $\lVert W X \rVert^2$ is the error that GPTQ minimises (arXiv:2210.17323, eq. 1), row by row. `C`
//! is read anew for every block of rows, a panel at a time, so that a layer takes two megabytes for each thread however many
//! inputs it has. A file that has the squares of inputs alone (`sumsq`) stands for a diagonal `C`.

use polmrs_core::{Error, Result, simd};
use polmrs_io::stats::{Kind, Stats};
use std::sync::Arc;

/// Elements of a panel of `C`.
const PANEL: usize = 1 << 18;

/// The second moments of one weight's inputs.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    stats: Arc<Stats>,
    tensor: usize,
    columns: usize,
    diagonal: bool,
}

impl Moments {
    /// Those of the weight with this name, where the file has them.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if they are of another number of inputs.
    pub(crate) fn find(stats: &Arc<Stats>, weight: &str, columns: usize) -> Result<Option<Moments>> {
        let gram = stats.find(weight, Kind::Gram);
        let Some(tensor) = gram.or_else(|| stats.find(weight, Kind::Sumsq)) else { return Ok(None) };
        match stats.inputs(weight) {
            Some(inputs) if inputs != columns as u64 => Err(Error::Checkpoint(format!(
                "statistics of '{weight}' are of {inputs} inputs, and the weight has {columns}"
            ))),
            _ => Ok(Some(Moments { stats: Arc::clone(stats), tensor, columns, diagonal: gram.is_none() })),
        }
    }

    /// `tr(D C Dᵀ)` of each of these matrices, whole rows of as many columns as there are inputs.
    pub(crate) fn weigh<const N: usize>(&self, matrices: [&[f32]; N]) -> Result<[f64; N]> {
        let columns = self.columns;
        if self.diagonal {
            let squares = self.rows(0, 1)?;
            return Ok(matrices.map(|rows| rows.chunks_exact(columns).map(|row| scaled(row, &squares)).sum()));
        }
        let mut sums = [0.0; N];
        let at_once = (PANEL / columns.max(1)).max(1);
        for first in (0..columns).step_by(at_once) {
            let panel = self.rows(first, at_once.min(columns - first))?;
            for (sum, rows) in sums.iter_mut().zip(matrices) {
                *sum += quadratic(&panel, first, rows, columns);
            }
        }
        Ok(sums)
    }

    /// Rows of `C`; of a diagonal, the one that there is.
    fn rows(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * count * self.columns];
        self.stats.checkpoint().read(self.tensor, 4 * (first * self.columns) as u64, &mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
}

fn scaled(row: &[f32], squares: &[f32]) -> f64 {
    row.iter().zip(squares).map(|(x, square)| f64::from(*x) * f64::from(*x) * f64::from(*square)).sum()
}

simd! {
    /// What the rows `first ..` of `C` add to the trace. `C` is symmetric: of row `j`, what lies left of the diagonal counts
    /// twice, and what lies right of it not at all.
    fn quadratic(panel: &[f32], first: usize, rows: &[f32], columns: usize) -> f64 {
        let mut fours = rows.chunks_exact(4 * columns);
        let mut sum = 0.0;
        for four in fours.by_ref() {
            let rows: [&[f32]; 4] = std::array::from_fn(|at| &four[at * columns..(at + 1) * columns]);
            sum += of_rows(panel, first, rows);
        }
        for row in fours.remainder().chunks_exact(columns) {
            sum += of_rows(panel, first, [row]);
        }
        sum
    }
}

/// The same of `N` rows side by side, so that each element of `C` is loaded once for all.
#[inline(always)]
fn of_rows<const N: usize>(panel: &[f32], first: usize, rows: [&[f32]; N]) -> f64 {
    let mut sum = 0.0;
    for (at, moments) in panel.chunks_exact(rows[0].len()).enumerate() {
        let place = first + at;
        let dots = dots(&moments[..place], rows.map(|row| &row[..place]));
        for (dot, row) in dots.iter().zip(rows) {
            let twice = 2.0 * dot + moments[place] * row[place];
            sum += f64::from(row[place]) * f64::from(twice);
        }
    }
    sum
}

/// Dot products in sixteen lanes each.
#[inline(always)]
fn dots<const N: usize>(x: &[f32], rows: [&[f32]; N]) -> [f32; N] {
    const LANES: usize = 16;
    let mut lanes = [[0.0_f32; LANES]; N];
    let (pieces, rest) = x.as_chunks::<LANES>();
    let whole = rows.map(|row| row.as_chunks::<LANES>().0);
    for (at, x) in pieces.iter().enumerate() {
        for (lanes, row) in lanes.iter_mut().zip(whole) {
            for ((lane, x), y) in lanes.iter_mut().zip(x).zip(&row[at]) {
                *lane += x * y;
            }
        }
    }
    let done = pieces.len() * LANES;
    for (lanes, row) in lanes.iter_mut().zip(rows) {
        for ((lane, x), y) in lanes.iter_mut().zip(rest).zip(&row[done..]) {
            *lane += x * y;
        }
    }
    lanes.map(|lanes| lanes.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_of_half_a_matrix_are_the_trace_of_the_whole() {
        let (rows, columns) = (7, 45);
        let value = |seed: usize| ((seed * 7919 + 13) % 1013) as f32 / 500.0 - 1.0;
        let d: Vec<f32> = (0..rows * columns).map(value).collect();
        let c: Vec<f32> = (0..columns * columns)
            .map(|at| value((at % columns) * (at / columns) + at % columns + at / columns))
            .collect();
        let mut plain = 0.0;
        for row in d.chunks_exact(columns) {
            for (i, x) in row.iter().enumerate() {
                for (j, y) in row.iter().enumerate() {
                    plain += f64::from(*x) * f64::from(c[i * columns + j]) * f64::from(*y);
                }
            }
        }
        for at_once in [1, 16, 45] {
            let panels = c.chunks(at_once * columns).enumerate();
            let sum: f64 = panels.map(|(at, panel)| quadratic(panel, at * at_once, &d, columns)).sum();
            assert!((sum - plain).abs() < 1e-4 * plain.abs(), "{sum} {plain}");
        }
    }
}
