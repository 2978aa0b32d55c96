//! A quantization as a plan, from headers alone: each chosen weight is one job, everything else is copied.

use crate::coder::Coder;
use crate::encoder::Encoder;
use crate::format::{Format, Layout, Part, Tensor};
use crate::method::Method;
use crate::moments::Moments;
use crate::scheme::Scheme;
use crate::select::{self, Chosen, Rule};
use crate::shared::Shared;
use polmrs_core::{BLOCK, Dtype, Error, Result};
use polmrs_engine::source::{Meta, Source};
use polmrs_engine::{Grain, Input, Job, Plan, Stage, Target};
use polmrs_io::stats::Stats;
use std::path::Path;
use std::sync::Arc;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Config {
    /// What linear layers become.
    pub scheme: Scheme,
    /// How their codes are found.
    pub method: Method,
    /// What the files look like.
    pub format: Format,
    /// What some of them become instead.
    pub rules: Vec<Rule>,
    /// Arithmetic in the weights' own type, for llm-compressor's codes.
    pub compat: bool,
    /// Statistics of the layers' inputs, for the error of their outputs in the report.
    pub stats: Option<Arc<Stats>>,
}

impl Config {
    /// Reads what is asked for: a scheme and a method with their settings, a format (that of the scheme, if none), patterns
    /// of what stays as it is, and rules. Opens the statistics file.
    ///
    /// # Errors
    /// [`Error::Usage`] names what is not known, and [`Error::Config`] the format; [`Error::Checkpoint`] a file of another
    /// kind.
    pub fn parse(
        scheme: &str,
        method: &str,
        format: Option<&str>,
        exclude: &[String],
        rules: &[String],
        compat: bool,
        stats: Option<&Path>,
    ) -> Result<Config> {
        let scheme = Scheme::parse(scheme)?;
        let kept = exclude.iter().map(|pattern| Rule::exclude(pattern));
        Ok(Config {
            scheme,
            method: Method::parse(method)?,
            format: format.map_or(Ok(scheme.format()), Format::from_name)?,
            rules: kept.chain(rules.iter().map(|rule| Rule::parse(rule))).collect::<Result<_>>()?,
            compat,
            stats: stats.map(Stats::open).transpose()?.map(Arc::new),
        })
    }
}

/// A plan, and what it made of the modules.
pub struct Planned {
    /// Outputs and jobs.
    pub plan: Plan,
    /// Every module's layout, in the source's order.
    pub layouts: Vec<(String, Layout)>,
    /// The modules that could have been quantized and stay as they are.
    pub kept: Vec<String>,
}

/// Elements of a block whose rows become columns of a tensor: long runs, few writes.
const STRIPE: usize = 1 << 20;

/// Bytes of buffers for an element that is encoded, as the engine reckons them.
const BUFFERS: u64 = 16;

/// Elements of such a block within a limit: every thread can have one in hand.
fn stripe(threads: usize, limit: Option<u64>) -> usize {
    let within = limit.map_or(u64::MAX, |limit| limit / (BUFFERS * threads.max(1) as u64));
    usize::try_from(within).unwrap_or(usize::MAX).clamp(BLOCK, STRIPE)
}

/// Plans the quantization of one source, which is number 0, for so many threads within so many bytes of buffers.
///
/// # Errors
/// Names the tensor that is quantized already or whose group does not divide its rows, and what cannot go together.
pub fn plan(config: &Config, source: &dyn Source, threads: usize, limit: Option<u64>) -> Result<Planned> {
    let tensors = source.tensors();
    if config.compat && config.format != Format::CompressedTensors {
        let (wanted, asked) = (Format::CompressedTensors.name(), config.format.name());
        return Err(Error::Usage(format!("compat: llm-compressor writes {wanted}, not {asked}")));
    }
    refuse_quantized(source)?;
    let Chosen { schemes, notes } = select::choose(tensors, config.scheme, &config.rules)?;
    let mut planned = Planned { plan: Plan { notes, ..Plan::default() }, layouts: Vec::new(), kept: Vec::new() };
    let mut shared = Shared::new(tensors, &schemes);
    let stripe = stripe(threads, limit);
    let mut without = 0;
    for (at, (meta, scheme)) in tensors.iter().zip(schemes).enumerate() {
        match (scheme, select::module(meta)) {
            (Some(scheme), Some(module)) => {
                let layout = layout(config, scheme, meta);
                let moments = moments(config, meta)?;
                without += usize::from(moments.is_none());
                let outputs = &mut planned.plan.outputs;
                let job = weight(config, layout, meta, (module, at, stripe), moments, outputs, &mut shared);
                planned.plan.jobs.push(job.map_err(|error| error.within(&meta.name))?);
                planned.layouts.push((module.to_owned(), layout));
            }
            (_, module) => {
                let kept = module.or_else(|| select::stacked(meta)).map(str::to_owned);
                planned.kept.extend(kept.filter(|kept| planned.kept.last() != Some(kept)));
                planned.plan.jobs.push(copy(meta, at, &mut planned.plan.outputs));
            }
        }
    }
    if config.stats.is_some() {
        note_without(&mut planned, without)?;
    }
    note_ragged(&mut planned, config.format, tensors);
    Ok(planned)
}

/// Says how many layers end in the middle of a block.
fn note_ragged(planned: &mut Planned, format: Format, tensors: &[Meta]) {
    let layers = planned.plan.jobs.iter().filter(|job| format == Format::Fp8 && job.outputs.len() > 1);
    let sides = layers.map(|job| &tensors[job.inputs[0].tensor].shape);
    let count = sides.filter(|sides| sides.iter().any(|side| side % 128 != 0)).count();
    if count > 0 {
        let rule = "transformers refuses or misreads those where it dequantizes on loading";
        planned.plan.notes.push(format!("fp8: {count} layers have a side that is no multiple of 128: {rule}"));
    }
}

fn moments(config: &Config, meta: &Meta) -> Result<Option<Moments>> {
    let Some(stats) = &config.stats else { return Ok(None) };
    Moments::find(stats, &meta.name, meta.shape[1] as usize)
}

/// Says how many layers the statistics file lacks.
fn note_without(planned: &mut Planned, without: usize) -> Result<()> {
    let count = planned.layouts.len();
    if without == count {
        let rule = "it was taken of another model, or with neither gram nor sumsq";
        return Err(Error::Checkpoint(format!("stats: of the {count} layers to quantize, the file has none; {rule}")));
    }
    if without > 0 {
        let rule = "the report lacks the error of their outputs";
        planned.plan.notes.push(format!("stats: of {count} layers, {without} are not in the file; {rule}"));
    }
    Ok(())
}

/// Names of tensors that only quantized checkpoints hold.
const QUANTIZED: [&str; 7] =
    [".weight_packed", ".weight_scale", ".qweight", ".weight.absmax", ".SCB", ".weight_scale_inv", "_blocks"];

fn refuse_quantized(source: &dyn Source) -> Result<()> {
    let packed = |meta: &&Meta| {
        QUANTIZED.iter().any(|end| meta.name.ends_with(end))
            || (meta.shape.len() == 2 && matches!(meta.dtype, Dtype::F8E4M3 | Dtype::F8E5M2 | Dtype::I8))
    };
    match source.tensors().iter().find(packed) {
        None => Ok(()),
        Some(meta) => {
            let (label, name, dtype) = (source.label(), &meta.name, meta.dtype.torch_name());
            Err(Error::Checkpoint(format!("{label}: is quantized already: '{name}' is {dtype}")))
        }
    }
}

fn layout(config: &Config, scheme: Scheme, meta: &Meta) -> Layout {
    let (coding, activations) = (scheme.coding, scheme.spec.activations);
    Layout { format: config.format, coding, dtype: config.format.dtype(meta.dtype), activations }
}

/// The tensors that a weight becomes when it is written.
///
/// # Errors
/// [`Error::Config`] lists what the formats hold, if this one does not hold the layout.
pub fn tensors(layout: &Layout, rows: usize, columns: usize) -> Result<Vec<Tensor>> {
    if layout.activations && layout.format != Format::CompressedTensors {
        let (name, coding) = (layout.format.name(), layout.coding);
        return Err(Error::Config(format!("{name} has no 8-bit activations for {coding}; compressed-tensors has")));
    }
    layout.writable()?;
    layout.tensors(rows, columns)
}

fn copy(meta: &Meta, at: usize, outputs: &mut Vec<Meta>) -> Job {
    let len = meta.elements();
    outputs.push(meta.clone());
    Job {
        name: meta.name.clone(),
        inputs: vec![Input { source: 0, tensor: at, first: 0, len, round: None }],
        outputs: vec![Target { tensor: outputs.len() - 1, first: 0, len }],
        stages: vec![Stage::Copy],
    }
}

fn weight(
    config: &Config,
    layout: Layout,
    meta: &Meta,
    (module, at, stripe): (&str, usize, usize),
    moments: Option<Moments>,
    outputs: &mut Vec<Meta>,
    shared: &mut Shared,
) -> Result<Job> {
    let [rows, columns] = [meta.shape[0] as usize, meta.shape[1] as usize];
    let tensors = tensors(&layout, rows, columns)?;
    let arithmetic = if config.compat && meta.dtype != Dtype::F64 { meta.dtype } else { Dtype::F32 };
    let coder = Coder { coding: layout.coding, search: config.method.search(), scale_dtype: layout.dtype, arithmetic };
    coder.check()?;
    let first = outputs.len();
    outputs.extend(tensors.iter().map(|tensor| Meta {
        name: format!("{module}.{}", tensor.suffix),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
    }));
    let targets = outputs[first..].iter().enumerate();
    let targets = targets.map(|(at, meta)| Target { tensor: first + at, first: 0, len: meta.elements() }).collect();
    let grain = Grain::Strips { rows: rows as u64, at_once: at_once(&layout, &tensors, columns, stripe) as u64 };
    let mut stages = Vec::new();
    let common = shared.common(&coder, at, grain, &mut stages);
    stages.push(Stage::encode(grain, move |block, outputs| {
        let global = common.as_ref().map_or(Ok(0.0), |common| common.get().copied())?;
        let encoder = Encoder { layout, coder, tensors: &tensors, moments: moments.as_ref() };
        encoder.encode([rows, columns], global, block, outputs)
    }));
    let inputs = vec![Input { source: 0, tensor: at, first: 0, len: meta.elements(), round: None }];
    Ok(Job { name: meta.name.clone(), inputs, outputs: targets, stages })
}

/// The rows of a block: a multiple of what the layout needs.
fn at_once(layout: &Layout, tensors: &[Tensor], columns: usize, stripe: usize) -> usize {
    let stripes = tensors.iter().any(|tensor| matches!(tensor.part, Part::Columns { .. }));
    let elements = if stripes { stripe } else { BLOCK };
    (elements / columns.max(1)).max(1).next_multiple_of(layout.grain(columns))
}
