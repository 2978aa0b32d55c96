//! The matrix that comes nearest to several others, each in a metric of its own: `W = (sum_i W_i G_i)(sum_i G_i)⁻¹`.
//!
//! `sum_i G_i = L Lᵀ` by Cholesky decomposition in f64; then every row of W by two substitutions, [`ROWS`] of them at a
//! time, so that L is read once for all of these. Workspace: one f64 matrix of the size of a Gram matrix. Everything runs
//! along rows of L, in sums of sixteen lanes, so the bits do not depend on the instruction set.

use polmrs_core::reduce::in_lanes;
use polmrs_core::{Error, Result, simd};

/// Rows solved together.
const ROWS: usize = 16;

/// A symmetric matrix of products of inputs, shrunk towards its diagonal: `weight (alpha P + diag)`.
pub(crate) struct Gram<'a> {
    products: &'a [f32],
    weight: f64,
    alpha: f64,
    /// What the diagonal has beside `alpha P`.
    diagonal: Vec<f64>,
}

impl Gram<'_> {
    /// `ridge` is what every element of the diagonal gets on top.
    pub(crate) fn new(products: &[f32], n: usize, alpha: f64, ridge: f64, weight: f64) -> Gram<'_> {
        let diagonal = (0..n).map(|at| (1.0 - alpha) * f64::from(products[at * n + at]) + ridge).collect();
        Gram { products, weight, alpha, diagonal }
    }

    /// sum += weight (alpha P + diag), of row `at`
    fn add_row(&self, at: usize, sum: &mut [f64]) {
        let n = sum.len();
        add_scaled(sum, &self.products[at * n..(at + 1) * n], self.weight * self.alpha);
        sum[at] += self.weight * self.diagonal[at];
    }
}

/// Fills `out`, row by row of `n` columns, with the nearest matrix to `models` in the metrics `grams`.
///
/// # Errors
/// [`Error::Config`] if the sum of the Gram matrices is not positive definite.
pub(crate) fn solve(models: &[&[f32]], grams: &[Gram<'_>], n: usize, out: &mut [f32]) -> Result<()> {
    let mut factor = vec![0.0; n * n];
    for (at, row) in factor.chunks_mut(n).enumerate() {
        grams.iter().for_each(|gram| gram.add_row(at, row));
    }
    cholesky(&mut factor, n)?;
    let mut right = vec![0.0; ROWS * n];
    for (group, out) in out.chunks_mut(ROWS * n).enumerate() {
        let right = &mut right[..out.len()];
        right.fill(0.0);
        let at = group * ROWS * n;
        for (model, gram) in models.iter().zip(grams) {
            multiply(&model[at..at + out.len()], gram, n, right);
        }
        substitute(&factor, n, right);
        for (out, x) in out.iter_mut().zip(right) {
            *out = *x as f32;
        }
    }
    Ok(())
}

/// rows of `right` += rows of `model` times the Gram matrix
fn multiply(model: &[f32], gram: &Gram<'_>, n: usize, right: &mut [f64]) {
    for (at, products) in gram.products.chunks(n).enumerate() {
        for (right, model) in right.chunks_mut(n).zip(model.chunks(n)) {
            let x = f64::from(model[at]) * gram.weight;
            add_scaled(right, products, x * gram.alpha);
            right[at] += x * gram.diagonal[at];
        }
    }
}

/// The lower triangle of a symmetric matrix becomes its Cholesky factor; the upper one is left as it is.
fn cholesky(matrix: &mut [f64], n: usize) -> Result<()> {
    for row in 0..n {
        let (above, below) = matrix.split_at_mut(row * n);
        let current = &mut below[..n];
        for column in 0..row {
            let earlier = &above[column * n..(column + 1) * n];
            let rest = current[column] - dot(&current[..column], &earlier[..column]);
            current[column] = rest / earlier[column];
        }
        let square = current[row] - dot(&current[..row], &current[..row]);
        if square.is_nan() || square <= 0.0 {
            return Err(Error::Config(format!(
                "regmean.ridge: the products of inputs are not positive definite at input {row}; take a larger one"
            )));
        }
        current[row] = square.sqrt();
    }
    Ok(())
}

/// Solves `x L Lᵀ = b` for every row of `right`, in place.
fn substitute(factor: &[f64], n: usize, right: &mut [f64]) {
    for (at, lower) in factor.chunks(n).enumerate() {
        for x in right.chunks_mut(n) {
            x[at] = (x[at] - dot(&x[..at], &lower[..at])) / lower[at];
        }
    }
    for (at, lower) in factor.chunks(n).enumerate().rev() {
        for x in right.chunks_mut(n) {
            x[at] /= lower[at];
            let solved = x[at];
            subtract_scaled(&mut x[..at], &lower[..at], solved);
        }
    }
}

simd! {
    fn dot(x: &[f64], y: &[f64]) -> f64 {
        let n = x.len().min(y.len());
        let (x, y) = (&x[..n], &y[..n]);
        in_lanes(n, |i| x[i] * y[i])
    }
}

simd! {
    fn add_scaled(sum: &mut [f64], x: &[f32], factor: f64) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += f64::from(*x) * factor;
        }
    }
}

simd! {
    fn subtract_scaled(x: &mut [f64], y: &[f64], factor: f64) {
        for (x, y) in x.iter_mut().zip(y) {
            *x -= y * factor;
        }
    }
}
