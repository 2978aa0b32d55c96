//! `polmrs data decontaminate`.

use super::input::Input;
use super::{check_outputs, tell};
use crate::args::data::Decontaminate;
use crate::progress::shown;
use polmrs_batch::contamination::{Check, Match};
use polmrs_core::{Ctl, Result};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) fn decontaminate(args: &Decontaminate, ctl: &Ctl) -> Result<()> {
    check_outputs(&args.output)?;
    let input = Input::open(&args.input, args.format)?;
    let tests: Vec<Input> = args.tests.iter().map(|path| Input::open(path, None)).collect::<Result<_>>()?;
    let check = Check { n: args.n, least: args.least.unwrap_or(args.n.min(8)), common: args.common };
    let field = args.test_field.as_ref().unwrap_or(&args.field);
    let found = shown(args.output.quiet, "looking for test items", ctl, || {
        let unit = args.unit.into();
        let mut items = Vec::new();
        for test in &tests {
            items.extend(test.hashes(field, unit, ctl)?);
        }
        check.run(&input.hashes(&args.field, unit, ctl)?, &items, ctl)
    })?;
    let mut of: BTreeMap<usize, Vec<Match>> = BTreeMap::new();
    found.matches.iter().for_each(|m| of.entry(m.train).or_default().push(*m));
    let kept: Vec<usize> = (0..input.len()).filter(|document| !of.contains_key(document)).collect();
    let item = |mut number: usize| {
        let mut file = &tests[0];
        for test in &tests {
            file = test;
            if number < test.len() {
                break;
            }
            number -= test.len();
        }
        (file, file.place(number))
    };
    let shown_match = |m: &Match| {
        let (file, place) = item(m.test);
        json!({
            "test": file.name(), file.places(): place, "words": m.words, "at_word": m.train_word,
            "test_at_word": m.test_word,
        })
    };
    let dropped: Vec<Json> = of
        .iter()
        .map(|(document, matches)| {
            let matches: Vec<Json> = matches.iter().map(shown_match).collect();
            json!({input.places(): input.place(*document), "matches": matches})
        })
        .collect();
    let touched: BTreeSet<usize> = found.matches.iter().map(|m| m.test).collect();
    let items: usize = tests.iter().map(Input::len).sum();
    let report = json!({
        "schema": "polmrs.decontaminate/1",
        "input": input.name(),
        "tests": tests.iter().map(Input::name).collect::<Vec<_>>(),
        "n": check.n,
        "least": check.least,
        "common": check.common,
        "documents": input.len(),
        "kept": kept.len(),
        "test_items": items,
        "test_items_found": touched.len(),
        "test_items_too_short": found.skipped.len(),
        "ngrams_passed_over": found.passed_over,
        "dropped": dropped,
    });
    if let (Some(out), false) = (&args.output.out, args.output.dry_run) {
        input.keep(&kept, out, args.output.overwrite)?;
    }
    let (name, kept, all, touched, short) = (input.name(), kept.len(), input.len(), touched.len(), found.skipped.len());
    let sentence = format!(
        "{name}: {kept} of {all} documents kept; {touched} of {items} test items found, {short} too short to look for"
    );
    tell(&args.output, &report, &sentence)
}
