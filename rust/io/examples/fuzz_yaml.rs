//! Feeds broken and random text to the YAML reader, and writes back what it reads.
//!
//! `cargo run --release -p polmrs-io --example fuzz_yaml -- [inputs] [seed]`
//!
//! It fails on a panic, on an error without a place, and where a document does not read back from what is emitted.

#![allow(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "../tests/yaml_strange/mod.rs"]
mod yaml_strange;

use std::time::Instant;
use yaml_strange::{Random, check, text};

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let inputs = arguments.next().unwrap_or(300_000);
    let seed = arguments.next().unwrap_or(1);
    let mut random = Random(seed);
    let start = Instant::now();
    let (mut read, mut bytes, mut slowest) = (0, 0, 0.0);
    for _ in 0..inputs {
        let text = text(&mut random);
        let before = Instant::now();
        read += u64::from(check(&text));
        bytes += text.len();
        slowest = before.elapsed().as_secs_f64().max(slowest);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{inputs} texts from seed {seed}, {} kB: {read} read and written back, {} refused",
        bytes / 1000,
        inputs - read
    );
    println!("{seconds:.1} s, the slowest {:.1} ms", slowest * 1000.0);
}
