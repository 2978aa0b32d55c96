//! What can be said to `polmrs data`.

use clap::{Args as Group, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Group)]
#[command(after_help = "The Python package also has inspect, convert and show, for records: polmrs data show --help")]
pub(crate) struct Data {
    #[command(subcommand)]
    pub(crate) verb: DataVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataVerb {
    /// Leave out near-duplicates; the first of each cluster stays
    Dedup(Dedup),
    /// Leave out documents that hold word n-grams of test items
    Decontaminate(Decontaminate),
    /// Plan packs of a fixed number of tokens
    Pack(Pack),
    /// Write texts as a token store (feature `text` of the build)
    Tokenize(Tokenize),
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A JSON object a line
    Jsonl,
    /// A document a line
    Text,
    /// A token store
    Tokens,
}

#[derive(Debug, Group)]
pub(crate) struct Output {
    /// The file to write; it appears whole at the end
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    pub(crate) out: Option<PathBuf>,
    /// Write the report (JSON): what was left out, and why
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Do everything but write OUT
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Replace files that are there
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Print the report
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// What documents are cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Unit {
    /// Runs of letters and digits
    Word,
    /// Single letters and digits, for scripts without spaces
    Char,
}

impl From<Unit> for polmrs_batch::words::Unit {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Word => Self::Word,
            Unit::Char => Self::Char,
        }
    }
}

/// How near-duplicates are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DedupMethod {
    /// Jaccard index of word n-grams, pairs found by MinHash
    Minhash,
    /// The same, every pair found
    Exact,
    /// ROUGE-L with every document kept before (Self-Instruct)
    RougeL,
}

impl DedupMethod {
    pub(crate) fn name(self) -> &'static str {
        match self {
            DedupMethod::Minhash => "minhash",
            DedupMethod::Exact => "exact",
            DedupMethod::RougeL => "rouge-l",
        }
    }
}

#[derive(Debug, Group)]
pub(crate) struct Dedup {
    /// JSON Lines, text or a token store
    pub(crate) input: PathBuf,
    /// What the input is [default: by its first bytes and its name]
    #[arg(long)]
    pub(crate) format: Option<Format>,
    /// The field of a JSON object that holds the text; a.b goes down
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) field: String,
    /// How documents are compared
    #[arg(long, value_enum, default_value_t = DedupMethod::Minhash)]
    pub(crate) method: DedupMethod,
    /// From which likeness on a document goes [default: 0.8; 0.7 for rouge-l]
    #[arg(long, value_name = "X")]
    pub(crate) threshold: Option<f64>,
    /// Words of an n-gram (minhash, exact)
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) n: usize,
    /// What n-grams are made of (minhash, exact)
    #[arg(long, value_enum, default_value_t = Unit::Word)]
    pub(crate) unit: Unit,
    /// The least chance of finding a pair at the threshold (minhash)
    #[arg(long, value_name = "X", default_value_t = 0.95)]
    pub(crate) recall: f64,
    /// Hash functions, a multiple of 16 (minhash)
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) functions: usize,
    /// The seed of the hash functions (minhash)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Stem words (rouge-l)
    #[arg(long)]
    pub(crate) stemmer: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Group)]
pub(crate) struct Decontaminate {
    /// The training set: JSON Lines, text or a token store
    pub(crate) input: PathBuf,
    /// A test set; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) tests: Vec<PathBuf>,
    /// What the input is [default: by its first bytes and its name]
    #[arg(long)]
    pub(crate) format: Option<Format>,
    /// The field that holds the text; a.b goes down
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) field: String,
    /// The same of the test sets [default: that of the training set]
    #[arg(long, value_name = "NAME")]
    pub(crate) test_field: Option<String>,
    /// Words of an n-gram
    #[arg(long, value_name = "N", default_value_t = 13)]
    pub(crate) n: usize,
    /// The fewest words of a test item that is looked for [default: 8, at most N]
    #[arg(long, value_name = "N")]
    pub(crate) least: Option<usize>,
    /// Pass over n-grams that stand in more training documents than this (GPT-3: 10)
    #[arg(long, value_name = "N")]
    pub(crate) common: Option<usize>,
    /// What n-grams are made of
    #[arg(long, value_enum, default_value_t = Unit::Word)]
    pub(crate) unit: Unit,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// How packs are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strategy {
    /// Longest first, into the fullest pack with room
    BestFitDecreasing,
    /// Longest first, into the first pack with room
    FirstFitDecreasing,
    /// In order, into the first pack with room
    FirstFit,
    /// In order, into the last pack
    Sequential,
}

impl Strategy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Strategy::BestFitDecreasing => "best_fit_decreasing",
            Strategy::FirstFitDecreasing => "first_fit_decreasing",
            Strategy::FirstFit => "first_fit",
            Strategy::Sequential => "sequential",
        }
    }
}

impl From<Strategy> for polmrs_batch::pack::Strategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::BestFitDecreasing => Self::BestFitDecreasing,
            Strategy::FirstFitDecreasing => Self::FirstFitDecreasing,
            Strategy::FirstFit => Self::FirstFit,
            Strategy::Sequential => Self::Sequential,
        }
    }
}

/// What becomes of a sequence longer than a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TooLong {
    /// An error
    Refuse,
    /// Left out, and listed
    Drop,
}

impl From<TooLong> for polmrs_batch::pack::TooLong {
    fn from(rule: TooLong) -> Self {
        match rule {
            TooLong::Refuse => Self::Refuse,
            TooLong::Drop => Self::Drop,
        }
    }
}

#[derive(Debug, Group)]
pub(crate) struct Pack {
    /// A token store, or JSON Lines with arrays of token ids
    pub(crate) input: PathBuf,
    /// Tokens of a pack
    #[arg(long, value_name = "N")]
    pub(crate) capacity: usize,
    /// What the input is [default: by its first bytes and its name]
    #[arg(long)]
    pub(crate) format: Option<Format>,
    /// The field of a JSON object that holds the ids
    #[arg(long, value_name = "NAME", default_value = "input_ids")]
    pub(crate) field: String,
    /// How packs are chosen
    #[arg(long, value_enum, default_value_t = Strategy::BestFitDecreasing)]
    pub(crate) strategy: Strategy,
    /// What becomes of a sequence longer than a pack
    #[arg(long, value_enum, default_value_t = TooLong::Refuse)]
    pub(crate) too_long: TooLong,
    /// Put the packs into random order
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Group)]
#[cfg_attr(not(feature = "text"), allow(dead_code, reason = "the verb says what it needs"))]
pub(crate) struct Tokenize {
    /// JSON Lines, or text with a document a line
    pub(crate) input: PathBuf,
    /// The token store to write; it appears whole at the end
    pub(crate) out: PathBuf,
    /// The tokenizer.json of a model, or the folder that holds it
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: PathBuf,
    /// What the input is [default: by its name]
    #[arg(long)]
    pub(crate) format: Option<Format>,
    /// The field of a JSON object that holds the text; a.b goes down
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) field: String,
    /// Add the special tokens of the tokenizer's template
    #[arg(long)]
    pub(crate) special_tokens: bool,
    /// A token of the vocabulary that ends every row
    #[arg(long, value_name = "TOKEN")]
    pub(crate) eos: Option<String>,
    /// Refuse rows of more tokens; nothing is ever cut
    #[arg(long, value_name = "N")]
    pub(crate) max_length: Option<usize>,
    /// Replace a file that is there
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Print the counts as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
