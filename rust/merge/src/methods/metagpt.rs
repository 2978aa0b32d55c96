//! MetaGPT: task arithmetic whose factors follow from the lengths of the task vectors (arXiv:2406.11385).
//!
//! ```text
//! lambda_i = |tau_i|^2 / sum_k |tau_k|^2          over the whole model
//! out      = base + sum_i lambda_i tau_i
//! ```
//! Models that all equal the base give the base.

use super::span::{Extent, Gram, Span, Vectors};
use crate::params::Params;
use crate::spec::{Base, Spec};
use polmrs_core::Result;

pub(super) static METAGPT: Span = Span {
    spec: Spec {
        name: "metagpt",
        class: "MetaGPT",
        id: "merge.metagpt",
        in_ledger: true,
        paper: "arXiv:2406.11385",
        doc: "Sum of task vectors, each with its share of their squared lengths, over the whole model.",
        formula: r"\theta = \theta_0 + \sum_i \lambda_i\tau_i,\quad \lambda_i = \frac{\lVert\tau_i\rVert^2}{\sum_k\lVert\tau_k\rVert^2}",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[],
        preset: None,
    },
    vectors: Vectors::TaskVectors,
    extent: |_| Extent::Model,
    coefficients,
};

fn coefficients(gram: &Gram, _: &Params) -> Result<Vec<f64>> {
    let total: f64 = (0..gram.len()).map(|i| gram.dot(i, i)).sum();
    let share = |i: usize| if total > 0.0 { gram.dot(i, i) / total } else { 0.0 };
    Ok((0..gram.len()).map(share).collect())
}
