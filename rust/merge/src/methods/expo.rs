//! ExPO: beyond the aligned model, along the way that alignment took (arXiv:2404.16792).
//!
//! ```text
//! out = x + alpha (x - base)                      base after supervised fine-tuning, x aligned from it
//! ```

use crate::params::Params;
use crate::spec::{Base, Default, Method, Param, Range, Scope, Spec, Tensor};
use polmrs_core::{Result, simd};
use polmrs_engine::Stage;

pub(super) struct ExPO;

static SPEC: Spec = Spec {
    name: "expo",
    class: "ExPO",
    id: "refine.expo",
    in_ledger: true,
    paper: "arXiv:2404.16792",
    doc: "Extrapolation from the base (after supervised fine-tuning) through the aligned model and beyond.",
    formula: r"\theta = \theta_1 + \alpha(\theta_1 - \theta_0)",
    base: Base::Required,
    models: (1, 1),
    params: &[Param {
        name: "alpha",
        scope: Scope::Shared,
        default: Default::Required(None),
        range: Range::Finite,
        doc: "How far beyond the aligned model, in lengths of its task vector.",
    }],
    preset: None,
};

impl Method for ExPO {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn is_linear(&self) -> bool {
        true
    }

    fn stages(&self, _: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let alpha = params.number("alpha") as f32;
        Ok(vec![Stage::map(move |block, out| {
            extrapolate(out, block.input(1), block.input(0), alpha);
            Ok(())
        })])
    }
}

simd! {
    fn extrapolate(out: &mut [f32], x: &[f32], base: &[f32], alpha: f32) {
        for ((out, x), base) in out.iter_mut().zip(x).zip(base) {
            *out = x + alpha * (x - base);
        }
    }
}
