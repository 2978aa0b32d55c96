//! Linear: the weighted average of models (a model soup, arXiv:2203.05482, with given weights).
//!
//! ```text
//! out = sum_i w_i x_i / (sum_i w_i if normalize else 1)
//! ```
//! Computed in f32 in the order of the models and rounded once. Weights that sum to zero are an error under
//! `normalize`; mergekit writes infinities.

use crate::params::Params;
use crate::spec::{Base, Method, Param, Spec, Tensor};
use polmrs_core::{Error, Result, simd};
use polmrs_engine::Stage;

pub(super) struct Linear;

static SPEC: Spec = Spec {
    name: "linear",
    class: "Linear",
    id: "merge.soup",
    in_ledger: true,
    paper: "arXiv:2203.05482",
    doc: "Weighted average of models.",
    formula: r"\theta = \sum_i w_i \theta_i / \sum_i w_i",
    base: Base::Ignored,
    models: (1, usize::MAX),
    params: &[
        Param::weight("Weight of the model."),
        Param::flag("normalize", true, "Divide by the sum of the weights."),
    ],
    preset: None,
};

impl Method for Linear {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn is_linear(&self) -> bool {
        true
    }

    fn stages(&self, _: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let weights: Vec<f32> = params.each("weight").iter().map(|weight| *weight as f32).collect();
        let mut divisor = 1.0;
        if params.flag("normalize") {
            divisor = weights.iter().sum();
            if divisor == 0.0 {
                return Err(Error::Config(format!("linear.weight: {weights:?} sums to 0, so it cannot be normalized")));
            }
        }
        Ok(vec![Stage::map(move |block, out| {
            out.fill(0.0);
            for (x, weight) in block.inputs.iter().zip(&weights) {
                add_scaled(out, x, *weight);
            }
            if divisor != 1.0 {
                divide(out, divisor);
            }
            Ok(())
        })])
    }
}

simd! {
    fn add_scaled(out: &mut [f32], x: &[f32], weight: f32) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x * weight;
        }
    }
}

simd! {
    fn divide(out: &mut [f32], divisor: f32) {
        for out in out {
            *out /= divisor;
        }
    }
}
