//! `polmrs diff`.

use super::threads;
use crate::args::Diff;
use crate::progress::shown;
use crate::text::table;
use polmrs_core::{Ctl, Result};
use polmrs_engine::measure::{Difference, differences, mismatches, require_common};
use polmrs_model::folder::tensors;
use serde_json::json;

pub(crate) fn diff(args: &Diff, ctl: &Ctl) -> Result<()> {
    let (a, b) = (tensors(&args.a)?, tensors(&args.b)?);
    let (a, b) = (a.as_ref(), b.as_ref());
    require_common(a, b)?;
    let mut rows = shown(false, "comparing", ctl, || differences(a, b, threads(args.threads)?, ctl))?;
    let mismatched = mismatches(a, b);
    rows.sort_by(|x, y| y.relative.total_cmp(&x.relative).then_with(|| x.name.cmp(&y.name)));
    if args.json {
        println!("{}", as_json(&rows, &mismatched));
        return Ok(());
    }
    let differing: Vec<&Difference> = rows.iter().filter(|row| row.changed > 0).collect();
    if !differing.is_empty() {
        let cells = |row: &&Difference| {
            vec![
                row.name.clone(),
                format!("{:.3e}", row.relative),
                format!("{:.3e}", row.max_abs),
                format!("{:.8}", row.cosine),
                format!("{:.2} %", 100.0 * row.changed as f64 / row.elements.max(1) as f64),
            ]
        };
        let shown: Vec<Vec<String>> = differing.iter().take(args.top).map(cells).collect();
        print!("{}", table(&["tensor", "|b-a|/|a|", "max |b-a|", "cosine", "changed"], &shown));
    }
    if differing.len() > args.top {
        println!("... and {} more; --top N lists more", differing.len() - args.top);
    }
    mismatched.iter().for_each(|sentence| println!("{sentence}"));
    println!("{} of {} shared tensors differ", differing.len(), rows.len());
    Ok(())
}

fn as_json(rows: &[Difference], mismatched: &[String]) -> serde_json::Value {
    let row = |row: &Difference| {
        json!({
            "name": row.name, "elements": row.elements, "changed": row.changed,
            "max_abs": row.max_abs, "relative": row.relative, "cosine": row.cosine,
        })
    };
    json!({
        "schema": "polmrs.diff/1",
        "tensors": rows.iter().map(row).collect::<Vec<_>>(),
        "mismatches": mismatched,
    })
}
