//! Files of every kind with bytes that no one wrote: opening, searching, adding and deleting answer or refuse, and never panic.
//!
//! A checksum stops damage that chance makes; whoever means harm writes the right one. So most cases damage the payload and
//! seal it again.
#![allow(missing_docs, clippy::unwrap_used)]

use polmrs_core::philox::{Key, fill};
use polmrs_core::{Ctl, Dtype};
use polmrs_search::ids::Ids;
use polmrs_search::index::{Index, Kind, Query, Settings};
use polmrs_search::metric::Metric;
use serde_json::json;
use std::path::Path;

const DIM: usize = 9;
const ROWS: usize = 200;

fn numbers(n: usize, seed: u64) -> Vec<u32> {
    let mut words = vec![0; n];
    fill(Key::new(seed, "corrupt_files", "numbers"), 0, &mut words);
    words
}

fn vectors(rows: usize, seed: u64) -> Vec<f32> {
    numbers(rows * DIM, seed).iter().map(|word| (*word >> 8) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

fn texts(range: std::ops::Range<usize>) -> Ids {
    Ids::Texts(range.map(|row| row.to_string().into()).collect())
}

/// A file of each kind: everything, and a record that deletes and adds.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let kinds = [
        json!({"kind": "flat"}),
        json!({"kind": "quantized", "bits": 1, "margin": 3.0}),
        json!({"kind": "quantized", "bits": 4, "margin": 3.0}),
        json!({"kind": "quantized", "bits": 8, "margin": 3.0}),
        json!({"kind": "hnsw", "m": 3, "ef_construction": 9, "ef_search": 9, "codes": "int8", "seed": 0}),
        json!({"kind": "hnsw", "m": 3, "ef_construction": 9, "ef_search": 9, "codes": "bf16", "seed": 0}),
        json!({"kind": "ivf", "lists": 6, "probes": 2, "margin": 3.0, "seed": 0}),
    ];
    let make = |kind: serde_json::Value| {
        let (kind, path) = (Kind::from_json(kind).unwrap(), folder.join("whole"));
        let settings = Settings { dim: DIM, metric: Metric::L2, kind, storage: Dtype::F16 };
        let mut index = Index::new(settings).unwrap();
        let rows: Vec<f32> = vectors(ROWS / 2, 1).repeat(2); // every code twice
        let metadata: Vec<_> = (0..ROWS).map(|row| json!({"part": row % 3}).as_object().unwrap().clone()).collect();
        index.add(&texts(0..ROWS), &rows, &metadata, &Ctl::new()).unwrap();
        index.save(&path, &Ctl::new()).unwrap();
        index.delete(&texts(0..3)).unwrap();
        index.add(&texts(1..4), &vectors(3, 2), &[], &Ctl::new()).unwrap();
        index.sync().unwrap();
        std::fs::read(&path).unwrap()
    };
    kinds.into_iter().map(make).collect()
}

/// Gives every record the checksums of what it holds.
fn seal(file: &mut [u8]) {
    let mut at = 64;
    while let Some(start) = file.get(at..at + 64) {
        let len = u64::from_le_bytes(start[8..16].try_into().unwrap());
        let Some(end) = usize::try_from(len).ok().and_then(|len| len.checked_add(at + 64)) else { return };
        let Some(payload) = file.get(at + 64..end) else { return };
        let hash = *blake3::hash(payload).as_bytes();
        file[at + 16..at + 48].copy_from_slice(&hash);
        let seal = *blake3::hash(&file[at..at + 48]).as_bytes();
        file[at + 48..at + 64].copy_from_slice(&seal[..16]);
        at = end;
    }
}

/// Changes a few bytes: anywhere, or whole numbers of a file to extreme ones; and sometimes cuts it.
fn damage(file: &[u8], words: &[u32]) -> Vec<u8> {
    let mut broken = file.to_vec();
    for change in words[2..].chunks_exact(2).take(1 + words[0] as usize % 6) {
        let at = change[0] as usize % broken.len();
        match change[1] % 4 {
            0 => broken[at] ^= 1 << (change[1] >> 8 & 7),
            1 => broken[at] = (change[1] >> 8) as u8,
            kind => {
                let value = [0u32, 1, ROWS as u32, 0x7f80_0000, 0x7fc0_0000, u32::MAX][(change[1] >> 8) as usize % 6];
                let at = at / 4 * 4;
                let width = if kind == 2 { 4 } else { 8 };
                for (byte, new) in broken[at..].iter_mut().zip(value.to_le_bytes().into_iter().cycle()).take(width) {
                    *byte = new;
                }
            }
        }
    }
    if words[1] & 7 == 0 {
        broken.truncate(words[1] as usize % broken.len());
    } else {
        seal(&mut broken);
    }
    broken
}

/// Whether the file was opened; what follows may be refused.
fn use_it(path: &Path, mapped: bool) -> bool {
    let Ok(mut index) = Index::open(path, mapped, false, &Ctl::new()) else { return false };
    let dim = index.settings().dim;
    if dim > 64 {
        return true; // another number in the header, and as good as any
    }
    let batch: Vec<f32> = numbers(9 * dim, 5).iter().map(|word| *word as f32 / 4e9).collect();
    let queries = &batch[..3 * dim];
    let query = Query { vectors: queries, k: 4, filter: None, min_score: None, effort: None, estimate: false };
    let _ = index.search(query, &Ctl::new());
    let _ = index.search(Query { vectors: &batch, ..query }, &Ctl::new());
    let _ = index.search(Query { estimate: true, k: 300, ..query }, &Ctl::new());
    let _ = index.add(&texts(500..503), queries, &[], &Ctl::new());
    let _ = index.delete(&texts(0..150));
    let _ = index.save(&path.with_extension("again"), &Ctl::new());
    let _ = index.search(query, &Ctl::new());
    true
}

fn no_panic(cases: u64) {
    let folder = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "." }).unwrap();
    let (files, path) = (files(folder.path()), folder.path().join("broken"));
    let mut opened = 0;
    for case in 0..cases {
        let words = numbers(16, 100 + case);
        let broken = damage(&files[case as usize % files.len()], &words);
        std::fs::write(&path, broken).unwrap();
        opened += u64::from(use_it(&path, case % 2 == 0));
    }
    assert!(opened > cases / 10 && opened < cases, "{opened} of {cases} were opened");
}

#[test]
fn damaged_files_are_refused_or_searched_but_never_a_panic() {
    no_panic(2_000);
}

/// `cargo test --release -p polmrs-search --test corrupt_files -- --ignored`
#[test]
#[ignore = "a million files take half an hour"]
fn a_million_damaged_files() {
    no_panic(1_000_000);
}
