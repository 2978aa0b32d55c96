//! Custom: what the caller's own function makes of a block.
//!
//! It is known to Python alone (`polmrs.merge.Custom`): a configuration file names no code. The function sees blocks in f32
//! at the grain that it declares, and its result is rounded once.

use crate::extra::{Call, FunctionExtent};
use crate::params::Params;
use crate::spec::{Base, Method, Spec, Tensor};
use polmrs_core::{Error, Result};
use polmrs_engine::Stage;

pub(super) struct Custom;

static SPEC: Spec = Spec {
    name: "custom",
    class: "Custom",
    id: "merge.custom",
    in_ledger: false,
    paper: "-",
    doc: "What the caller's own function makes of the models.",
    formula: r"\theta = f(\theta_0, \theta_1, \dots)",
    base: Base::Optional,
    models: (1, usize::MAX),
    params: &[],
    preset: None,
};

impl Method for Custom {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn stages(&self, tensor: &Tensor<'_>, _: &Params) -> Result<Vec<Stage>> {
        let Some(function) = tensor.function.cloned() else {
            return Err(Error::Usage("custom: has no function; from Python, pass polmrs.merge.Custom(fn)".into()));
        };
        let based = tensor.has_base;
        let (name, columns) = (tensor.name.to_owned(), tensor.columns as usize);
        let whole: Vec<usize> = tensor.shape.iter().map(|size| *size as usize).collect();
        Ok(vec![Stage::map_at(function.extent.grain(tensor), move |block, out| {
            let shape = match function.extent {
                FunctionExtent::Elements => vec![out.len()],
                FunctionExtent::Rows => vec![out.len() / columns.max(1), columns],
                FunctionExtent::Tensor => whole.clone(),
            };
            let mut inputs = block.inputs.iter().map(Vec::as_slice);
            let base = if based { inputs.next() } else { None };
            (function.compute)(&Call { tensor: &name, shape, base, models: inputs.collect() }, out)
        })])
    }
}
