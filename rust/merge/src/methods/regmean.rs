//! RegMean: the linear layer that comes nearest to every model's outputs on its own data (arXiv:2212.09849).
//!
//! ```text
//! G_i = alpha X_iᵀX_i + (1 - alpha) diag(X_iᵀX_i)                X_i: the inputs of model i's layer
//! W   = (sum_i w_i W_i G_i) (sum_i w_i G_i)⁻¹                    W_i: [out, in]
//! ```
//! `X_iᵀX_i` is the tensor `W::gram` of the model's statistics file, a sum over its tokens. Tensors that no file has are
//! averaged by the weights, as in the paper. The `alpha` of the authors' code is 1 by default, 0.1 in most experiments on
//! DeBERTa, RoBERTa and T5, and 0.9 in one and in its notebook, which is ours. We add `ridge` times the mean of all diagonals
//! to every diagonal, so that inputs that never occurred get the average rather than a division by zero. Solved by Cholesky
//! decomposition in f64, a whole layer at a time.

use super::fisher::average_weight;
use crate::least_squares::{Gram, solve};
use crate::params::Params;
use crate::spec::{Base, Method, Param, Range, Spec, Tensor};
use polmrs_core::Result;
use polmrs_engine::{Grain, Stage};
use polmrs_io::stats::Kind;

pub(super) struct RegMean;

static SPEC: Spec = Spec {
    name: "regmean",
    class: "RegMean",
    id: "merge.regmean",
    in_ledger: false,
    paper: "arXiv:2212.09849",
    doc: "Linear layers whose outputs come nearest to those of every model on its own data, by least squares.",
    formula: r"W = \left(\sum_i w_i W_i G_i\right)\left(\sum_i w_i G_i\right)^{-1},\quad G_i = \alpha X_i^\top X_i + (1 - \alpha)\,\mathrm{diag}(X_i^\top X_i)",
    base: Base::Ignored,
    models: (1, usize::MAX),
    params: &[
        Param::STATISTICS,
        Param::each("weight", 1.0, "Factor on the model's data."),
        Param::number("alpha", 0.9, Range::Unit, "Factor on what lies off the diagonal of the products of inputs."),
        Param::number("ridge", 1e-6, Range::Unit, "What is added to the diagonal, in shares of its mean."),
    ],
    preset: None,
};

impl Method for RegMean {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn statistic(&self) -> Option<Kind> {
        Some(Kind::Gram)
    }

    fn stages(&self, tensor: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let weights = params.each("weight");
        let total = average_weight("regmean", &weights)?;
        if !tensor.measured {
            return Ok(vec![Stage::map(move |block, out| {
                for (at, out) in out.iter_mut().enumerate() {
                    let x = |(model, weight): (usize, &f64)| weight * f64::from(block.input(model)[at]);
                    *out = (weights.iter().enumerate().map(x).sum::<f64>() / total) as f32;
                }
                Ok(())
            })]);
        }
        let (alpha, ridge, columns) = (params.number("alpha"), params.number("ridge"), tensor.columns as usize);
        Ok(vec![Stage::map_at(Grain::Whole, move |block, out| {
            let (models, grams) = block.inputs.split_at(weights.len());
            let diagonals: f64 = grams.iter().map(|gram| mean_diagonal(gram, columns)).sum();
            let ridge = ridge * diagonals / grams.len() as f64;
            let weighted = grams.iter().zip(&weights);
            let grams: Vec<Gram<'_>> =
                weighted.map(|(products, weight)| Gram::new(products, columns, alpha, ridge, *weight)).collect();
            let models: Vec<&[f32]> = models.iter().map(Vec::as_slice).collect();
            solve(&models, &grams, columns, out)
        })])
    }
}

fn mean_diagonal(products: &[f32], n: usize) -> f64 {
    products.iter().step_by(n + 1).map(|x| f64::from(*x)).sum::<f64>() / n.max(1) as f64
}
