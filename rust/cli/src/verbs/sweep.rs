//! `polmrs merge --sweep`.

use super::merge::{read, settings};
use super::scoring::{Scorer, explain_scored, goal};
use crate::args::Merge;
use crate::text::table;
use polmrs_core::{Ctl, Result};
use polmrs_merge::sweep::{Over, Sweep};
use serde_json::Value as Json;

pub(super) fn sweep(args: &Merge, ctl: &Ctl) -> Result<()> {
    let goal = goal(&args.scoring)?;
    let mut scorer = Scorer::new(&args.scoring, args.writing.quiet, ctl)?;
    let over = args.sweep.iter().map(|text| Over::parse(text)).collect::<Result<Vec<_>>>()?;
    let sweep = Sweep::new(&read(&args.merging)?, &over, settings(args)?)?;
    if !args.writing.quiet {
        sweep.notes().iter().for_each(|note| eprintln!("note: {note}"));
    }
    let command = scorer.command.words().to_vec();
    let report = sweep.run(&args.out, goal, &command, &mut scorer, ctl).inspect_err(|_| explain_scored(&args.out))?;
    if args.merging.resources.json {
        println!("{report}");
        return Ok(());
    }
    let header: Vec<&str> = over.iter().map(|one| one.name.as_str()).chain(["score", ""]).collect();
    let best = report["best"]["candidate"].as_u64();
    let candidates = report["candidates"].as_array().into_iter().flatten().zip(0..);
    let rows: Vec<Vec<String>> = candidates.map(|(row, at)| cells(row, best == Some(at))).collect();
    print!("{}", table(&header, &rows));
    println!("{}: the best of {}", args.out.display(), rows.len());
    Ok(())
}

fn cells(row: &Json, best: bool) -> Vec<String> {
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let values = row["parameters"].as_object().into_iter().flat_map(|map| map.values());
    let mark = if best { "best" } else { "" };
    values.chain([&row["score"]]).map(text).chain([mark.to_owned()]).collect()
}
