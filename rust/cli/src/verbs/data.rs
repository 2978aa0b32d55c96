//! `polmrs data dedup | decontaminate | pack | tokenize`: what stays of a data set, and why the rest went.

mod decontaminate;
mod dedup;
mod input;
mod pack;
mod tokenize;

use crate::args::data::{Data, DataVerb, Output};
use polmrs_core::{Ctl, Error, Result};
use polmrs_io::whole::{beside, folder_of, settle};
use serde_json::Value as Json;
use std::io::Write;
use std::path::Path;

pub(crate) fn data(args: &Data, ctl: &Ctl) -> Result<()> {
    match &args.verb {
        DataVerb::Dedup(args) => dedup::dedup(args, ctl),
        DataVerb::Decontaminate(args) => decontaminate::decontaminate(args, ctl),
        DataVerb::Pack(args) => pack::pack(args, ctl),
        DataVerb::Tokenize(args) => tokenize::tokenize(args, ctl),
    }
}

/// Refuses outputs that are there, before any work is done.
fn check_outputs(output: &Output) -> Result<()> {
    let wanted = [output.out.as_deref().filter(|_| !output.dry_run), output.report.as_deref()];
    for path in wanted.into_iter().flatten() {
        if !output.overwrite && path.symlink_metadata().is_ok() {
            return Err(Error::Exists(format!("{}: exists; --overwrite replaces it", path.display())));
        }
        let folder = folder_of(path);
        if !folder.is_dir() {
            return Err(Error::NotFound(format!("{}: no such folder", folder.display())));
        }
    }
    if output.out.is_some() && output.out == output.report {
        return Err(Error::Usage("--out, --report: the same file".into()));
    }
    Ok(())
}

/// Writes a file that appears whole.
fn write_whole(path: &Path, parts: &[&[u8]], overwrite: bool) -> Result<()> {
    let mut file = std::io::BufWriter::new(beside(path)?);
    let written = parts.iter().try_for_each(|part| file.write_all(part));
    written.map_err(Error::io(path, "write"))?;
    let file = file.into_inner().map_err(|error| Error::io(path, "write")(error.into_error()))?;
    file.as_file().sync_all().map_err(Error::io(path, "write"))?;
    settle(file, path, overwrite)
}

/// The report, where it was asked for; a sentence otherwise.
fn tell(output: &Output, report: &Json, sentence: &str) -> Result<()> {
    if let Some(path) = &output.report {
        write_whole(path, &[format!("{report:#}\n").as_bytes()], output.overwrite)?;
    }
    if output.json {
        println!("{report}");
    } else {
        println!("{sentence}{}", if output.dry_run { " (dry run: nothing written)" } else { "" });
    }
    Ok(())
}
