//! Karcher mean: the point of the sphere with the least sum of squared angles to all models (arXiv:2603.04972).
//!
//! ```text
//! m = mean of the unit vectors, normalised; then, at most max_iter times:
//!   a_i = acos <m, u_i>;   t = 1/n sum_i a_i / sin(a_i) (u_i - <m, u_i> m);   stop where |t| < tol
//!   m   = cos|t| m + sin|t| t / |t|, normalised
//! out = m * mean of the lengths
//! ```
//! Vectors no longer than `tol` have no direction and are left out of m, not of the mean length.

use super::span::{Extent, Gram, Span, Vectors};
use crate::params::Params;
use crate::spec::{Base, Param, Range, Spec};
use polmrs_core::Result;

pub(super) static KARCHER: Span = Span {
    spec: Spec {
        name: "karcher",
        class: "Karcher",
        id: "merge.karcher",
        in_ledger: false,
        paper: "arXiv:2603.04972",
        doc: "The Riemannian centre of mass of models on a sphere, times their mean length.",
        formula: r"\theta = \bar\ell\,\arg\min_m \textstyle\sum_i \arccos^2\langle m, u_i\rangle",
        base: Base::Ignored,
        models: (1, usize::MAX),
        params: &[
            Param::number("max_iter", 10.0, Range::Count, "The most iterations."),
            Param::number("tol", 1e-5, Range::Finite, "The length at which a step counts as none."),
        ],
        preset: None,
    },
    vectors: Vectors::Inputs,
    extent: |_| Extent::Tensor,
    coefficients,
};

fn coefficients(gram: &Gram, params: &Params) -> Result<Vec<f64>> {
    let n = gram.len();
    if n == 1 {
        return Ok(vec![1.0]);
    }
    let tol = params.number("tol");
    let has_direction: Vec<bool> = (0..n).map(|i| gram.norm(i) > tol).collect();
    let count = has_direction.iter().filter(|has| **has).count();
    if count == 0 {
        return Ok(vec![0.0; n]);
    }
    let share = |i: usize| if has_direction[i] { 1.0 / count as f64 } else { 0.0 };
    let unit = gram.scaled(|i| if has_direction[i] { 1.0 / gram.norm(i) } else { 0.0 });
    let mut mean: Vec<f64> = (0..n).map(share).collect();
    let length = unit.length(&mean);
    if length < tol {
        let first = has_direction.iter().position(|has| *has);
        mean = (0..n).map(|i| f64::from(u8::from(Some(i) == first))).collect();
    } else {
        mean.iter_mut().for_each(|m| *m /= length);
    }
    for _ in 0..params.number("max_iter") as u64 {
        let mut tangent = vec![0.0; n];
        for i in (0..n).filter(|i| has_direction[*i]) {
            let cosine = unit.with(&mean, i).clamp(-1.0, 1.0);
            let angle = cosine.acos();
            if angle >= tol {
                let factor = share(i) * angle / angle.sin();
                tangent[i] += factor;
                (0..n).for_each(|j| tangent[j] -= factor * cosine * mean[j]);
            }
        }
        let step = unit.length(&tangent);
        if step < tol {
            break;
        }
        (0..n).for_each(|i| mean[i] = step.cos() * mean[i] + step.sin() / step * tangent[i]);
        let length = unit.length(&mean);
        if length > tol {
            mean.iter_mut().for_each(|m| *m /= length);
        }
    }
    let radius = (0..n).map(|i| gram.norm(i)).sum::<f64>() / n as f64;
    Ok((0..n).map(|i| if has_direction[i] { radius * mean[i] / gram.norm(i) } else { 0.0 }).collect())
}
