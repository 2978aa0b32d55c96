//! `polmrs merge` and `polmrs plan`.

use super::threads;
use crate::args::{Merge, Merging, Plan};
use crate::progress::shown;
use crate::text::{bytes, count};
use polmrs_core::{Ctl, Error, Result};
use polmrs_io::yaml;
use polmrs_merge::run::{Prepared, Settings};
use serde_json::Value as Json;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

pub(crate) fn merge(args: &Merge, ctl: &Ctl) -> Result<()> {
    let prepared = prepare(&args.merging, args.overwrite, args.allow_nonfinite)?;
    if !args.quiet {
        prepared.notes().iter().for_each(|note| eprintln!("note: {note}"));
    }
    let report = match shown(args.quiet, "merging", ctl, || prepared.run(&args.out, ctl)) {
        Err(Error::Cancelled) => {
            explain_remnant(&args.out);
            return Err(Error::Cancelled);
        }
        other => other?,
    };
    if args.merging.json {
        println!("{report}");
    } else {
        println!(
            "{}: {} parameters in {:.2} s",
            args.out.display(),
            count(report["output"]["parameters"].as_u64().unwrap_or(0)),
            report["seconds"].as_f64().unwrap_or(0.0)
        );
    }
    Ok(())
}

pub(crate) fn plan(args: &Plan) -> Result<()> {
    let described = prepare(&args.merging, false, false)?.describe();
    if args.merging.json {
        println!("{described}");
    } else {
        print!("{}", readable(&described));
    }
    Ok(())
}

fn prepare(args: &Merging, overwrite: bool, allow_nonfinite: bool) -> Result<Prepared> {
    let node = if args.config == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(Error::io("standard input", "read"))?;
        yaml::parse_one(&text, "standard input")?
    } else {
        yaml::read_one(&args.config)?
    };
    let settings = Settings {
        threads: threads(args.threads)?,
        shard_size: args.shard_size,
        seed: args.seed,
        overwrite,
        allow_nonfinite,
        lenient: args.lenient,
    };
    Prepared::new(&node, settings)
}

/// After Ctrl-C: what is left, and how to be rid of it.
fn explain_remnant(out: &Path) {
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    let files = std::fs::read_dir(&partial).into_iter().flatten().flatten();
    let left: u64 = files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
    let partial = Path::new(&partial).display();
    eprintln!("{partial} holds {} of unfinished work; the next run replaces it, or: rm -r '{partial}'", bytes(left));
}

/// The plan in a few lines.
fn readable(plan: &Json) -> String {
    let number = |value: &Json| value.as_u64().unwrap_or(0);
    let mut text = String::new();
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
    for note in plan["notes"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "note        {}", note.as_str().unwrap_or_default());
    }
    text
}
