//! Passthrough: the tensors of one model as they are, or scaled.
//!
//! ```text
//! out = x            bytes are copied, whatever their type
//! out = scale x      where a scale is given
//! ```

use crate::params::Params;
use crate::spec::{Base, Default, Method, Param, Range, Scope, Spec, Tensor, Value};
use polmrs_core::Result;
use polmrs_engine::Stage;

pub(super) struct Passthrough;

static SPEC: Spec = Spec {
    name: "passthrough",
    class: "Passthrough",
    id: "merge.passthrough",
    in_ledger: false,
    paper: "-",
    doc: "Tensors of one model, copied or scaled.",
    formula: r"\theta = s\,\theta_1",
    base: Base::Ignored,
    models: (1, 1),
    params: &[Param {
        name: "scale",
        scope: Scope::PerModel,
        default: Default::Is(Value::Number(1.0)),
        range: Range::Finite,
        doc: "Factor on every element.",
    }],
    preset: None,
};

impl Method for Passthrough {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn is_linear(&self) -> bool {
        true
    }

    fn stages(&self, _: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let scale = params.each("scale")[0] as f32;
        Ok(vec![Stage::map(move |block, out| {
            for (out, x) in out.iter_mut().zip(block.input(0)) {
                *out = x * scale;
            }
            Ok(())
        })])
    }
}
