//! What can be said to `polmrs search`.

use super::parse_size;
use clap::{Args as Group, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Group)]
pub(crate) struct Search {
    #[command(subcommand)]
    pub(crate) verb: SearchVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SearchVerb {
    /// Write an index of vectors to a file that polmrs.rag.Index opens too
    Build(Build),
    /// Print what is nearest to each query, a JSON object a line
    Query(Query),
}

#[derive(Debug, Group)]
#[command(
    after_help = "A line of JSON Lines: {\"id\": \"a\", \"vector\": [0.1, -0.2], \"lang\": \"en\"}. What stands beside the id and \
                        the vector is kept for filters. Rows of a .npy array are named by their numbers, from 0."
)]
pub(crate) struct Build {
    /// The vectors: .npy ([n, dim], float16, float32 or float64) or JSON Lines
    pub(crate) vectors: PathBuf,
    /// The file to write; it appears whole at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// How vectors are compared
    #[arg(long, value_enum, default_value_t = Metric::Cosine)]
    pub(crate) metric: Metric,
    /// How what is near is found
    #[arg(long, value_enum, default_value_t = Kind::Quantized)]
    pub(crate) kind: Kind,
    /// A parameter of the kind: bits=8, m=32, lists=1000; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// How vectors are kept
    #[arg(long, value_enum, default_value_t = Storage::Float32)]
    pub(crate) storage: Storage,
    /// Replace OUT if it is there
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Bytes of vectors that are added at a time; the graph of hnsw follows from it
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    pub(crate) batch: u64,
    /// Print what was built as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Query {
    /// The index: of vectors, or of words as polmrs.rag.BM25 saves it
    pub(crate) index: PathBuf,
    /// The queries, as vectors of `polmrs search build`; for words, lines of text or JSON Lines with a text. Ids name them
    pub(crate) queries: PathBuf,
    /// How many hits a query has at most
    #[arg(short, long, value_name = "N", default_value_t = 10)]
    pub(crate) k: usize,
    /// A condition on metadata, as {"lang": "en", "year": {"$gte": 2020}}
    #[arg(long, value_name = "JSON")]
    pub(crate) filter: Option<String>,
    /// The lowest score that counts
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) min_score: Option<f32>,
    /// In place of ef_search of hnsw, or probes of ivf
    #[arg(long, value_name = "N")]
    pub(crate) effort: Option<usize>,
    /// Give the estimates of codes for scores, and read no full vector
    #[arg(long)]
    pub(crate) no_rescore: bool,
    /// Leave vectors or postings in the file, and read those that are looked at
    #[arg(long)]
    pub(crate) mmap: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Metric {
    Ip,
    Cosine,
    L2,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// Every vector: exact
    Flat,
    /// Codes of a few bits, then the vectors that may be among the best
    Quantized,
    /// A walk along a graph
    Hnsw,
    /// The lists around the nearest centres
    Ivf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Storage {
    Float32,
    Float16,
    Bfloat16,
}
