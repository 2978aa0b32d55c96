//! `polmrs methods`, `polmrs schema`, `polmrs completions`: what the build itself knows.

use crate::args::{Args, Completions, Methods, Schema, Train};
use crate::text::table;
use clap::CommandFactory;
use polmrs_core::{Error, Result};
use serde_json::Value as Json;

/// Written by `make gen`.
const METHODS: &str = include_str!("../../../../python/polmrs/methods.json");

pub(crate) fn methods(args: &Methods) -> Result<()> {
    if args.json {
        print!("{METHODS}");
        return Ok(());
    }
    let json: Json =
        serde_json::from_str(METHODS).map_err(|error| Error::Internal(format!("methods.json: {error}")))?;
    let cell = |row: &Json, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows: Vec<Vec<String>> = json["methods"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| ["id", "name", "family", "paper", "module"].map(|key| cell(row, key)).to_vec())
        .collect();
    print!("{}", table(&["id", "name", "family", "paper", "module"], &rows));
    Ok(())
}

pub(crate) fn train(args: &Train) -> Result<()> {
    Err(Error::Usage(format!(
        "train {}: training takes torch: run the same command of the Python package (pip install 'polmrs[train]')",
        args.words.join(" ")
    )))
}

pub(crate) fn schema(args: &Schema) -> Result<()> {
    match args.what.as_str() {
        "merge" => println!("{:#}", polmrs_merge::schema::merge()),
        other => return Err(Error::Usage(format!("schema: '{other}' is not one of merge"))),
    }
    Ok(())
}

pub(crate) fn completions(args: &Completions) -> Result<()> {
    clap_complete::generate(args.shell, &mut Args::command(), "polmrs", &mut std::io::stdout());
    Ok(())
}
