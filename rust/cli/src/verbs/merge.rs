//! `polmrs merge` and `polmrs plan`.

use super::threads;
use crate::args::{Merge, Merging, Plan};
use crate::progress::shown;
use crate::text::{bytes, count};
use polmrs_core::{Ctl, Error, Result};
use polmrs_io::yaml::{self, Node};
use polmrs_merge::chain::Chain;
use polmrs_merge::run::Settings;
use polmrs_model::build;
use serde_json::Value as Json;
use std::fmt::Write;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub(crate) fn merge(args: &Merge, ctl: &Ctl) -> Result<()> {
    if let Some(step) = &args.then {
        return super::then::merge(args, step, ctl);
    }
    if !args.sweep.is_empty() {
        return super::sweep::sweep(args, ctl);
    }
    if args.scoring.score.is_some() {
        return Err(Error::Usage("--score: is for --sweep NAME=VALUE,VALUE".into()));
    }
    let prepared = Chain::new(&read(&args.merging)?, settings(args)?, None)?;
    if !args.quiet {
        prepared.notes().iter().for_each(|note| eprintln!("note: {note}"));
    }
    let report = match shown(args.quiet, "merging", ctl, || prepared.run(&args.out, ctl)) {
        Err(error @ (Error::Cancelled | Error::Io { .. })) => {
            explain_remnant(&args.out);
            return Err(error);
        }
        other => other?,
    };
    if args.merging.json {
        println!("{report}");
    } else {
        let resumed = match report["resumed_tensors"].as_u64() {
            Some(0) | None => String::new(),
            Some(count) => format!(", {count} tensors from an earlier run"),
        };
        println!(
            "{}: {} parameters in {:.2} s{resumed}{}",
            args.out.display(),
            count(report["output"]["parameters"].as_u64().unwrap_or(0)),
            report["seconds"].as_f64().unwrap_or(0.0),
            if report["verified"] == true { ", verified" } else { "" },
        );
    }
    Ok(())
}

pub(crate) fn plan(args: &Plan) -> Result<()> {
    let described = Chain::new(&read(&args.merging)?, planning(&args.merging)?, None)?.describe()?;
    if args.merging.json {
        println!("{described}");
    } else {
        print!("{}", readable(&described));
    }
    Ok(())
}

/// The configuration that was named.
pub(super) fn read(args: &Merging) -> Result<Vec<Node>> {
    if args.config != Path::new("-") {
        return yaml::read(&args.config);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(Error::io("standard input", "read"))?;
    yaml::parse(&text, "standard input")
}

fn planning(args: &Merging) -> Result<Settings> {
    let build = build::Settings {
        threads: threads(args.threads)?,
        shard_size: args.shard_size,
        max_memory: args.max_memory,
        ..build::Settings::default()
    };
    Ok(Settings { build, seed: args.seed, lenient: args.lenient })
}

/// How the arguments ask for a merge to be run.
pub(super) fn settings(args: &Merge) -> Result<Settings> {
    let planned = planning(&args.merging)?;
    let build = build::Settings {
        overwrite: args.overwrite,
        resume: args.resume,
        sync_every: args.sync_every,
        verify: args.verify,
        report: args.report,
        allow_nonfinite: args.allow_nonfinite,
        ..planned.build
    };
    Ok(Settings { build, ..planned })
}

/// After Ctrl-C or a full disk: what is left, if anything, and what can be done with it.
pub(super) fn explain_remnant(out: &Path) {
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    let files = std::fs::read_dir(&partial).into_iter().flatten().flatten();
    let left: u64 = files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum();
    if left > 0 {
        let partial = Path::new(&partial).display();
        let size = bytes(left);
        eprintln!(
            "{partial} holds {size} of unfinished work: --resume goes on with it, a run without replaces it, or: rm -r '{partial}'"
        );
    }
    let mut parts = out.as_os_str().to_owned();
    parts.push(".parts");
    let parts = Path::new(&parts);
    if parts.exists() {
        let parts = parts.display();
        eprintln!("{parts} holds intermediate results: the next run uses those that are whole, or: rm -r '{parts}'");
    }
}

/// The plan in a few lines.
pub(super) fn readable(plan: &Json) -> String {
    let number = |value: &Json| value.as_u64().unwrap_or(0);
    let mut text = String::new();
    for document in plan["documents"].as_array().into_iter().flatten() {
        let (name, method) =
            (document["name"].as_str().unwrap_or_default(), document["method"].as_str().unwrap_or_default());
        let size = bytes(number(&document["disk_bytes"]));
        let _ = writeln!(text, "first       {name}  {method}, {size} beside the output until the end");
    }
    let _ = writeln!(text, "method      {}", plan["method"].as_str().unwrap_or_default());
    for input in plan["inputs"].as_array().into_iter().flatten() {
        let role = if input["base"] == true { "  (base)" } else { "" };
        let (tensors, size) = (number(&input["tensors"]), bytes(number(&input["bytes"])));
        let _ = writeln!(
            text,
            "input       {}  {tensors} tensors, {size}{role}",
            input["model"].as_str().unwrap_or_default()
        );
    }
    let output = &plan["output"];
    let (parameters, dtype) = (count(number(&output["parameters"])), output["dtype"].as_str().unwrap_or("-"));
    let _ = writeln!(text, "output      {} tensors, {parameters} parameters, {dtype}", number(&output["tensors"]));
    for file in output["files"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "file        {}  {}",
            file["name"].as_str().unwrap_or_default(),
            bytes(number(&file["bytes"]))
        );
    }
    let _ = writeln!(
        text,
        "reads       {}, in at most {} passes",
        bytes(number(&plan["input_bytes"])),
        number(&plan["passes"])
    );
    let _ = writeln!(text, "disk        {}", bytes(number(&plan["disk_bytes"])));
    let (memory, threads) = (bytes(number(&plan["peak_memory_bytes"])), number(&plan["threads"]));
    let _ = writeln!(text, "memory      {memory} of buffers on {threads} threads");
    let workspace = &plan["workspace"];
    if let Some(tensor) = workspace["tensor"].as_str() {
        let _ = writeln!(text, "workspace   {} for a block of {tensor}", bytes(number(&workspace["bytes"])));
    }
    for note in plan["notes"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "note        {}", note.as_str().unwrap_or_default());
    }
    text
}
