//! A quantized checkpoint as a source: its weights by their dense names, dequantized as they are read.
//!
//! Whatever the format, a module's tensors become one weight; tensors that belong to no quantized module stay as they are.
//! Rows are read in the format's grain. Formats that store the transpose are read in stripes of two million elements or 256
//! rows, so that the file is not read word by word, and the stripes read last are kept: at most 64 MiB (or the last, if it
//! is larger), and the buffers of two more.

use crate::format::{Format, Held, Part, Stated, Stored, Strip, Tensor};
use crate::stripes::Stripes;
use polmrs_core::{Dtype, Error, Result, dtype};
use polmrs_engine::source::{Meta, Source};
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Elements of a stripe.
const STRIPE: usize = 1 << 21;
/// Rows that it has at least.
const ROWS: usize = 256;

/// A quantized checkpoint, dequantized.
pub struct Quantized {
    base: Arc<dyn Source>,
    tensors: Vec<Meta>,
    origins: Vec<Origin>,
    index: HashMap<String, usize>,
    stripes: Stripes,
}

/// Where a tensor comes from.
enum Origin {
    /// The base, as it is.
    Same(usize),
    Weight(Weight),
}

/// A weight that is stored in a layout.
pub(crate) struct Weight {
    pub(crate) stored: Stored,
    /// Its tensors, and where the base has them.
    parts: Vec<(Tensor, usize)>,
}

/// The format that a configuration's `quantization_config` names, if it has one.
///
/// # Errors
/// It names a format that is not read here.
pub fn format_of(config: &Json) -> Result<Option<Format>> {
    let quantization = &config["quantization_config"];
    if quantization.is_null() {
        return Ok(None);
    }
    match quantization["quant_method"].as_str().unwrap_or("a method without a name") {
        "compressed-tensors" => Ok(Some(Format::CompressedTensors)),
        "gptq" if quantization["checkpoint_format"] == "gptq_v2" => Ok(Some(Format::GptqV2)),
        "gptq" => Ok(Some(Format::Gptq)),
        "awq" => Ok(Some(Format::Awq)),
        "bitsandbytes" => Ok(Some(Format::Bnb)),
        "fp8" => Ok(Some(Format::Fp8)),
        other => {
            let known = "compressed-tensors, gptq, awq, bitsandbytes, fp8";
            Err(Error::Checkpoint(format!("quantization_config: '{other}' is not read; {known} are")))
        }
    }
}

/// What a name must end in for its module to be quantized.
pub(crate) const fn marks(format: Format) -> &'static [&'static str] {
    match format {
        Format::CompressedTensors => &[".weight_scale"],
        Format::Gptq | Format::GptqV2 | Format::Awq => &[".qweight"],
        Format::Bnb => &[".SCB", ".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4"],
        Format::Fp8 => &[".weight_scale_inv", ".weight_scale"],
    }
}

/// What is quantized and not read: matrices of experts that are stacked in one tensor.
pub(crate) fn stacked(tensors: &[Meta], format: Format) -> Option<&Meta> {
    let scale = |meta: &&Meta| meta.name.ends_with("_scale_inv") && !meta.name.ends_with(".weight_scale_inv");
    tensors.iter().find(scale).filter(|_| format == Format::Fp8)
}

/// The rule that such a tensor breaks.
pub(crate) const STACKED: &str = "FP8 codes of experts that are stacked in one tensor are not read";

/// Codes of FP8 that belong to no module: their scale has a name that is not read.
pub(crate) fn unscaled<'a>(tensors: &'a [Meta], modules: &Modules<'_>, format: Format) -> Option<&'a Meta> {
    let owned: HashSet<usize> = modules.values().flatten().map(|(_, at)| *at).collect();
    let mut codes = tensors.iter().enumerate().filter(|(_, meta)| format == Format::Fp8 && meta.dtype == Dtype::F8E4M3);
    codes.find(|(at, _)| !owned.contains(at)).map(|(_, meta)| meta)
}

/// The rule that such a tensor breaks.
pub(crate) const UNSCALED: &str = "FP8 codes without a weight_scale_inv or weight_scale beside them are not read";

/// What else a quantized module may hold, which a dense one has not: about activations, or superseded.
const SPARE: [&str; 7] = [
    "weight_shape",
    "input_scale",
    "input_zero_point",
    "input_global_scale",
    "output_scale",
    "activation_scale",
    "weight_format",
];

/// For each quantized module the suffixes and places of its tensors, in the checkpoint's order.
pub(crate) type Modules<'a> = BTreeMap<&'a str, Vec<(&'a str, usize)>>;

/// The quantized modules of a checkpoint.
pub(crate) fn modules(tensors: &[Meta], format: Format) -> Modules<'_> {
    let quantized = |meta: &'_ Meta| marks(format).iter().find_map(|mark| meta.name.strip_suffix(mark).map(str::len));
    let mut modules: Modules<'_> =
        tensors.iter().filter_map(|meta| Some((&meta.name[..quantized(meta)?], Vec::new()))).collect();
    for (at, meta) in tensors.iter().enumerate() {
        let mut dots = meta.name.char_indices().filter(|(_, letter)| *letter == '.').map(|(dot, _)| dot);
        if let Some(dot) = dots.find(|dot| modules.contains_key(&meta.name[..*dot])) {
            modules.entry(&meta.name[..dot]).or_default().push((&meta.name[dot + 1..], at));
        }
    }
    modules
}

/// What [`read_quantized_with`](polmrs_model::folder::read_quantized_with) takes: the dense weights of a quantized model,
/// and of any other model nothing.
pub fn dense(base: &Arc<dyn Source>, config: &Json) -> Result<Option<Arc<dyn Source>>> {
    let Some(format) = format_of(config).map_err(|error| error.within(base.label()))? else { return Ok(None) };
    Ok(Some(Arc::new(Quantized::new(Arc::clone(base), config, format)?)))
}

impl Quantized {
    /// Finds the quantized weights of a checkpoint, from its headers and its small tensors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], with the module's name, where its tensors are not what the format gives it.
    pub fn new(base: Arc<dyn Source>, config: &Json, format: Format) -> Result<Quantized> {
        let modules = modules(base.tensors(), format);
        let not_read = stacked(base.tensors(), format).map(|meta| (meta, STACKED));
        let not_read = not_read.or_else(|| Some((unscaled(base.tensors(), &modules, format)?, UNSCALED)));
        if let Some((meta, rule)) = not_read {
            return Err(Error::Checkpoint(format!("{}: {}: {rule}", base.label(), meta.name)));
        }
        let mut owners = vec![None; base.tensors().len()];
        for (module, held) in &modules {
            held.iter().for_each(|(_, at)| owners[*at] = Some(*module));
        }
        let stated = ["dtype", "torch_dtype"].into_iter().find_map(|key| config[key].as_str());
        let stated = stated.and_then(Dtype::from_torch_name).filter(|dtype| dtype.is_float());
        let quantization = stated_in(&config["quantization_config"]).map_err(|error| error.within(base.label()))?;
        let mut made = (Vec::new(), Vec::new());
        let mut add = |meta: Meta, origin| {
            made.0.push(meta);
            made.1.push(origin);
        };
        for (at, meta) in base.tensors().iter().enumerate() {
            let Some(module) = owners[at] else {
                add(meta.clone(), Origin::Same(at));
                continue;
            };
            let held = &modules[module];
            if held[0].1 == at {
                let weight = Weight::new(base.as_ref(), held, format, quantization)
                    .map_err(|error| error.within(&format!("{}: {module}", base.label())))?;
                let shape = vec![weight.stored.rows as u64, weight.stored.columns as u64];
                let dtype = stated.unwrap_or(weight.stored.layout.dtype);
                add(Meta { name: format!("{module}.weight"), dtype, shape }, Origin::Weight(weight));
            }
            if &meta.name[module.len() + 1..] == "bias" {
                add(meta.clone(), Origin::Same(at));
            }
        }
        let (tensors, origins) = made;
        let index = tensors.iter().enumerate().map(|(at, meta)| (meta.name.clone(), at)).collect();
        Ok(Quantized { base, tensors, origins, index, stripes: Stripes::default() })
    }
}

impl Weight {
    /// The layout of a module's tensors; `stated` as in [`Held::recognise`].
    pub(crate) fn new(base: &dyn Source, held: &[(&str, usize)], format: Format, stated: Stated) -> Result<Weight> {
        let find = |suffix: &str| {
            let found = held.iter().find(|(name, _)| *name == suffix).map(|(_, at)| *at);
            found.ok_or_else(|| Error::Checkpoint(format!("{suffix}: not there")))
        };
        let small = |suffix: &str| {
            let at = find(suffix)?;
            let size = base.tensors()[at].nbytes();
            if size > 1 << 16 {
                return Err(Error::Checkpoint(format!("{suffix}: {size} bytes are too many for it")));
            }
            let mut bytes = vec![0; size as usize];
            base.read(at, 0, &mut bytes)?;
            Ok(bytes)
        };
        let tensors =
            held.iter().map(|(suffix, at)| (*suffix, base.tensors()[*at].dtype, &base.tensors()[*at].shape[..]));
        let stored = Held { tensors: tensors.collect(), bytes: &small }.recognise(format, stated)?;
        let tensors = stored.layout.tensors(stored.rows, stored.columns)?;
        let known = |suffix: &str| {
            suffix == "bias" || SPARE.contains(&suffix) || tensors.iter().any(|tensor| tensor.suffix == suffix)
        };
        if let Some((suffix, _)) = held.iter().find(|(suffix, _)| !known(suffix)) {
            return Err(Error::Checkpoint(format!("{suffix}: a tensor that {} does not know", format.name())));
        }
        let parts =
            tensors.into_iter().map(|tensor| find(tensor.suffix).map(|at| (tensor, at))).collect::<Result<_>>()?;
        Ok(Weight { stored, parts })
    }

    /// Rows that are read at once.
    fn stripe(&self) -> usize {
        let grain = self.stored.layout.grain(self.stored.columns);
        let turned = self.parts.iter().any(|(tensor, _)| matches!(tensor.part, Part::Columns { .. }));
        if turned { (STRIPE / self.stored.columns).max(ROWS).next_multiple_of(grain) } else { grain }
    }

    /// Reads and dequantizes a block of rows.
    fn rows(&self, base: &dyn Source, first: usize, count: usize, values: &mut Vec<f32>) -> Result<()> {
        let columns = self.stored.columns;
        let mut parts = Vec::with_capacity(self.parts.len());
        for (tensor, at) in &self.parts {
            let mut part = Vec::new();
            if tensor.part == Part::Whole {
                part.resize(base.tensors()[*at].nbytes() as usize, 0); // as long as its writer made it
                base.read(*at, 0, &mut part)?;
            } else {
                for run in tensor.runs(first..first + count) {
                    let start = part.len();
                    part.resize(start + run.len(), 0);
                    base.read(*at, (run.start / tensor.dtype.size()) as u64, &mut part[start..])?;
                }
            }
            parts.push(part);
        }
        let block =
            self.stored.layout.read(&parts.iter().map(|part| Strip::of(part)).collect::<Vec<_>>(), count, columns)?;
        values.resize(count * columns, 0.0);
        self.stored.layout.coding.decode(&block, columns, values)
    }
}

/// What a `quantization_config` says of every module.
///
/// # Errors
/// Its `weight_block_size` is not two numbers.
pub(crate) fn stated_in(quantization: &Json) -> Result<Stated> {
    let size = &quantization["weight_block_size"];
    let side = |at: usize| size[at].as_u64().filter(|side| *side > 0).and_then(|side| usize::try_from(side).ok());
    let block = match (side(0), side(1), &size[2]) {
        _ if size.is_null() => None,
        (Some(rows), Some(columns), Json::Null) => Some([rows, columns]),
        _ => {
            let rule = format!("weight_block_size: {size} is not a number of rows and one of columns");
            return Err(Error::Checkpoint(format!("quantization_config.{rule}")));
        }
    };
    Ok(Stated { bits: one_width(quantization), block })
}

/// The bits of all `config_groups`, where they agree.
fn one_width(quantization: &Json) -> Option<u32> {
    let groups = quantization["config_groups"].as_object()?;
    let mut widths = groups.values().map(|group| group["weights"]["num_bits"].as_u64());
    let first = widths.next()??;
    widths.all(|width| width == Some(first)).then_some(first as u32)
}

impl Source for Quantized {
    fn label(&self) -> &str {
        self.base.label()
    }

    fn tensors(&self) -> &[Meta] {
        &self.tensors
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.base.files()
    }

    fn read(&self, tensor: usize, first: u64, bytes: &mut [u8]) -> Result<()> {
        let weight = match &self.origins[tensor] {
            Origin::Same(at) => return self.base.read(*at, first, bytes),
            Origin::Weight(weight) => weight,
        };
        let kind = self.tensors[tensor].dtype;
        let (rows, columns, stripe) = (weight.stored.rows, weight.stored.columns, weight.stripe());
        let (mut at, end) = (first as usize, first as usize + bytes.len() / kind.size());
        let mut rest = bytes;
        while at < end {
            // One stripe at a time; rows that stand alone come as many at once as are wanted.
            let top = at / columns / stripe * stripe;
            let wanted = if stripe == 1 { end.div_ceil(columns) - top } else { stripe };
            let count = wanted.min(rows - top);
            let (from, to) = (at - top * columns, end.min((top + count) * columns) - top * columns);
            let (now, later) = rest.split_at_mut((to - from) * kind.size());
            let make = |values: &mut Vec<f32>| weight.rows(self.base.as_ref(), top, count, values);
            if stripe == 1 {
                let mut values = self.stripes.spare();
                make(&mut values)?;
                dtype::from_f32(kind, &values[from..to], now);
                self.stripes.give_back(values);
            } else {
                dtype::from_f32(kind, &self.stripes.find((tensor, top), count * columns, make)?[from..to], now);
            }
            rest = later;
            at = top * columns + to;
        }
        Ok(())
    }
}
