//! `polmrs data pack`.

use super::input::Input;
use super::{check_outputs, write_whole};
use crate::args::data::Pack;
use crate::progress::shown;
use polmrs_batch::pack;
use polmrs_core::{Ctl, Result};
use serde_json::json;

pub(crate) fn pack(args: &Pack, ctl: &Ctl) -> Result<()> {
    check_outputs(&args.output)?;
    let input = Input::open(&args.input, args.format)?;
    let lengths = shown(args.output.quiet, "reading", ctl, || input.lengths(&args.field, ctl))?;
    let (strategy, too_long) = (args.strategy.into(), args.too_long.into());
    let packs = pack::pack(&lengths, args.capacity, strategy, too_long, args.seed)?;
    let rows: Vec<&[i64]> = packs.bounds.windows(2).map(|b| &packs.order[b[0] as usize..b[1] as usize]).collect();
    let tokens: i64 = packs.order.iter().map(|row| lengths[*row as usize]).sum();
    let fill = if rows.is_empty() { 0.0 } else { tokens as f64 / (rows.len() * args.capacity) as f64 };
    let report = json!({
        "schema": "polmrs.packs/1",
        "input": input.name(),
        "capacity": args.capacity,
        "strategy": args.strategy.name(),
        "seed": args.seed,
        "documents": input.len(),
        "tokens": tokens,
        "fill": fill,
        "dropped": packs.dropped.iter().map(|row| input.place(*row as usize)).collect::<Vec<_>>(),
        "packs": rows,
    });
    let text = format!("{report}\n");
    if let (Some(out), false) = (&args.output.out, args.output.dry_run) {
        write_whole(out, &[text.as_bytes()], args.output.overwrite)?;
    }
    if let Some(path) = &args.output.report {
        write_whole(path, &[text.as_bytes()], args.output.overwrite)?;
    }
    if args.output.json {
        print!("{text}");
    } else {
        let (name, all, packs, fill) = (input.name(), input.len(), rows.len(), 100.0 * fill);
        println!("{name}: {all} sequences in {packs} packs of {}, {fill:.2} % full", args.capacity);
    }
    Ok(())
}
