//! A quantization as a plan, from headers alone: each chosen weight is one job, everything else is copied.

use crate::coder::Coder;
use crate::format::{Coding, Format, Layout, Part, Rows, Tensor};
use crate::fp4::nv_global;
use crate::group::absmax;
use crate::method::Method;
use crate::moments::Moments;
use crate::scheme::Scheme;
use crate::select::{self, Chosen, Rule};
use polmrs_core::reduce::Ordered;
use polmrs_core::{BLOCK, Dtype, Error, Result};
use polmrs_engine::job::Accumulate;
use polmrs_engine::source::{Meta, Source};
use polmrs_engine::{Block, Grain, Input, Job, Later, Outputs, Plan, Scope, Stage, Target};
use polmrs_io::stats::Stats;
use std::collections::HashMap;
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
                planned.kept.extend(module.map(str::to_owned));
                planned.plan.jobs.push(copy(meta, at, &mut planned.plan.outputs));
            }
        }
    }
    if config.stats.is_some() {
        note_without(&mut planned, without)?;
    }
    Ok(planned)
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

/// What turns blocks of one weight into its tensors.
struct Encoder<'a> {
    layout: Layout,
    coder: Coder,
    tensors: &'a [Tensor],
    moments: Option<&'a Moments>,
}

impl Encoder<'_> {
    /// One block: codes, then each tensor's part of them.
    fn encode(
        &self,
        [rows, columns]: [usize; 2],
        global: f32,
        block: &Block<'_>,
        outputs: &mut Outputs<'_>,
    ) -> Result<()> {
        let (x, first) = (block.input(0), block.first as usize);
        let coded = self.coder.encode(x, columns, global);
        let mut parts = vec![Vec::new(); self.tensors.len()];
        self.layout.write(&coded, columns, &mut parts);
        for (at, (tensor, part)) in self.tensors.iter().zip(&mut parts).enumerate() {
            if tensor.part == Part::Whole {
                if first > 0 {
                    continue;
                }
                *part = self.layout.whole(tensor.suffix, rows, columns, global);
            }
            let mut rest = part.as_slice();
            for run in tensor.runs(first..first + x.len() / columns) {
                let (now, later) = rest.split_at(run.len());
                outputs.put(at, run.start as u64, now)?;
                rest = later;
            }
        }
        if outputs.surveyed() { self.report(&coded, columns, block, outputs) } else { Ok(()) }
    }

    /// Shows the report how far from the block its codes are, and what that does to the layer's output.
    fn report(&self, coded: &Rows, columns: usize, block: &Block<'_>, outputs: &mut Outputs<'_>) -> Result<()> {
        let x = block.input(0);
        let mut back = block.scratch(x.len());
        self.layout.coding.decode(coded, columns, &mut back)?;
        outputs.compare(0, &back);
        if let Some(moments) = self.moments {
            let mut off = block.scratch(x.len());
            off.iter_mut().zip(&*back).zip(x).for_each(|((off, back), x)| *off = back - x);
            outputs.weigh(0, moments.weigh([&off, x])?);
        }
        let zeros = self.tensors.iter().position(|tensor| tensor.suffix.contains("zero"));
        if let Some(at) = zeros.filter(|_| self.coder.unrounded(x, columns, &mut back)) {
            outputs.compare(at, &back);
        }
        Ok(())
    }
}

/// What weights have in common before any block is coded, and what tensors share it.
struct Shared {
    leaders: Vec<usize>,
    /// How many tensors each leader leads to one NVFP4 scale, itself counted.
    members: HashMap<usize, usize>,
    found: HashMap<usize, Later<f32>>,
}

struct Largest(f32);

impl Accumulate for Largest {
    fn merge(&mut self, other: Self) {
        self.0 = self.0.max(other.0);
    }
}

impl Shared {
    fn new(tensors: &[Meta], schemes: &[Option<Scheme>]) -> Shared {
        let leaders = select::fused(tensors);
        let mut members = HashMap::new();
        for (leader, scheme) in leaders.iter().zip(schemes) {
            if scheme.is_some_and(|scheme| scheme.coding == Coding::Nvfp4) {
                *members.entry(*leader).or_insert(0) += 1;
            }
        }
        Shared { leaders, members, found: HashMap::new() }
    }

    /// Adds the stage that finds what a weight's blocks have in common, if its coding has such.
    fn common(&mut self, coder: &Coder, at: usize, grain: Grain, stages: &mut Vec<Stage>) -> Option<Later<f32>> {
        match coder.coding {
            Coding::Nvfp4 => Some(self.nvfp4(at, grain, stages)),
            Coding::Nf4 { block, nested: true } => Some(mean_scale(block, grain, stages)),
            _ => None,
        }
    }

    /// NVFP4's scale: from the largest magnitude of a tensor and those that share it.
    fn nvfp4(&mut self, at: usize, grain: Grain, stages: &mut Vec<Stage>) -> Later<f32> {
        let leader = self.leaders[at];
        let later = self.found.entry(leader).or_default().clone();
        let alone = self.members.get(&leader).is_none_or(|count| *count == 1);
        let scope = if alone { Scope::Tensor } else { Scope::Group(leader as u32) };
        let found = later.clone();
        stages.push(Stage::reduce(
            grain,
            scope,
            || Largest(0.0),
            |largest, block| {
                largest.0 = largest.0.max(absmax(block.input(0)));
                Ok(())
            },
            move |largest| {
                found.set(nv_global(largest.0));
                Ok(())
            },
        ));
        later
    }
}

/// The mean of NF4 scales, which double quantization takes off. The strips of `grain` hold whole blocks.
fn mean_scale(block: usize, grain: Grain, stages: &mut Vec<Stage>) -> Later<f32> {
    let later = Later::<f32>::default();
    let found = later.clone();
    stages.push(Stage::reduce(
        grain,
        Scope::Tensor,
        Ordered::<2>::default,
        move |sums, part| {
            let scales = part.input(0).chunks(block).map(|x| f64::from(absmax(x)));
            let (sum, count) = scales.fold((0.0, 0.0), |(sum, count), scale| (sum + scale, count + 1.0));
            sums.push(part.ordinal, [sum, count]);
            Ok(())
        },
        move |sums| {
            let [sum, count] = sums.total();
            found.set((sum / count) as f32);
            Ok(())
        },
    ));
    later
}
