//! Queries to an index of words: lines of text, or JSON Lines with an id and a text.

use super::print;
use crate::args::search::Query;
use polmrs_core::{Ctl, Error, Result};
use polmrs_search::bm25::{self, Bm25, Texts};
use polmrs_search::filter::Filter;
use serde_json::{Map, Value as Json};
use std::fs::File;
use std::io::{BufRead, BufReader};

/// Queries that are asked together.
const BATCH: usize = 4096;

pub(super) fn query(args: &Query, filter: Option<&Filter>, ctl: &Ctl) -> Result<()> {
    for (flag, given) in [("--effort", args.effort.is_some()), ("--no-rescore", args.no_rescore)] {
        if given {
            return Err(Error::Usage(format!("{flag}: an index of words has no use for it")));
        }
    }
    let index = Bm25::open(&args.index, args.mmap, false)?;
    let note: Map<String, Json> = serde_json::from_str(index.note()).unwrap_or_default();
    if let Some((name, _)) = note.iter().find(|(_, was_given)| **was_given == Json::Bool(true)) {
        let rule = format!("was made with a {name}, a function of Python; search it by polmrs.rag.BM25");
        return Err(Error::Usage(format!("{}: {rule}", args.index.display())));
    }
    let path = &args.queries;
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path, "open"))?);
    let (mut line, mut asked, mut done) = (String::new(), 0, false);
    while !done {
        let (mut names, mut texts) = (Vec::new(), Vec::new());
        while texts.len() < BATCH && !done {
            line.clear();
            done = file.read_line(&mut line).map_err(Error::io(path, "read"))? == 0;
            if !line.trim().is_empty() {
                let read = one(line.trim(), asked);
                let (name, text) =
                    read.map_err(|rule| Error::Array(format!("{}: query {}: {rule}", path.display(), asked + 1)))?;
                names.push(name);
                texts.push(text);
                asked += 1;
            }
        }
        let texts = Texts::Plain(texts);
        let wanted = bm25::Query { texts: &texts, k: args.k, filter, min_score: args.min_score };
        print(&names, &index.search(wanted, ctl)?);
    }
    Ok(())
}

/// What a query is called, and its text.
fn one(line: &str, number: usize) -> std::result::Result<(Json, String), String> {
    if !line.starts_with('{') {
        return Ok((number.into(), line.to_owned()));
    }
    let mut fields: Map<String, Json> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let Some(Json::String(text)) = fields.remove("text") else { return Err("has no \"text\", a string".into()) };
    Ok((fields.remove("id").unwrap_or_else(|| number.into()), text))
}
