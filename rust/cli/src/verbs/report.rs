//! `polmrs report`.

use crate::args::Report;
use crate::text::table;
use polmrs_core::{Error, Result};
use polmrs_model::report;
use serde_json::Value as Json;

pub(crate) fn report(args: &Report) -> Result<()> {
    if args.png.is_some() {
        return Err(Error::Usage("--png: the Python package draws it; here, leave it out".into()));
    }
    let report = report::read(&args.out)?;
    if args.json {
        println!("{report}");
        return Ok(());
    }
    let rows = report::worst(&report, &args.by)?;
    let shown: Vec<Vec<String>> = rows.iter().take(args.top).map(|row| cells(row)).collect();
    print!("{}", table(&["tensor", "|x-r|", "|x-r|/|r|", "cosine", "conflict", "kept", "nonfinite"], &shown));
    if rows.len() > shown.len() {
        println!("... and {} more; --top N lists more", rows.len() - shown.len());
    }
    let (method, reference) = (&report["method"], &report["reference"]);
    println!("x: the result of {}, r: {}", text(method), text(reference));
    Ok(())
}

fn cells(row: &Json) -> Vec<String> {
    let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    if row["copied"] == true {
        let copied = ["copied", "", "", "", "", ""].map(str::to_owned);
        return [text(&row["name"])].into_iter().chain(copied).collect();
    }
    vec![
        text(&row["name"]),
        format!("{:.3e}", number("delta_norm")),
        format!("{:.3e}", number("relative")),
        format!("{:.8}", number("cosine")),
        format!("{:.2} %", 100.0 * number("sign_conflict")),
        format!("{:.2} %", 100.0 * number("kept")),
        format!("{}", row["nonfinite"].as_u64().unwrap_or(0)),
    ]
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().into()
}
