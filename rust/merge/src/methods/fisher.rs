//! Fisher-weighted averaging: every parameter by how sure each model is of it (arXiv:2111.09832).
//!
//! ```text
//! out = sum_i w_i F_i x_i / sum_i w_i F_i         F_i: model i's diagonal Fisher information
//! ```
//! `F_i` is the tensor `W::fisher` of the model's statistics file. Where all F_i of an element are 0, and for tensors that
//! no file has, the result is the average by the weights alone. Computed in f64: Fisher information is often tiny.

use crate::params::Params;
use crate::spec::{Base, Method, Param, Spec, Tensor};
use polmrs_core::{Error, Result};
use polmrs_engine::Stage;
use polmrs_io::stats::Kind;

pub(super) struct Fisher;

static SPEC: Spec = Spec {
    name: "fisher",
    class: "Fisher",
    id: "merge.fisher",
    in_ledger: false,
    paper: "arXiv:2111.09832",
    doc: "Average of models, weighted by each parameter's diagonal Fisher information.",
    formula: r"\theta = \sum_i w_i F_i \theta_i / \sum_i w_i F_i",
    base: Base::Ignored,
    models: (1, usize::MAX),
    params: &[Param::STATISTICS, Param::each("weight", 1.0, "Factor on the model's Fisher information.")],
    preset: None,
};

impl Method for Fisher {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn statistic(&self) -> Option<Kind> {
        Some(Kind::Fisher)
    }

    fn stages(&self, tensor: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let weights = params.each("weight");
        let total = average_weight("fisher", &weights)?;
        let measured = tensor.measured;
        Ok(vec![Stage::map(move |block, out| {
            let (models, fishers) = block.inputs.split_at(weights.len());
            for (at, out) in out.iter_mut().enumerate() {
                let (mut sum, mut certainty, mut average) = (0.0, 0.0, 0.0);
                for (model, weight) in weights.iter().enumerate() {
                    let x = f64::from(models[model][at]);
                    average += weight * x;
                    if measured {
                        let share = weight * f64::from(fishers[model][at]);
                        sum += share * x;
                        certainty += share;
                    }
                }
                *out = if certainty == 0.0 { average / total } else { sum / certainty } as f32;
            }
            Ok(())
        })])
    }
}

/// The sum of the weights, by which an average is divided.
///
/// # Errors
/// [`Error::Config`] for a negative weight, or a sum of 0.
pub(super) fn average_weight(method: &str, weights: &[f64]) -> Result<f64> {
    let total: f64 = weights.iter().sum();
    if weights.iter().any(|weight| *weight < 0.0) || total == 0.0 {
        return Err(Error::Config(format!("{method}.weight: {weights:?} are not 0 or more, with a sum above 0")));
    }
    Ok(total)
}
