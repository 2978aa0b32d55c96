//! `polmrs merge --then 'quantize ..'`: the merge goes into a folder beside the output, and the next step reads it there.
//!
//! The next step is planned on the merge's headers before anything is written, so what it refuses costs no merge. The
//! result is that of the two commands, bit for bit. The folder between them, `OUT.then-PID`, is gone at the end, however it
//! ends: a run that is interrupted starts over.

use super::merge::{read, settings};
use super::quantize;
use crate::args::quantize::Quantize;
use crate::args::{Args, Merge, Verb};
use crate::progress::shown;
use clap::Parser;
use polmrs_core::{Ctl, Error, Result};
use polmrs_io::output;
use polmrs_merge::chain::Chain;
use polmrs_model::build;
use polmrs_quant::run::Prepared;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What the merge is called between the steps, in the card too.
const NAME: &str = "merged";

pub(crate) fn merge(args: &Merge, step: &str, ctl: &Ctl) -> Result<()> {
    let asked = parse(step, args)?;
    let chain = Chain::new(&read(&args.merging)?, settings(args)?, None)?;
    let settings = build::Settings { overwrite: args.writing.overwrite, ..quantize::settings(&asked)? };
    let planned = Prepared::of(chain.announced(NAME)?, NAME, quantize::config(&asked)?, settings.clone())?;
    if !asked.quiet {
        let notes = chain.notes().into_iter().chain(planned.notes().iter().cloned());
        notes.for_each(|note| eprintln!("note: {note}"));
    }
    chain.refuse_inputs(&args.out)?;
    output::check(&args.out, args.writing.overwrite)?;
    let between = Between::new(&args.out)?;
    let merged = between.0.join(NAME);
    shown(asked.quiet, "merging", ctl, || chain.run(&merged, ctl))?;
    let prepared = Prepared::new(&merged.to_string_lossy(), quantize::config(&asked)?, settings)?;
    quantize::run(&asked, &prepared, &args.out, ctl)
}

/// The step's arguments, with those of the merge that hold for both.
fn parse(step: &str, args: &Merge) -> Result<Quantize> {
    let mut words: Vec<OsString> = vec!["polmrs".into()];
    let split = shlex::split(step).ok_or_else(|| Error::Usage(format!("then: a quote in \"{step}\" is not closed")))?;
    words.extend(split.into_iter().map(OsString::from));
    if words.get(1).is_none_or(|verb| verb != "quantize") {
        return Err(Error::Usage(format!("then: '{step}': the step that may follow is quantize")));
    }
    words.splice(2..2, [OsString::from(NAME), args.out.clone().into()]);
    let parsed = Args::try_parse_from(words).map_err(|error| {
        let rule = error.to_string();
        let rule = rule.strip_prefix("error: ").unwrap_or(&rule);
        Error::Usage(format!("then: {}", rule.lines().next().unwrap_or_default()))
    })?;
    let Verb::Quantize(mut asked) = parsed.verb else {
        return Err(Error::Internal(format!("then: '{step}' is another verb")));
    };
    asked.threads = asked.threads.or(args.merging.resources.threads);
    asked.max_memory = asked.max_memory.or(args.merging.resources.max_memory);
    asked.shard_size = asked.shard_size.min(args.merging.resources.shard_size);
    asked.verify |= args.writing.verify;
    asked.report |= args.writing.report;
    asked.json |= args.merging.resources.json;
    asked.quiet |= args.writing.quiet;
    Ok(*asked)
}

/// A folder beside the output that goes when this is dropped.
struct Between(PathBuf);

impl Between {
    fn new(out: &Path) -> Result<Between> {
        let out = output::resolve(out)?;
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(format!(".then-{}", std::process::id()));
        let folder = out.with_file_name(name);
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder, "create"))?;
        Ok(Between(folder))
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // what led here is the one to tell
    }
}
