//! A merge whose result goes nowhere: what it takes without a disk to write to.
//!
//! ```text
//! cargo run --release --package polmrs-merge --example stream -- CONFIG THREADS
//! ```
//! `benches/merge.py` runs it on a checkpoint of 13.5 GB that takes no space, to see that memory does not grow.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a developer's tool")]

use polmrs_core::{Ctl, Error, Result};
use polmrs_engine::sink::Discard;
use polmrs_io::yaml;
use polmrs_merge::run::{Prepared, Settings};
use polmrs_model::build;
use std::env::args;
use std::path::Path;
use std::process::exit;
use std::time::Instant;

fn main() {
    let args: Vec<String> = args().skip(1).collect();
    if let Err(error) = stream(&args) {
        eprintln!("stream: {error}");
        exit(i32::from(error.exit_code()));
    }
}

fn stream(args: &[String]) -> Result<()> {
    let usage = || Error::Usage("usage: stream CONFIG THREADS".into());
    let [config, threads] = args else { return Err(usage()) };
    let threads = threads.parse().map_err(|_| usage())?;
    let build = build::Settings { threads, ..build::Settings::default() };
    let prepared = Prepared::new(&yaml::read_one(Path::new(config))?, Settings { build, ..Settings::default() })?;
    let begun = Instant::now();
    prepared.stream(&Discard, &Ctl::new())?;
    println!("{:.2} s", begun.elapsed().as_secs_f64());
    Ok(())
}
