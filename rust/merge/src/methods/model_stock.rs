//! Model Stock: between the base and the average of fine-tunes, by the angle between them (arXiv:2403.19522).
//!
//! ```text
//! cos = mean over pairs of <d_i, d_j> / max(|d_i| |d_j|, 1e-6);   t = n cos / (1 + (n-1) cos)
//! out = base + t mean_i d_i
//! ```
//! Where the denominator vanishes (below 1e-6), t is 0. `filter_wise` does this for every row by itself.

use super::span::{Extent, Gram, Span, Vectors};
use crate::params::Params;
use crate::spec::{Base, Param, Spec};
use polmrs_core::Result;

pub(super) static MODEL_STOCK: Span = Span {
    spec: Spec {
        name: "model_stock",
        class: "ModelStock",
        id: "merge.model-stock",
        in_ledger: false,
        paper: "arXiv:2403.19522",
        doc: "The average of fine-tunes, pulled towards the base as far as they disagree.",
        formula: r"\theta = t\,\bar\theta + (1-t)\,\theta_0,\quad t = \frac{n\cos\phi}{1 + (n-1)\cos\phi}",
        base: Base::Required,
        models: (2, usize::MAX),
        params: &[Param::flag("filter_wise", false, "One angle for every row instead of one for the tensor.")],
        preset: None,
    },
    vectors: Vectors::TaskVectors,
    extent: |params| if params.flag("filter_wise") { Extent::Row } else { Extent::Tensor },
    coefficients,
};

fn coefficients(gram: &Gram, _: &Params) -> Result<Vec<f64>> {
    let n = gram.len();
    let mut total = 0.0;
    for j in 0..n {
        for i in 0..j {
            total += (gram.dot(i, j) / (gram.norm(i) * gram.norm(j)).max(1e-6)).clamp(-1.0, 1.0);
        }
    }
    let cosine = total / (n * (n - 1) / 2) as f64;
    let denominator = 1.0 + (n - 1) as f64 * cosine;
    let t = if denominator.abs() < 1e-6 { 0.0 } else { n as f64 * cosine / denominator };
    Ok(vec![t / n as f64; n])
}
