//! `polmrs inspect`.

use super::threads;
use crate::args::Inspect;
use crate::progress::shown;
use crate::text::{bytes, count, table};
use polmrs_core::{Ctl, Result};
use polmrs_engine::measure::{Statistics, statistics};
use polmrs_engine::source::{CheckpointSource, Meta, Source};
use polmrs_io::safetensors::Checkpoint;
use serde_json::json;
use std::collections::BTreeMap;

pub(crate) fn inspect(args: &Inspect, ctl: &Ctl) -> Result<()> {
    let source = CheckpointSource::new(args.path.display().to_string(), Checkpoint::open(&args.path)?);
    let stats = if args.stats {
        shown(false, "reading", ctl, || statistics(&source, threads(args.threads)?, ctl))?
    } else {
        Vec::new()
    };
    let stats: BTreeMap<&str, &Statistics> = stats.iter().map(|stats| (stats.name.as_str(), stats)).collect();
    if args.json {
        println!("{}", as_json(&source, &stats));
        return Ok(());
    }
    let tensors = source.tensors();
    if args.tensors || args.stats {
        print!("{}", every(tensors, &stats));
    } else {
        print!("{}", by_kind(tensors));
    }
    let (parameters, size) = (tensors.iter().map(Meta::elements).sum(), tensors.iter().map(Meta::nbytes).sum());
    let files = source.checkpoint().files().count();
    println!("{} tensors, {} parameters, {} in {files} file(s)", tensors.len(), count(parameters), bytes(size));
    Ok(())
}

fn every(tensors: &[Meta], stats: &BTreeMap<&str, &Statistics>) -> String {
    let mut header = vec!["tensor", "type", "shape"];
    if !stats.is_empty() {
        header.extend(["mean", "std", "abs max", "zeros", "non-finite"]);
    }
    let rows: Vec<Vec<String>> = tensors
        .iter()
        .map(|meta| {
            let mut row = vec![meta.name.clone(), meta.dtype.name().into(), format!("{:?}", meta.shape)];
            match stats.get(meta.name.as_str()) {
                Some(s) => row.extend([
                    format!("{:.3e}", s.mean),
                    format!("{:.3e}", s.std),
                    format!("{:.3e}", s.abs_max),
                    s.zeros.to_string(),
                    s.nonfinite.to_string(),
                ]),
                None => row.resize(header.len(), "-".into()),
            }
            row
        })
        .collect();
    table(&header, &rows)
}

/// One row for all tensors whose names differ in numbers only.
fn by_kind(tensors: &[Meta]) -> String {
    let mut kinds: Vec<(String, &Meta, usize)> = Vec::new();
    for meta in tensors {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let kind: Vec<&str> = meta.name.split('.').map(|part| if is_number(part) { "*" } else { part }).collect();
        let kind = kind.join(".");
        match kinds.iter_mut().find(|(k, m, _)| *k == kind && m.shape == meta.shape && m.dtype == meta.dtype) {
            Some((_, _, times)) => *times += 1,
            None => kinds.push((kind, meta, 1)),
        }
    }
    let row = |(kind, meta, times): (String, &Meta, usize)| {
        vec![kind, meta.dtype.name().into(), format!("{:?}", meta.shape), times.to_string()]
    };
    table(&["tensor", "type", "shape", "times"], &kinds.into_iter().map(row).collect::<Vec<_>>())
}

fn as_json(source: &CheckpointSource, stats: &BTreeMap<&str, &Statistics>) -> serde_json::Value {
    let tensors: Vec<_> = source
        .tensors()
        .iter()
        .map(|meta| {
            let mut row = json!({"name": meta.name, "dtype": meta.dtype.name(), "shape": meta.shape});
            if let Some(s) = stats.get(meta.name.as_str()) {
                row["mean"] = s.mean.into();
                row["std"] = s.std.into();
                row["abs_max"] = s.abs_max.into();
                row["zeros"] = s.zeros.into();
                row["nonfinite"] = s.nonfinite.into();
            }
            row
        })
        .collect();
    let checkpoint = source.checkpoint();
    json!({
        "schema": "polmrs.inspect/1",
        "files": checkpoint.files().map(|file| file.display().to_string()).collect::<Vec<_>>(),
        "metadata": checkpoint.metadata(),
        "unlisted": checkpoint.unlisted(),
        "tensors": tensors,
    })
}
