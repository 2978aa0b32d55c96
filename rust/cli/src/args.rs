//! What can be said on the command line.

use clap::{Args as Group, Parser, Subcommand};
use polmrs_core::Dtype;
use std::path::PathBuf;

pub(crate) mod data;
pub(crate) mod quantize;
pub(crate) mod search;

/// Post-train, merge, compress and search LLMs.
#[derive(Debug, Parser)]
#[command(name = "polmrs", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Merge models as a mergekit configuration says
    Merge(Merge),
    /// Show what a merge will read, write and need, from headers alone
    Plan(Plan),
    /// Average models one by one, as long as a score does not fall
    Soup(Box<Soup>),
    /// Quantize a model into files that other runtimes load
    Quantize(Box<quantize::Quantize>),
    /// List the tensors of a checkpoint
    Inspect(Inspect),
    /// Compare two checkpoints tensor by tensor
    Diff(Diff),
    /// Clean and pack data sets
    Data(data::Data),
    /// Build an index of vectors, and search it
    Search(search::Search),
    /// Name what a loader would trip over in a quantized checkpoint
    Check(Check),
    /// Convert a checkpoint of pickles (.bin, .pt, .pth) to safetensors without running their code
    Convert(Convert),
    /// Train a model from a YAML file: sft, classify, reward or prm (Python package only)
    Train(Train),
    /// Show what a merge did to its tensors, the worst first
    Report(Report),
    /// List the methods of this build
    Methods(Methods),
    /// Print the JSON Schema of a configuration
    Schema(Schema),
    /// Print a completion script for a shell
    Completions(Completions),
}

#[derive(Debug, Group)]
pub(crate) struct Merging {
    /// The configuration (YAML); - reads standard input
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) resources: Resources,
    /// The seed of random masks
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Note unknown keys of the configuration instead of refusing them
    #[arg(long)]
    pub(crate) lenient: bool,
}

/// How the output is laid out, with what, and how it is told.
#[derive(Debug, Group)]
pub(crate) struct Resources {
    /// Worker threads [default: all cores, or POLMRS_NUM_THREADS]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// The most bytes of tensors in one output file
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    pub(crate) shard_size: u64,
    /// The most memory for buffers and workspaces [default: about 200 MiB and what whole-tensor methods need]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_memory: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Merge {
    #[command(flatten)]
    pub(crate) merging: Merging,
    /// The folder to write; it appears whole at the end
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Quantize the result on the way, as in --then 'quantize --scheme w4a16 --group 64'; OUT holds that alone
    #[arg(long, value_name = "STEP", conflicts_with = "sweep")]
    pub(crate) then: Option<String>,
    /// Merge once for each value of a parameter and keep the best; given several times, for every combination
    #[arg(long, value_name = "NAME=V,V", requires = "score")]
    pub(crate) sweep: Vec<String>,
    #[command(flatten)]
    pub(crate) scoring: Scoring,
}

/// How a folder is written.
#[derive(Debug, Group)]
pub(crate) struct Writing {
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
    /// Write polmrs_report.json: how far each tensor moved, and whether the models agreed
    #[arg(long)]
    pub(crate) report: bool,
    /// Stop at the first NaN or infinity: the default
    #[arg(long, conflicts_with = "allow_nonfinite")]
    pub(crate) fail_on_nonfinite: bool,
    /// Let NaN and infinities through instead of stopping at the first
    #[arg(long)]
    pub(crate) allow_nonfinite: bool,
    /// No progress and no notes
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Soup {
    /// The models: folders, .safetensors files, org/name of the Hugging Face Hub, MODEL+ADAPTER, or adapters alone
    #[arg(required = true, value_name = "MODEL")]
    pub(crate) models: Vec<String>,
    /// The folder to write; it appears whole at the end
    #[arg(long, value_name = "OUT")]
    pub(crate) to: PathBuf,
    /// The average of all models, without scores
    #[arg(long, conflicts_with = "score", required_unless_present = "score")]
    pub(crate) uniform: bool,
    #[command(flatten)]
    pub(crate) scoring: Scoring,
    /// The type that inputs are rounded to before they are averaged
    #[arg(long, value_name = "TYPE", value_parser = parse_type)]
    pub(crate) dtype: Option<Dtype>,
    /// The type of the result
    #[arg(long, value_name = "TYPE", value_parser = parse_type)]
    pub(crate) out_dtype: Option<Dtype>,
    #[command(flatten)]
    pub(crate) resources: Resources,
    #[command(flatten)]
    pub(crate) writing: Writing,
}

#[derive(Debug, Group)]
pub(crate) struct Scoring {
    /// The command that scores a model: no shell, {out} is the model's folder, the last line it prints is the number
    #[arg(long, value_name = "CMD")]
    pub(crate) score: Option<String>,
    /// The highest score is the best
    #[arg(long, requires = "score", conflicts_with = "minimize")]
    pub(crate) maximize: bool,
    /// The lowest score is the best
    #[arg(long, requires = "score")]
    pub(crate) minimize: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) merging: Merging,
}

#[derive(Debug, Group)]
pub(crate) struct Inspect {
    /// A model folder or a .safetensors file
    pub(crate) path: PathBuf,
    /// One line a tensor, instead of one for all layers' tensors of a kind
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Read the weights too: mean, standard deviation, largest magnitude, zeros, NaN and infinities
    #[arg(long)]
    pub(crate) stats: bool,
    /// Worker threads [default: all cores, or POLMRS_NUM_THREADS]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Diff {
    /// A model folder or a .safetensors file
    pub(crate) a: PathBuf,
    /// Another
    pub(crate) b: PathBuf,
    /// How many tensors to list, most different first
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) top: usize,
    /// Worker threads [default: all cores, or POLMRS_NUM_THREADS]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Print JSON, with every tensor
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Check {
    /// A model folder
    pub(crate) path: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Convert {
    /// A model folder, or one file of a state dict
    pub(crate) source: PathBuf,
    /// The folder to write; it appears whole at the end
    pub(crate) out: PathBuf,
    /// The most bytes of tensors in one output file
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    pub(crate) shard_size: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Report {
    /// The output folder of a merge with --report
    pub(crate) out: PathBuf,
    /// What to sort by
    #[arg(long, value_name = "KEY", default_value = "relative",
          value_parser = polmrs_model::report::COLUMNS.map(|(key, _)| key))]
    pub(crate) by: String,
    /// How many tensors to list
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) top: usize,
    /// Print JSON, with every tensor
    #[arg(long, conflicts_with = "png")]
    pub(crate) json: bool,
    /// Draw KEY as a picture of layers and kinds of tensors too (Python package only; needs matplotlib)
    #[arg(long, value_name = "FILE")]
    pub(crate) png: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct Train {
    /// What to learn, --config FILE, --set KEY=VALUE, --dry-run, --resume, --json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Methods {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Schema {
    /// Which configuration
    #[arg(value_parser = ["merge"])]
    pub(crate) what: String,
}

#[derive(Debug, Group)]
pub(crate) struct Completions {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

/// `float32`, `bfloat16`: a floating-point type by torch's name.
fn parse_type(text: &str) -> Result<Dtype, String> {
    let known = || Dtype::ALL.iter().filter(|dtype| dtype.is_float()).map(|dtype| dtype.torch_name());
    let dtype = Dtype::from_torch_name(text).filter(|dtype| dtype.is_float());
    dtype.ok_or_else(|| format!("not one of {}", known().collect::<Vec<_>>().join(", ")))
}

/// `5GB`, `500M`, `1000`: units of 1000 with or without the B, of 1024 with `iB`.
fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match lower[digits.len()..].trim() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("'{other}' is not a unit; use kB, MB, GB, KiB, MiB or GiB")),
    };
    match digits.trim().parse::<f64>() {
        Ok(number) if number * unit >= 1.0 && number * unit < 1e18 => Ok((number * unit) as u64),
        _ => Err("not a size of at least one byte, such as 5GB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size("1.5 MiB"), Ok(1_572_864));
        assert_eq!(parse_size("700k"), Ok(700_000));
        assert!(parse_size("5 XB").is_err() && parse_size("0").is_err() && parse_size("GB").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
