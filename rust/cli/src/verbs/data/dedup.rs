//! `polmrs data dedup`.

use super::input::Input;
use super::{check_outputs, tell};
use crate::args::data::{Dedup, DedupMethod};
use crate::progress::shown;
use polmrs_batch::clusters::{Search, clusters};
use polmrs_batch::novel::novel;
use polmrs_batch::shingles::shingles;
use polmrs_core::{Ctl, Error, Result};
use serde_json::{Value as Json, json};

/// Of each document that goes: the document it is like, and how much.
type Likeness = Vec<Option<(usize, f64)>>;

pub(crate) fn dedup(args: &Dedup, ctl: &Ctl) -> Result<()> {
    check_outputs(&args.output)?;
    let input = Input::open(&args.input, args.format)?;
    let threshold = args.threshold.unwrap_or(if args.method == DedupMethod::RougeL { 0.7 } else { 0.8 });
    let alike = shown(args.output.quiet, "comparing", ctl, || alike(args, &input, threshold, ctl))?;
    let kept: Vec<usize> = (0..input.len()).filter(|document| alike[*document].is_none()).collect();
    let places = input.places();
    let dropped: Vec<Json> = alike
        .iter()
        .enumerate()
        .filter_map(|(document, alike)| alike.map(|(other, score)| (document, other, score)))
        .map(|(document, other, score)| {
            json!({places: input.place(document), "like": input.place(other), "score": score})
        })
        .collect();
    let report = json!({
        "schema": "polmrs.dedup/1",
        "input": input.name(),
        "method": args.method.name(),
        "threshold": threshold,
        "documents": input.len(),
        "kept": kept.len(),
        "dropped": dropped,
    });
    if let (Some(out), false) = (&args.output.out, args.output.dry_run) {
        input.keep(&kept, out, args.output.overwrite)?;
    }
    let sentence = format!("{}: {} of {} documents kept", input.name(), kept.len(), input.len());
    tell(&args.output, &report, &sentence)
}

fn alike(args: &Dedup, input: &Input, threshold: f64, ctl: &Ctl) -> Result<Likeness> {
    let search = match args.method {
        DedupMethod::RougeL => {
            let texts = input.texts(&args.field, ctl)?;
            let verdicts = novel(&[], &texts, threshold, args.stemmer, true, ctl)?;
            let partners = verdicts.partner.iter().zip(&verdicts.score);
            return Ok(partners.map(|(like, score)| usize::try_from(*like).ok().map(|like| (like, *score))).collect());
        }
        DedupMethod::Exact => Search::Exact,
        DedupMethod::Minhash => Search::MinHash { functions: args.functions, recall: args.recall, seed: args.seed },
    };
    if args.n == 0 {
        return Err(Error::Usage("--n: 0 is not 1 or more".into()));
    }
    let sets: Vec<Vec<u64>> =
        input.hashes(&args.field, args.unit.into(), ctl)?.iter().map(|words| shingles(words, args.n)).collect();
    let found = clusters(&sets, threshold, search, ctl)?;
    let first = found.first.iter().zip(&found.jaccard).enumerate();
    Ok(first.map(|(i, (first, score))| (*first != i as i64).then_some((*first as usize, *score))).collect())
}
