//! `polmrs search build | query`: indexes of vectors without Python, and queries to those of words.

mod input;
mod words;

use crate::args::search::{Build, Kind, Metric, Query, Search, SearchVerb, Storage};
use crate::progress::shown;
use crate::text::bytes;
use input::Rows;
use polmrs_core::{Ctl, Dtype, Error, Result};
use polmrs_search::bm25::Bm25;
use polmrs_search::filter::Filter;
use polmrs_search::ids::Ids;
use polmrs_search::index::{self, Hits, Index, Settings};
use polmrs_search::metric;
use serde_json::{Map, Value as Json, json};

pub(crate) fn search(args: &Search, ctl: &Ctl) -> Result<()> {
    match &args.verb {
        SearchVerb::Build(args) => build(args, ctl),
        SearchVerb::Query(args) => query(args, ctl),
    }
}

fn build(args: &Build, ctl: &Ctl) -> Result<()> {
    if !args.overwrite && args.out.symlink_metadata().is_ok() {
        return Err(Error::Exists(format!("{}: exists; --overwrite replaces it", args.out.display())));
    }
    let kind = kind_of(args)?;
    let mut rows = Rows::open(&args.vectors)?;
    let settings = Settings {
        dim: rows.dim(),
        metric: match args.metric {
            Metric::Ip => metric::Metric::Ip,
            Metric::Cosine => metric::Metric::Cosine,
            Metric::L2 => metric::Metric::L2,
        },
        kind,
        storage: match args.storage {
            Storage::Float32 => Dtype::F32,
            Storage::Float16 => Dtype::F16,
            Storage::Bfloat16 => Dtype::BF16,
        },
    };
    let mut index = Index::new(settings)?;
    let most = usize::try_from(args.batch).unwrap_or(usize::MAX) / (4 * rows.dim()).max(1);
    shown(args.quiet, "indexing", ctl, || -> Result<()> {
        while let Some(batch) = rows.next(most.max(1))? {
            index.add(&batch.ids, &batch.vectors, &batch.metadata, ctl)?;
        }
        index.save(&args.out, ctl)
    })?;
    let size = args.out.metadata().map_err(Error::io(&args.out, "read"))?.len();
    if args.json {
        let told = json!({"schema": "polmrs.search/1", "vectors": index.len(), "dim": settings.dim, "bytes": size, "kind": kind});
        println!("{told}");
    } else {
        println!("{}: {} vectors of {}, {}", args.out.display(), index.len(), settings.dim, bytes(size));
    }
    Ok(())
}

/// The kind, with the parameters that were set.
fn kind_of(args: &Build) -> Result<index::Kind> {
    let name = match args.kind {
        Kind::Flat => "flat",
        Kind::Quantized => "quantized",
        Kind::Hnsw => "hnsw",
        Kind::Ivf => "ivf",
    };
    let mut fields = Map::new();
    fields.insert("kind".into(), name.into());
    for set in &args.set {
        let Some((key, value)) = set.split_once('=').filter(|(key, _)| *key != "kind") else {
            return Err(Error::Usage(format!("--set {set}: expected NAME=VALUE")));
        };
        fields.insert(key.into(), serde_json::from_str(value).unwrap_or_else(|_| value.into()));
    }
    index::Kind::from_json(Json::Object(fields))
}

fn query(args: &Query, ctl: &Ctl) -> Result<()> {
    let filter = args.filter.as_deref().map(|text| {
        let json = serde_json::from_str(text).map_err(|error| Error::Usage(format!("--filter: {error}")))?;
        Filter::parse(&json)
    });
    let filter = filter.transpose()?;
    if Bm25::is_at(&args.index)? {
        return words::query(args, filter.as_ref(), ctl);
    }
    let index = Index::open(&args.index, args.mmap, false, ctl)?;
    let mut queries = Rows::open(&args.queries)?;
    if queries.dim() != index.settings().dim {
        let (got, wanted) = (queries.dim(), index.settings().dim);
        let path = args.queries.display();
        return Err(Error::Array(format!("{path}: vectors of {got}, but those of the index are {wanted} long")));
    }
    while let Some(batch) = queries.next(4096)? {
        let wanted = index::Query {
            vectors: &batch.vectors,
            k: args.k,
            filter: filter.as_ref(),
            min_score: args.min_score,
            effort: args.effort,
            estimate: args.no_rescore,
        };
        print(&named(&batch.ids, 0..batch.ids.len()), &index.search(wanted, ctl)?);
    }
    Ok(())
}

/// A line for each query.
fn print(queries: &[Json], hits: &Hits) {
    for (query, span) in queries.iter().zip(hits.offsets.windows(2)) {
        let span = span[0] as usize..span[1] as usize;
        let ids = named(&hits.ids, span.clone());
        println!("{}", json!({"query": query, "ids": ids, "scores": hits.scores[span]}));
    }
}

fn named(ids: &Ids, range: std::ops::Range<usize>) -> Vec<Json> {
    match ids {
        Ids::Numbers(all) => all[range].iter().map(|id| (*id).into()).collect(),
        Ids::Texts(all) => all[range].iter().map(|id| (&**id).into()).collect(),
    }
}
