//! `polmrs quantize`.

use super::merge::{explain_remnant, readable};
use super::threads;
use crate::args::quantize::Quantize;
use crate::progress::shown;
use crate::text::count;
use polmrs_core::{Ctl, Error, Result};
use polmrs_model::build::Settings;
use polmrs_quant::program::Config;
use polmrs_quant::run::Prepared;
use std::fmt::Write;
use std::path::Path;

pub(crate) fn quantize(args: &Quantize, ctl: &Ctl) -> Result<()> {
    let prepared = Prepared::new(&args.source, config(args)?, settings(args)?)?;
    let Some(out) = args.out.as_deref().filter(|_| !args.plan) else {
        let described = prepared.describe();
        if args.json {
            println!("{described}");
        } else {
            print!("{}", readable(&described));
        }
        return Ok(());
    };
    if !args.quiet {
        prepared.notes().iter().for_each(|note| eprintln!("note: {note}"));
    }
    run(args, &prepared, out, ctl)
}

/// Quantizes, and says what came of it.
pub(super) fn run(args: &Quantize, prepared: &Prepared, out: &Path, ctl: &Ctl) -> Result<()> {
    let report = match shown(args.quiet, "quantizing", ctl, || prepared.run(out, ctl)) {
        Err(error @ (Error::Cancelled | Error::Io { .. })) => {
            explain_remnant(out);
            return Err(error);
        }
        other => other?,
    };
    if args.json {
        println!("{report}");
        return Ok(());
    }
    let resumed = match report["resumed_tensors"].as_u64() {
        Some(0) | None => String::new(),
        Some(count) => format!(", {count} tensors from an earlier run"),
    };
    println!(
        "{}: {} parameters, {} layers at {:.2} bits a weight, in {:.2} s{resumed}{}",
        out.display(),
        count(report["output"]["parameters"].as_u64().unwrap_or(0)),
        report["quantized"],
        report["bits_per_weight"].as_f64().unwrap_or(0.0),
        report["seconds"].as_f64().unwrap_or(0.0),
        if report["verified"] == true { ", verified" } else { "" },
    );
    Ok(())
}

pub(super) fn config(args: &Quantize) -> Result<Config> {
    let mut scheme = args.scheme.clone();
    if let Some(group) = &args.group {
        let _ = write!(scheme, " group={group}");
    }
    scheme.push_str(if args.asym { " asym" } else { "" });
    scheme.push_str(if args.double { " double" } else { "" });
    Config::parse(
        &scheme,
        &args.method,
        args.format.as_deref(),
        &args.exclude,
        &args.rules,
        args.compat,
        args.stats.as_deref(),
    )
}

pub(super) fn settings(args: &Quantize) -> Result<Settings> {
    Ok(Settings {
        threads: threads(args.threads)?,
        shard_size: args.shard_size,
        max_memory: args.max_memory,
        overwrite: args.overwrite,
        resume: args.resume,
        sync_every: args.sync_every,
        verify: args.verify,
        report: args.report || args.stats.is_some(),
        ..Settings::default()
    })
}
