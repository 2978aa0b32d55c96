//! The matrix of a low rank that is nearest to another (Eckart and Young 1936), as two factors.
//!
//! ```text
//! M = sum_j sigma_j u_j v_jᵀ,  sigma descending;   left = [u_j sqrt(sigma_j)], right = [sqrt(sigma_j) v_j],  j < rank
//! ```
//! Of a product of factors, `L Rᵀ`, by the QR decompositions of both and the singular values of the small core between: the
//! product itself is never made. Of a dense matrix, by a block Krylov space (Musco and Musco, arXiv:1504.05477): with X of
//! `rank + 8` random columns, the span of `M X, (M Mᵀ) M X, ...` up to the third power, in which the nearest matrix is
//! taken exactly. Where that would span everything, the whole matrix is taken, so small ones are exact. The distance from M
//! is then at most 1.01 times the least possible in all that was tried, matrices of noise included, and equals it to rounding
//! where M has no more than four times `rank + 8` directions. Everything is in f64 on one thread, in an order that the shapes alone decide.

mod jacobi;
mod panel;

pub(crate) use panel::Panel;
use polmrs_core::philox::{Key, fill};

/// Columns beside the rank in each block of the Krylov space, and the number of blocks.
const BESIDE: usize = 8;
const BLOCKS: usize = 4;

/// Two factors, and what they leave out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LowRank {
    /// Rows x rank.
    pub(crate) left: Vec<f32>,
    /// Rank x columns.
    pub(crate) right: Vec<f32>,
    /// The share of the squared norm that they leave out, 0 to 1.
    pub(crate) lost: f64,
}

/// The nearest matrix of a rank to a dense one of `columns` columns.
pub(crate) fn nearest(matrix: &[f32], columns: usize, rank: usize, key: Key) -> LowRank {
    let rows = matrix.len() / columns.max(1);
    let (width, least) = (rank + BESIDE, rows.min(columns));
    let whole: f64 = matrix.chunks(columns.max(1)).map(|row| polmrs_core::reduce::dot(row, row)).sum();
    let (left, right) = if BLOCKS * width >= least {
        let unit = Panel::identity(least);
        let other = Panel::of(matrix, rows, columns, rows <= columns);
        if rows <= columns { (unit, other) } else { (other, unit) }
    } else {
        krylov(matrix, columns, width, key)
    };
    of_product(left, right, rank, Some(whole))
}

/// The workspace of [`nearest`] in bytes, beside the matrix.
pub(crate) fn workspace(rows: u64, columns: u64, rank: u64) -> u64 {
    let width = rank + BESIDE as u64;
    let span = (BLOCKS as u64 * width).min(rows.min(columns));
    8 * (2 * span + 2 * width + rank) * (rows + columns) + 32 * span * span
}

/// The workspace of [`of_product`] for factors of `inner` columns, without those.
pub(crate) fn workspace_of_product(rows: u64, columns: u64, inner: u64, rank: u64) -> u64 {
    8 * (2 * inner + rank) * (rows + columns) + 32 * inner * inner
}

/// An orthonormal basis Q of a Krylov space of the rows, and `Mᵀ Q`.
fn krylov(matrix: &[f32], columns: usize, width: usize, key: Key) -> (Panel, Panel) {
    let rows = matrix.len() / columns;
    let (mut basis, mut image) = (Panel::empty(rows), Panel::empty(columns));
    let mut block = random(columns, width, key);
    for _ in 0..BLOCKS {
        let from = basis.count();
        for column in panel::times(matrix, columns, &block).columns() {
            basis.push_independent(column.to_vec());
        }
        block = panel::transposed_times(matrix, columns, &basis, from);
        image.extend(&block);
    }
    (basis, image)
}

/// Columns of numbers between -1 and 1.
fn random(rows: usize, count: usize, key: Key) -> Panel {
    let mut words = vec![0; rows * count];
    fill(key, 0, &mut words);
    Panel::new(rows, words.into_iter().map(|word| f64::from(word as i32) / 2_147_483_648.0).collect())
}

/// The nearest matrix of a rank to `left rightᵀ`, both with the same number of columns. `whole` is the squared norm of what
/// the product stands for, where it is not the product's own.
pub(crate) fn of_product(mut left: Panel, mut right: Panel, rank: usize, whole: Option<f64>) -> LowRank {
    let (rows, columns, inner) = (left.rows(), right.rows(), left.count());
    let (upper_left, upper_right) = (left.orthonormalize(), right.orthonormalize());
    // core = upper_left upper_rightᵀ, by columns: both are upper triangles.
    let mut core = Panel::new(inner, vec![0.0; inner * inner]);
    for (left, right) in upper_left.iter().zip(&upper_right) {
        for (column, factor) in right.iter().enumerate() {
            core.column_mut(column).iter_mut().zip(left).for_each(|(sum, x)| *sum += x * factor);
        }
    }
    let jacobi::Decomposed { scaled, turned, squares } = jacobi::decompose(core);
    let mut order: Vec<usize> = (0..inner).collect();
    order.sort_by(|a, b| squares[*b].total_cmp(&squares[*a]).then(a.cmp(b)));
    order.truncate(rank);
    let mut found = LowRank { left: vec![0.0; rows * rank], right: vec![0.0; rank * columns], lost: 0.0 };
    let mut kept = 0.0;
    for (at, column) in order.into_iter().enumerate() {
        let root = squares[column].sqrt().sqrt();
        if root <= 0.0 {
            continue;
        }
        kept += squares[column];
        let one = left.combine(scaled.column(column));
        for (row, value) in one.iter().enumerate() {
            found.left[row * rank + at] = (value / root) as f32;
        }
        let other = right.combine(turned.column(column));
        for (to, value) in found.right[at * columns..(at + 1) * columns].iter_mut().zip(&other) {
            *to = (value * root) as f32;
        }
    }
    let whole = whole.unwrap_or_else(|| squares.iter().sum());
    found.lost = if whole > 0.0 { (1.0 - kept / whole).clamp(0.0, 1.0) } else { 0.0 };
    found
}

#[cfg(test)]
mod tests;
