//! Feeds broken headers and indexes to the reader, and measures the memory that parsing takes.
//!
//! `cargo run --release -p polmrs-io --example fuzz_safetensors -- [inputs] [seed]`
//!
//! Every other input is a file, compared with what the `safetensors` crate says of it; the rest are indexes.
//! Then come the texts that cost most, at the full 100 MB. It fails on a panic, on a difference that is not documented in
//! `polmrs_io::safetensors`, and where parsing allocates more than [`TIMES`] times the text and the constant beside it.
//! A reallocation counts as old and new block together, and the text itself is not counted.

#![allow(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "../tests/strangers/mod.rs"]
mod strangers;

use polmrs_core::{Error, Result};
use polmrs_io::safetensors::{Header, Index, MAX_HEADER};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use strangers::{Random, Verdict, broken_file, broken_index, check_index, compare, parse};

/// Bytes allocated at most, for one byte of text.
const TIMES: usize = 6;
/// Bytes allocated at most beside that, by a header and by an index.
const BESIDE_HEADER: usize = 2 << 20;
const BESIDE_INDEX: usize = 16 << 20;

/// The system's allocator, counting.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to `System` unchanged; the counters touch no memory of it. `realloc` is the default, which
// allocates, copies and frees.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller's promise is the one `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: likewise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Calls, and gives the result with the most bytes that were allocated at once meanwhile.
fn measured<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = call();
    (result, PEAK.load(Relaxed) - before)
}

fn failed(what: &str, input: &[u8]) -> Error {
    Error::Internal(format!("{what}\n{}", input.escape_ascii()))
}

/// The input that took most memory for its length.
#[derive(Default)]
struct Costliest {
    peak: usize,
    per_byte: f64,
}

impl Costliest {
    fn see(&mut self, peak: usize, len: usize) {
        self.peak = self.peak.max(peak);
        self.per_byte = self.per_byte.max(peak as f64 / len.max(64) as f64);
    }
}

fn fuzz(inputs: usize, seed: u64) -> Result<()> {
    let start = Instant::now();
    let mut random = Random::new(seed);
    let mut files: BTreeMap<Verdict, usize> = BTreeMap::new();
    let mut indexes = [0; 2];
    let mut costliest = [Costliest::default(), Costliest::default()];
    for at in 0..inputs {
        if at % 2 == 0 {
            let file = broken_file(&mut random);
            let (header, peak) = measured(|| parse(&file));
            costliest[0].see(peak, file.len());
            let verdict = compare(&file, &header).map_err(|difference| failed(&difference, &file))?;
            *files.entry(verdict).or_default() += 1;
        } else {
            let json = broken_index(&mut random);
            let (index, peak) = measured(|| Index::parse(&json));
            costliest[1].see(peak, json.len());
            indexes[usize::from(index.is_err())] += 1;
            if let Ok(index) = index {
                check_index(&index).map_err(|error| failed(&error, &json))?;
            }
        }
    }
    println!("{inputs} inputs, seed {seed}, {:.1} s", start.elapsed().as_secs_f64());
    for (verdict, count) in files {
        match verdict {
            Verdict::Accepted => println!("  files accepted, as by the safetensors crate: {count}"),
            Verdict::Refused => println!("  files refused, as by the safetensors crate:  {count}"),
            Verdict::Stricter(reason) => println!("  files refused here only, {reason}: {count}"),
        }
    }
    println!("  indexes accepted: {}, refused: {}", indexes[0], indexes[1]);
    for (what, costliest) in ["files", "indexes"].iter().zip(&costliest) {
        let Costliest { peak, per_byte } = costliest;
        println!("  {what}: peak {peak} bytes, at most {per_byte:.1} per byte of input");
    }
    Ok(())
}

/// A text of about the largest size: `before`, then `piece(0)`, `piece(1)` ... with commas, then `after`.
fn filled(before: &str, piece: impl Fn(usize) -> String, after: &str, most: usize) -> String {
    let mut text = before.to_owned();
    let limit = MAX_HEADER as usize - after.len();
    for at in 0..most {
        let piece = piece(at);
        if text.len() + piece.len() + 1 > limit {
            break;
        }
        if at > 0 {
            text.push(',');
        }
        text += &piece;
    }
    text + after
}

fn tiny(at: usize) -> String {
    format!(r#""{at:x}":{{"dtype":"U8","shape":[],"data_offsets":[{at},{}]}}"#, at + 1)
}

fn wide(at: usize) -> String {
    format!(r#""{at:x}":{{"dtype":"U8","shape":[{}0],"data_offsets":[0,0]}}"#, "0,".repeat(63))
}

/// What costs most, and how many bytes of data a header is told.
fn heavy_headers() -> Vec<(&'static str, String, u64)> {
    const ALL: usize = usize::MAX;
    let long = "\u{7f}".repeat(MAX_HEADER as usize - 100);
    let deep = "[".repeat(MAX_HEADER as usize - 100);
    let metadata = |at: usize| format!(r#""{at:x}":"""#);
    vec![
        ("as many tensors as fit", filled("{", tiny, "}", ALL), 1 << 40),
        ("tensors, just after the list grew", filled("{", tiny, "}", (1 << 20) + 1), (1 << 20) + 1),
        ("tensors of 64 dimensions", filled("{", wide, "}", ALL), 0),
        ("64 dimensions, just after the list grew", filled("{", wide, "}", (1 << 19) + 1), 0),
        ("as much metadata as fits", filled(r#"{"__metadata__":{"#, metadata, "}}", ALL), 0),
        ("one long name", format!(r#"{{"{long}":0}}"#), 0),
        ("one long name, escaped", format!(r#"{{"{}":0}}"#, r"\n".repeat(long.len() / 2)), 0),
        ("one long name, escaped at its end", format!(r#"{{"{long}\n":0}}"#), 0),
        ("one long key in an entry", format!(r#"{{"w":{{"{long}":0}}}}"#), 0),
        ("one long dtype", format!(r#"{{"w":{{"dtype":"{long}\n"}}}}"#), 0),
        ("a text for a shape", format!(r#"{{"w":{{"shape":"{long}\n"}}}}"#), 0),
        ("one long metadata value", format!(r#"{{"__metadata__":{{"k":"{long}\n"}}}}"#), 0),
        ("deep lists", format!(r#"{{"w":{{"shape":{deep}"#), 0),
        ("white space", " ".repeat(MAX_HEADER as usize), 0),
    ]
}

fn heavy_indexes() -> Vec<(&'static str, String)> {
    let one = |at: usize| format!(r#""{at:x}":"w.safetensors""#);
    let many = |at: usize| format!(r#""{at:x}":"{at:x}.safetensors""#);
    let long = "\u{7f}".repeat(MAX_HEADER as usize - 100);
    let deep = "[".repeat(MAX_HEADER as usize - 100);
    let map = r#"{"weight_map":{"#;
    vec![
        ("as many tensors as fit", filled(map, one, "}}", usize::MAX)),
        ("tensors, just after the list grew", filled(map, one, "}}", (1 << 21) + 1)),
        ("as many shards as may be", filled(map, many, "}}", 99_999)),
        ("one shard too many", filled(map, many, "}}", usize::MAX)),
        ("one long name", format!(r#"{map}"{long}\n":"w.safetensors"}}}}"#)),
        ("one long shard", format!(r#"{map}"w":"{long}\n.safetensors"}}}}"#)),
        ("deep lists, skipped", format!(r#"{{"metadata":{deep}"#)),
        ("one long key", format!(r#"{{"{long}\n":0}}"#)),
    ]
}

fn weigh<T>(what: &str, text: &str, beside: usize, parse: impl FnOnce(&[u8]) -> Result<T>) -> Result<()> {
    let start = Instant::now();
    let (result, peak) = measured(|| parse(text.as_bytes()));
    let verdict = match result {
        Ok(_) => "accepted".to_owned(),
        Err(error) => format!("refused: {:.60}", error.to_string()),
    };
    let megabytes = text.len() as f64 / 1e6;
    let times = peak as f64 / text.len() as f64;
    println!("  {what}: {megabytes:.0} MB, {times:.2} times, {:.2} s, {verdict}", start.elapsed().as_secs_f64());
    if peak > TIMES * text.len() + beside {
        return Err(Error::Internal(format!("{what}: {peak} bytes for {} of text", text.len())));
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |name: &str, default: u64| match arguments.next() {
        Some(text) => text.parse().map_err(|_| Error::Usage(format!("{name}: '{text}' is not a number"))),
        None => Ok(default),
    };
    fuzz(number("inputs", 100_000)? as usize, number("seed", 1)?)?;
    println!("headers that cost most, and the memory for parsing them, in times their length:");
    for (what, text, data_len) in heavy_headers() {
        weigh(what, &text, BESIDE_HEADER, |json| Header::parse(json, data_len))?;
    }
    println!("indexes likewise:");
    for (what, text) in heavy_indexes() {
        weigh(what, &text, BESIDE_INDEX, Index::parse)?;
    }
    Ok(())
}
