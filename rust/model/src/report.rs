//! `polmrs_report.json`: what the work did to every tensor, and which of them to look at first.

use polmrs_core::error::did_you_mean;
use polmrs_core::{Error, Result};
use polmrs_engine::durable::Record;
use polmrs_engine::source::Meta;
use serde_json::{Map, Value as Json, json};
use std::cmp::Ordering;
use std::fs;
use std::path::Path;

/// Its name in the output folder.
pub const FILE: &str = "polmrs_report.json";

const SCHEMA: &str = "polmrs.report/1";

/// What a report knows of a tensor, and by what it can be sorted: the key, and what it is.
pub const COLUMNS: [(&str, &str); 7] = [
    ("delta_norm", "the norm of the result less the reference"),
    ("relative", "that, over the norm of the reference"),
    ("cosine", "the cosine of the angle between result and reference"),
    ("sign_conflict", "the share of elements that one model moves up and another down"),
    ("kept", "the share of elements that differ from the reference"),
    ("nonfinite", "how many elements are NaN or infinite"),
    (OUTPUT, "the error of a layer's output, over the norm of the output"),
];

/// The column that a report has only where the inputs of layers were known.
pub const OUTPUT: &str = "output";

/// The report of one piece of work; `reference` is what the tensors are compared with.
pub fn write(method: &str, reference: &str, outputs: &[Meta], records: &[Record]) -> Json {
    let tensors: Vec<Json> = outputs.iter().zip(records).map(|(meta, record)| tensor(meta, record)).collect();
    json!({
        "schema": SCHEMA, "polmrs": env!("CARGO_PKG_VERSION"), "method": method, "reference": reference,
        "tensors": tensors,
    })
}

fn tensor(meta: &Meta, record: &Record) -> Json {
    let mut row = Map::new();
    row.insert("name".into(), meta.name.as_str().into());
    row.insert("dtype".into(), meta.dtype.torch_name().into());
    row.insert("shape".into(), meta.shape.as_slice().into());
    if let Some(seen) = &record.row {
        row.insert("copied".into(), seen.is_null().into());
        let there = |key: &str| key != OUTPUT || seen.get(key).is_some();
        let columns = COLUMNS.iter().filter(|(key, _)| there(key));
        columns.for_each(|(key, _)| drop(row.insert((*key).into(), seen[*key].clone())));
    }
    if let Some(digest) = &record.digest {
        row.insert("blake3".into(), digest.as_str().into());
    }
    Json::Object(row)
}

/// Reads the report of an output folder.
///
/// # Errors
/// [`Error::NotFound`] if there is none, [`Error::Checkpoint`] if it is no report, or one of digests alone.
pub fn read(out: &Path) -> Result<Json> {
    let path = out.join(FILE);
    let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::NotFound(format!("{}: not there; run with --report to have it", path.display()))
        }
        _ => Error::io(&path, "read")(error),
    })?;
    let bad = |rule: String| Error::Checkpoint(format!("{}: {rule}", path.display()));
    let report: Json = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if report["schema"] != SCHEMA {
        return Err(bad(format!("schema: {} is not \"{SCHEMA}\"", report["schema"])));
    }
    let surveyed = |row: &Json| row.get(COLUMNS[0].0).is_some();
    match report["tensors"].as_array() {
        Some(tensors) if tensors.iter().all(surveyed) => Ok(report),
        _ => Err(bad("holds digests only; run with --report to have the rest".into())),
    }
}

/// Whether any row says what happened to a layer's output.
pub fn has_outputs(report: &Json) -> bool {
    report["tensors"].as_array().is_some_and(|rows| rows.iter().any(|row| row.get(OUTPUT).is_some()))
}

/// The rows of a report, the worst first: the largest of `key`, but the smallest cosine. Copied tensors come last, and those
/// without what only layers have.
pub fn worst<'a>(report: &'a Json, key: &str) -> Result<Vec<&'a Json>> {
    if !COLUMNS.iter().any(|(column, _)| *column == key) {
        let columns = COLUMNS.map(|(column, _)| column);
        let hint = did_you_mean(key, columns);
        return Err(Error::Usage(format!("'{key}' is not one of {}{hint}", columns.join(", "))));
    }
    if key == OUTPUT && !has_outputs(report) {
        return Err(Error::Usage("'output' is not in this report; quantize with --stats to have it".into()));
    }
    let sign = if key == "cosine" { -1.0 } else { 1.0 };
    let rank = |row: &Json| {
        let without = row["copied"] == true || row.get(key).is_none();
        let value = if without { f64::NEG_INFINITY } else { row[key].as_f64().map_or(f64::INFINITY, |x| sign * x) };
        (value, row["name"].as_str().unwrap_or_default().to_owned())
    };
    let mut rows: Vec<&Json> = report["tensors"].as_array().into_iter().flatten().collect();
    rows.sort_by(|a, b| {
        let ((a, a_name), (b, b_name)) = (rank(a), rank(b));
        b.partial_cmp(&a).unwrap_or(Ordering::Equal).then(a_name.cmp(&b_name))
    });
    Ok(rows)
}
