//! What can be said to `polmrs quantize`.

use super::parse_size;
use clap::Args;
use polmrs_quant::format::Format;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Quantize {
    /// The model: a folder, a .safetensors file, org/name of the Hugging Face Hub, or MODEL+ADAPTER
    pub(crate) source: String,
    /// The folder to write; it appears whole at the end
    #[arg(required_unless_present = "plan")]
    pub(crate) out: Option<PathBuf>,
    /// What linear layers become
    #[arg(long, value_parser = polmrs_quant::scheme::SCHEMES.iter().map(|spec| spec.name).collect::<Vec<_>>())]
    pub(crate) scheme: String,
    /// What shares a scale: so many elements of a row, or row [default: 128; row for 8 bits]
    #[arg(long, value_name = "N")]
    pub(crate) group: Option<String>,
    /// With zero points
    #[arg(long)]
    pub(crate) asym: bool,
    /// With scales that are quantized too (nf4)
    #[arg(long)]
    pub(crate) double: bool,
    /// How codes are found: rtn, mse or hqq, and settings after it, as in 'mse steps=50 shrink=0.5'
    #[arg(long, default_value = "rtn")]
    pub(crate) method: String,
    /// What the files look like [default: compressed-tensors; bnb for nf4 and llm-int8, fp8 for fp8-block]
    #[arg(long, value_parser = Format::ALL.map(Format::name))]
    pub(crate) format: Option<String>,
    /// Another scheme, or none, for modules whose names a pattern finds, as in 'mlp.down_proj=w8a16 group=32'; the first
    /// rule that finds a name decides
    #[arg(long = "rule", value_name = "PATTERN=SCHEME")]
    pub(crate) rules: Vec<String>,
    /// Leave modules whose names a pattern finds as they are, whatever rules say
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Compute in the weights' own type, for the codes of llm-compressor
    #[arg(long)]
    pub(crate) compat: bool,
    /// Show what would be read, written and needed, from headers alone, and write nothing
    #[arg(long)]
    pub(crate) plan: bool,
    /// Worker threads [default: all cores, or POLMRS_NUM_THREADS]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// The most bytes of tensors in one output file
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    pub(crate) shard_size: u64,
    /// The most memory for buffers [default: a few blocks of rows for each thread]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_memory: Option<u64>,
    /// Replace OUT if it is a model folder already
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Go on with what a run that was interrupted left in OUT.partial, if there is such
    #[arg(long)]
    pub(crate) resume: bool,
    /// Bytes of output between two points from which --resume can go on
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    pub(crate) sync_every: u64,
    /// Read the result back and compare it, tensor by tensor, with what was written
    #[arg(long)]
    pub(crate) verify: bool,
    /// Write polmrs_report.json: how far each weight is from what its codes stand for
    #[arg(long)]
    pub(crate) report: bool,
    /// A statistics file of `polmrs.quantize.collect`: the report says what codes do to each layer's output too
    #[arg(long, value_name = "FILE")]
    pub(crate) stats: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress and no notes
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
