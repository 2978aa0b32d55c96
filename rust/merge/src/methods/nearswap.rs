//! NearSwap: takes over from the other model where the two are near (Nearswap by alchemonaut).
//!
//! ```text
//! w   = clamp(t / max(|a - b|, 1e-6), 0, 1)
//! out = w b + (1 - w) a                           a the base, b the other
//! ```

use crate::params::Params;
use crate::spec::{Base, Default, Method, Param, Range, Scope, Spec, Tensor};
use polmrs_core::{Result, simd};
use polmrs_engine::Stage;

pub(super) struct NearSwap;

static SPEC: Spec = Spec {
    name: "nearswap",
    class: "NearSwap",
    id: "merge.nearswap",
    in_ledger: false,
    paper: "-",
    doc: "The other model where it is within t of the base, less of it where it is farther away.",
    formula: r"\theta = w\,\theta_1 + (1-w)\,\theta_0,\quad w = \min(1, t/|\theta_0 - \theta_1|)",
    base: Base::Required,
    models: (1, 1),
    params: &[Param {
        name: "t",
        scope: Scope::Shared,
        default: Default::Required(None),
        range: Range::Finite,
        doc: "The distance up to which the other model is taken whole.",
    }],
    preset: None,
};

impl Method for NearSwap {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn stages(&self, _: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let t = params.number("t") as f32;
        Ok(vec![Stage::map(move |block, out| {
            swap(out, block.input(0), block.input(1), t);
            Ok(())
        })])
    }
}

simd! {
    fn swap(out: &mut [f32], a: &[f32], b: &[f32], t: f32) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            let w = (t / (a - b).abs().max(1e-6)).clamp(0.0, 1.0);
            *out = w * b + (1.0 - w) * a;
        }
    }
}
