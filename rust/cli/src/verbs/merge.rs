//! `polmrs merge` and `polmrs plan`.

use super::threads;
use crate::args::{Merge, Merging, Plan, Resources, Writing};
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
    if !args.writing.quiet {
        prepared.notes().iter().for_each(|note| eprintln!("note: {note}"));
    }
    let report = merged(&args.out, args.writing.quiet, ctl, || prepared.run(&args.out, ctl))?;
    tell(&report, &args.out, args.merging.resources.json);
    Ok(())
}

/// Runs what writes a folder, with its progress; after an interruption, says what is left.
pub(super) fn merged<T>(out: &Path, quiet: bool, ctl: &Ctl, work: impl FnOnce() -> Result<T>) -> Result<T> {
    shown(quiet, "merging", ctl, work).inspect_err(|error| {
        if matches!(error, Error::Cancelled | Error::Io { .. }) {
            explain_remnant(out);
        }
    })
}

/// Prints the report of a merge.
pub(super) fn tell(report: &Json, out: &Path, json: bool) {
    if json {
        println!("{report}");
        return;
    }
    let resumed = match report["resumed_tensors"].as_u64() {
        Some(0) | None => String::new(),
        Some(count) => format!(", {count} tensors from an earlier run"),
    };
    println!(
        "{}: {} parameters in {:.2} s{resumed}{}",
        out.display(),
        count(report["output"]["parameters"].as_u64().unwrap_or(0)),
        report["seconds"].as_f64().unwrap_or(0.0),
        if report["verified"] == true { ", verified" } else { "" },
    );
    if let Some(lost) = report["adapter"]["lost"].as_object() {
        let percent = |key: &str| 100.0 * lost[key].as_f64().unwrap_or(0.0);
        println!(
            "rank {}: {:.2} % of the changes' squared norm left out on average, at most {:.2} % in {}{}",
            report["adapter"]["rank"],
            percent("mean"),
            percent("most"),
            lost["module"].as_str().unwrap_or_default(),
            if lost["of"] == report["adapter"]["modules"] { "" } else { " (of the modules made in this run)" },
        );
    }
}

pub(crate) fn plan(args: &Plan) -> Result<()> {
    let described = Chain::new(&read(&args.merging)?, planning(&args.merging)?, None)?.describe()?;
    if args.merging.resources.json {
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
    Ok(Settings { build: resources(&args.resources)?, seed: args.seed, lenient: args.lenient })
}

fn resources(args: &Resources) -> Result<build::Settings> {
    Ok(build::Settings {
        threads: threads(args.threads)?,
        shard_size: args.shard_size,
        max_memory: args.max_memory,
        ..build::Settings::default()
    })
}

/// How the arguments ask for a merge to be run.
pub(super) fn settings(args: &Merge) -> Result<Settings> {
    Ok(Settings { build: building(&args.merging.resources, &args.writing)?, ..planning(&args.merging)? })
}

/// How the arguments ask for a folder to be written.
pub(super) fn building(planned: &Resources, args: &Writing) -> Result<build::Settings> {
    Ok(build::Settings {
        overwrite: args.overwrite,
        resume: args.resume,
        sync_every: args.sync_every,
        verify: args.verify,
        report: args.report,
        allow_nonfinite: args.allow_nonfinite,
        ..resources(planned)?
    })
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
        eprintln!(
            "{parts} holds intermediate results: the next run uses those that are whole, and with --resume goes on with the others, or: rm -r '{parts}'"
        );
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
    if let Some(adapter) = plan["adapter"].as_object() {
        let (way, rank, modules) = (&adapter["combination_type"], &adapter["rank"], &adapter["modules"]);
        let _ = writeln!(text, "adapter     rank {rank} by {}, {modules} modules", way.as_str().unwrap_or_default());
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
