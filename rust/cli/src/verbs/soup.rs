//! `polmrs soup`.

use super::merge::{building, merged, tell};
use super::scoring::{Scorer, explain_scored, goal};
use crate::args::Soup as Args;
use crate::text::table;
use polmrs_core::{Ctl, Result};
use polmrs_merge::run::Settings;
use polmrs_merge::soup::Soup;
use serde_json::Value as Json;

pub(crate) fn soup(args: &Args, ctl: &Ctl) -> Result<()> {
    let settings = Settings { build: building(&args.resources, &args.writing)?, ..Settings::default() };
    let greedy = if args.uniform {
        None
    } else {
        Some((goal(&args.scoring)?, Scorer::new(&args.scoring, args.writing.quiet, ctl)?))
    };
    let soup = Soup::new(&args.models, [args.dtype, args.out_dtype], settings)?;
    if !args.writing.quiet {
        soup.notes().iter().for_each(|note| eprintln!("note: {note}"));
    }
    let Some((goal, mut scorer)) = greedy else {
        let report = merged(&args.to, args.writing.quiet, ctl, || soup.uniform(&args.to, ctl))?;
        tell(&report, &args.to, args.resources.json);
        return Ok(());
    };
    let command = scorer.command.words().to_vec();
    let report = soup.greedy(&args.to, goal, &command, &mut scorer, ctl).inspect_err(|_| explain_scored(&args.to))?;
    if args.resources.json {
        println!("{report}");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = report["tried"].as_array().into_iter().flatten().map(cells).collect();
    print!("{}", table(&["model", "alone", "with it", ""], &rows));
    let members = report["members"].as_array().map_or(0, Vec::len);
    println!("{}: the average of {members} of {}, score {}", args.to.display(), rows.len(), report["score"]);
    Ok(())
}

fn cells(row: &Json) -> Vec<String> {
    let mark = if row["kept"] == true { "kept" } else { "" };
    let model = row["model"].as_str().unwrap_or_default();
    vec![model.to_owned(), row["alone"].to_string(), row["with_it"].to_string(), mark.to_owned()]
}
