//! How fast this machine lets anyone merge: reads every input once and writes as many bytes as the first one has.
//!
//! ```text
//! cargo run --release --package polmrs-cli --example copy_limit -- OUT THREADS INPUT...
//! ```
//! Each thread takes the next 128 KiB, reads it from every input by `pread`, and writes what the first one gave at the
//! same offset of OUT, which must not exist. At the end OUT is synced. Prints the seconds from the first open to there.
//! `benches/merge.py` runs it on the files of a merge, with the page cache warm, and divides.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a developer's tool")]

use std::env::args;
use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::process::exit;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

const BLOCK: u64 = 1 << 17; // of 128 KiB and 1 MiB, the faster

fn main() {
    let args: Vec<String> = args().skip(1).collect();
    let Some((out, threads, inputs)) = understand(&args) else {
        eprintln!("usage: copy_limit OUT THREADS INPUT...");
        exit(2);
    };
    let begun = Instant::now();
    if let Err(error) = copy(out, threads, inputs) {
        eprintln!("copy_limit: {error}");
        exit(1);
    }
    println!("{:.4}", begun.elapsed().as_secs_f64());
}

fn understand(args: &[String]) -> Option<(&str, usize, &[String])> {
    match args {
        [out, threads, inputs @ ..] if !inputs.is_empty() => {
            let threads = threads.parse().ok().filter(|threads| *threads > 0)?;
            Some((out, threads, inputs))
        }
        _ => None,
    }
}

fn copy(out: &str, threads: usize, inputs: &[String]) -> Result<()> {
    let named = |path: &str, error: Error| Error::new(error.kind(), format!("{path}: {error}"));
    let open = |path: &String| {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok((file, len))
    };
    let inputs = inputs
        .iter()
        .map(|path| open(path).map_err(|error| named(path, error)))
        .collect::<Result<Vec<(File, u64)>>>()?;
    let out = File::create_new(out).map_err(|error| named(out, error))?;
    out.set_len(inputs[0].1)?;
    let longest = inputs.iter().map(|(_, len)| *len).max().unwrap_or(0);
    let next = AtomicU64::new(0);
    let work = || -> Result<()> {
        let mut buffer = vec![0; BLOCK as usize];
        loop {
            let offset = next.fetch_add(BLOCK, Relaxed);
            if offset >= longest {
                return Ok(());
            }
            for (at, (file, len)) in inputs.iter().enumerate() {
                let bytes = &mut buffer[..len.saturating_sub(offset).min(BLOCK) as usize];
                file.read_exact_at(bytes, offset)?;
                if at == 0 {
                    out.write_all_at(bytes, offset)?;
                }
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(Error::other("a thread panicked"))))
    })?;
    out.sync_all()
}
