//! Singular values by one-sided Jacobi rotations (Hestenes 1958): columns are turned in pairs until all are orthogonal.
//!
//! ```text
//! G V = U Sigma:  the columns of G V are orthogonal, and their lengths are the singular values of G
//! ```
//! Pairs are taken in a fixed order, so the bits depend on nothing else. Small singular values come out with as good a
//! relative accuracy as large ones.

use super::panel::{Panel, dot};
use polmrs_core::simd;

/// Two columns are orthogonal if their cosine is smaller.
const ORTHOGONAL: f64 = 1e-14;
/// A column whose squared length is a smaller share of all is rounding.
const ROUNDING: f64 = 1e-30;
/// Convergence is quadratic: ten rounds are many.
const ROUNDS: usize = 60;

/// A square matrix, decomposed; columns in no order.
pub(super) struct Decomposed {
    /// `U Sigma`
    pub(super) scaled: Panel,
    /// `V`
    pub(super) turned: Panel,
    /// The squares of the singular values.
    pub(super) squares: Vec<f64>,
}

pub(super) fn decompose(mut matrix: Panel) -> Decomposed {
    let n = matrix.count();
    let mut turned = Panel::identity(n);
    let whole: f64 = matrix.columns().map(|column| dot(column, column)).sum();
    for _ in 0..ROUNDS {
        let mut rotated = false;
        for first in 0..n {
            for second in first + 1..n {
                let (x, y) = matrix.pair_mut(first, second);
                let (xx, xy, yy) = (dot(x, x), dot(x, y), dot(y, y));
                if xx.min(yy) <= ROUNDING * whole || xy.abs() <= ORTHOGONAL * (xx * yy).sqrt() {
                    continue;
                }
                rotated = true;
                let zeta = (yy - xx) / (2.0 * xy);
                let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                rotate(x, y, cosine, cosine * tangent);
                let (x, y) = turned.pair_mut(first, second);
                rotate(x, y, cosine, cosine * tangent);
            }
        }
        if !rotated {
            break;
        }
    }
    let squares = matrix.columns().map(|column| dot(column, column)).collect();
    Decomposed { scaled: matrix, turned, squares }
}

simd! {
    fn rotate(x: &mut [f64], y: &mut [f64], cosine: f64, sine: f64) {
        for (x, y) in x.iter_mut().zip(y) {
            (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
        }
    }
}
