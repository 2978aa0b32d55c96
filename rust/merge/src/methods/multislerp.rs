//! Multi-SLERP: barycentric interpolation on the sphere, for any number of models.
//!
//! ```text
//! u_i = v_i / (|v_i| + eps);   m = sum_i w_i u_i, then m / |m|           the mean direction
//! t   = sum_i w_i (u_i - <u_i, m> m);   r = |t| + eps                    the mean in the tangent space at m
//! out = (m cos r + t sin(r) / r) sum_i w_i |v_i|
//! ```
//! Weights are divided by their sum unless `normalize_weights` is off. Where two directions cancel, the result is
//! `w_0 v_0 + w_1 v_1`; where more do, it is an error. One model is the result.

use super::span::{Extent, Gram, Span, Vectors};
use crate::params::Params;
use crate::spec::{Base, Param, Range, Spec};
use polmrs_core::{Error, Result};

pub(super) static MULTISLERP: Span = Span {
    spec: Spec {
        name: "multislerp",
        class: "MultiSLERP",
        id: "merge.multislerp",
        in_ledger: false,
        paper: "-",
        doc: "Barycentric interpolation of models, or of their task vectors, on a sphere.",
        formula: r"\theta = \left(m\cos r + \tfrac{\sin r}{r}\,t\right)\textstyle\sum_i w_i|v_i|,\quad t = \sum_i w_i(u_i - \langle u_i, m\rangle m)",
        base: Base::Optional,
        models: (1, usize::MAX),
        params: &[
            Param::weight("Weight of the model."),
            Param::flag("normalize_weights", true, "Divide the weights by their sum."),
            Param::number("eps", 1e-8, Range::Finite, "What keeps divisions by a length from failing."),
        ],
        preset: None,
    },
    vectors: Vectors::TaskVectors,
    extent: |_| Extent::Tensor,
    coefficients,
};

fn coefficients(gram: &Gram, params: &Params) -> Result<Vec<f64>> {
    let n = gram.len();
    if n == 1 {
        return Ok(vec![1.0]);
    }
    let eps = params.number("eps");
    let mut weights = params.each("weight");
    if params.flag("normalize_weights") {
        let total: f64 = weights.iter().sum();
        if total == 0.0 {
            return Err(Error::Config(format!("multislerp.weight: {weights:?} sums to 0, so it cannot be normalized")));
        }
        weights.iter_mut().for_each(|weight| *weight /= total);
    }
    let unit = gram.scaled(|i| 1.0 / (gram.norm(i) + eps));
    let length = unit.length(&weights);
    if length < eps {
        if n == 2 {
            return Ok(weights);
        }
        let rule = "the directions cancel, so they have no mean; take other weights";
        return Err(Error::Config(format!("multislerp.weight: {weights:?}: {rule}")));
    }
    let mean: Vec<f64> = weights.iter().map(|weight| weight / length).collect();
    let along: f64 = (0..n).map(|i| weights[i] * unit.with(&mean, i)).sum();
    let tangent: Vec<f64> = (0..n).map(|i| weights[i] - along * mean[i]).collect();
    let angle = unit.length(&tangent) + eps;
    let radius: f64 = (0..n).map(|i| weights[i] * gram.norm(i)).sum();
    let coefficient = |i: usize| {
        let on_sphere = mean[i] * angle.cos() + tangent[i] * angle.sin() / angle;
        on_sphere * radius / (gram.norm(i) + eps)
    };
    Ok((0..n).map(coefficient).collect())
}
