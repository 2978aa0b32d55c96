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
    let mut head = vec!["tensor", "|x-r|", "|x-r|/|r|", "cosine", "conflict", "kept", "nonfinite"];
    let outputs = report::has_outputs(&report);
    head.extend(outputs.then_some("output"));
    let shown: Vec<Vec<String>> = rows.iter().take(args.top).map(|row| cells(row, outputs)).collect();
    print!("{}", table(&head, &shown));
    if rows.len() > shown.len() {
        println!("... and {} more; --top N lists more", rows.len() - shown.len());
    }
    let (method, reference) = (&report["method"], &report["reference"]);
    println!("x: the result of {}, r: {}", text(method), text(reference));
    Ok(())
}

fn cells(row: &Json, outputs: bool) -> Vec<String> {
    let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    if row["copied"] == true {
        let copied = ["copied", "", "", "", "", ""].into_iter().chain(outputs.then_some(""));
        return [text(&row["name"])].into_iter().chain(copied.map(str::to_owned)).collect();
    }
    let mut cells = vec![
        text(&row["name"]),
        format!("{:.3e}", number("delta_norm")),
        format!("{:.3e}", number("relative")),
        format!("{:.8}", number("cosine")),
        format!("{:.2} %", 100.0 * number("sign_conflict")),
        format!("{:.2} %", 100.0 * number("kept")),
        format!("{}", row["nonfinite"].as_u64().unwrap_or(0)),
    ];
    let output = || row[report::OUTPUT].as_f64().map_or_else(String::new, |error| format!("{error:.3e}"));
    cells.extend(outputs.then(output));
    cells
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().into()
}
