//! `polmrs merge --then 'quantize ..'`: the merge goes into `OUT.parts`, and the next step reads it there.
//!
//! The next step is planned on the merge's headers before anything is written, so what it refuses costs no merge. The
//! result is that of the two commands, bit for bit. A run that is interrupted leaves the merge, or with `--resume` what there
//! is of it, for the next; otherwise `OUT.parts` is gone at the end.

use super::merge::{merged, read, settings};
use super::quantize;
use crate::args::quantize::Quantize;
use crate::args::{Args, Merge, Verb};
use clap::Parser;
use polmrs_core::{Ctl, Error, Result};
use polmrs_merge::chain::Chain;
use polmrs_model::build;
use polmrs_quant::run::Prepared;
use std::ffi::OsString;

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
    let merged = merged(&args.out, asked.quiet, ctl, || chain.run_beside(&args.out, NAME, ctl))?;
    let done = Prepared::new(&merged.folder().to_string_lossy(), quantize::config(&asked)?, settings)
        .and_then(|prepared| quantize::run(&asked, &prepared, &args.out, ctl));
    merged.settle(done)
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
    asked.sync_every = asked.sync_every.min(args.writing.sync_every);
    asked.resume |= args.writing.resume;
    asked.verify |= args.writing.verify;
    asked.report |= args.writing.report;
    asked.json |= args.merging.resources.json;
    asked.quiet |= args.writing.quiet;
    Ok(*asked)
}
