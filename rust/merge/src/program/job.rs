//! The job of one tensor.

use super::Planner;
use crate::params::Params;
use crate::spec::Tensor;
use polmrs_core::{Dtype, Error, Result};
use polmrs_engine::source::Meta;
use polmrs_engine::{Input, Job, Stage, Target};

impl Planner<'_> {
    /// Adds the job that merges `inputs`, the base first if there is one, into a tensor of the shape of `like`.
    pub(super) fn merge(
        &mut self,
        name: &str,
        like: &Meta,
        mut inputs: Vec<Input>,
        params: &Params,
        has_base: bool,
    ) -> Result<()> {
        let types: Vec<Dtype> =
            inputs.iter().map(|input| self.models[input.source].source.tensors()[input.tensor].dtype).collect();
        let floats = types.iter().filter(|dtype| dtype.is_float()).count();
        let (dtype, stages) = if floats == types.len() {
            let promoted = types.iter().fold(types[0], |all, dtype| all.promote(*dtype));
            let working = self.config.dtype.unwrap_or(promoted);
            for (input, dtype) in inputs.iter_mut().zip(&types) {
                input.round = Some(working).filter(|working| loses(*dtype, *working));
            }
            let dtype = self.config.out_dtype.unwrap_or(working);
            let unrounded = inputs.len() == 1 && inputs[0].round.is_none() && types[0] == dtype;
            let untouched = like.elements() == 0 || (unrounded && params.each_is("scale", 1.0));
            let statistics = if untouched { Vec::new() } else { self.statistics(&inputs, params)? };
            let tensor = Tensor {
                name,
                elements: like.elements(),
                columns: like.shape.last().copied().unwrap_or(1),
                shape: &like.shape,
                has_base,
                measured: !statistics.is_empty(),
                function: self.extra.function.as_ref(),
                whole_model: &self.whole_model,
                seed: self.seed,
            };
            let stages = if untouched { vec![Stage::Copy] } else { self.config.method.stages(&tensor, params)? };
            inputs.extend(statistics);
            (dtype, stages)
        } else if floats == 0 && types.iter().all(|dtype| *dtype == types[0]) {
            (types[0], vec![Stage::Copy])
        } else {
            let names: Vec<&str> = types.iter().map(|dtype| dtype.name()).collect();
            return Err(Error::Checkpoint(format!("'{name}': types {} do not go together", names.join(", "))));
        };
        self.add(Meta { name: name.into(), dtype, shape: like.shape.clone() }, inputs, stages);
        Ok(())
    }

    /// The inputs that hold what the method reads of every model's statistics file.
    fn statistics(&mut self, inputs: &[Input], params: &Params) -> Result<Vec<Input>> {
        let Some(kind) = self.config.method.statistic() else { return Ok(Vec::new()) };
        let models = self.models;
        let meta = |input: &Input| &models[input.source].source.tensors()[input.tensor];
        let paths = params.texts("statistics").into_iter();
        let each: Vec<_> = paths.zip(inputs).map(|(path, input)| (path, meta(input), input)).collect();
        self.extra.statistics(kind, &each, models.len())
    }

    /// Adds the job that copies one tensor of a model as it is.
    pub(super) fn copy(&mut self, model: usize, tensor: usize, name: &str) {
        let meta = Meta { name: name.into(), ..self.models[model].source.tensors()[tensor].clone() };
        let input = Input { source: model, tensor, first: 0, len: meta.elements(), round: None };
        self.add(meta, vec![input], vec![Stage::Copy]);
    }

    fn add(&mut self, meta: Meta, inputs: Vec<Input>, stages: Vec<Stage>) {
        let target = Target { tensor: self.plan.outputs.len(), first: 0, len: meta.elements() };
        self.plan.jobs.push(Job { name: meta.name.clone(), inputs, outputs: vec![target], stages });
        self.plan.outputs.push(meta);
    }
}

/// Whether rounding a value of type `from` to type `to` can change it.
fn loses(from: Dtype, to: Dtype) -> bool {
    from != to && from.promote(to) != to
}
