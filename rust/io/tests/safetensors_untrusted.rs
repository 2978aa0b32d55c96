//! Broken input: never a panic, and no difference from the `safetensors` crate but those that are documented.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod strangers;

use polmrs_core::Error;
use polmrs_io::safetensors::{Checkpoint, Index, MAX_METADATA, MAX_RANK};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use strangers::{
    HEADERS, INDEXES, Random, STRICTER, Verdict, broken_file, broken_index, check_index, compare, frame, parse,
};
use tempfile::tempdir;

#[test]
fn broken_headers_are_judged_as_the_crate_judges_them_or_as_documented() {
    let mut random = Random::new(1);
    let mut seen: BTreeMap<Verdict, usize> = BTreeMap::new();
    for _ in 0..15_000 {
        let file = broken_file(&mut random);
        let ours = parse(&file);
        assert!(matches!(ours, Ok(_) | Err(Error::Checkpoint(_))), "{ours:?}");
        match compare(&file, &ours) {
            Ok(verdict) => *seen.entry(verdict).or_default() += 1,
            Err(difference) => panic!("{difference}\n{}", file.escape_ascii()),
        }
    }
    assert!(seen[&Verdict::Accepted] > 1000 && seen[&Verdict::Refused] > 1000 && seen.len() > 5, "{seen:?}");
}

#[test]
fn every_documented_difference_is_there() {
    let wide = format!(r#"{{"w":{{"dtype":"U8","shape":[{}0],"data_offsets":[0,0]}}}}"#, "1,".repeat(MAX_RANK));
    let keys: Vec<String> = (0..=MAX_METADATA).map(|at| format!(r#""{at}":"""#)).collect();
    let chatty = format!(r#"{{"__metadata__":{{{}}}}}"#, keys.join(","));
    let twice = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    let made = [(wide.as_str(), 0), (chatty.as_str(), 0), (twice, 0)];
    let mut seen = BTreeSet::new();
    for (header, data_len) in HEADERS.into_iter().chain(made) {
        let file = frame(header.as_bytes(), data_len);
        match compare(&file, &parse(&file)).unwrap() {
            Verdict::Stricter(reason) => drop(seen.insert(reason)),
            Verdict::Accepted => {}
            Verdict::Refused => panic!("nobody accepts {header}"),
        }
    }
    assert_eq!(seen, STRICTER.iter().map(|(reason, _)| *reason).collect());
}

#[test]
fn a_broken_file_on_disk_is_judged_like_its_bytes() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut random = Random::new(2);
    let mut accepted = 0;
    for _ in 0..2_000 {
        let file = broken_file(&mut random);
        fs::write(&path, &file).unwrap();
        match (Checkpoint::open(folder.path()), parse(&file)) {
            (Ok(checkpoint), Ok(header)) => {
                accepted += 1;
                assert_eq!(checkpoint.tensors().len(), header.tensors.len());
                for (at, tensor) in checkpoint.tensors().iter().enumerate() {
                    assert_eq!(checkpoint.find(&tensor.name), Some(at));
                    checkpoint.read(at, 0, &mut vec![0; tensor.nbytes() as usize]).unwrap();
                }
            }
            (Err(error), Err(_)) => assert!(error.to_string().starts_with(&format!("{}: ", path.display()))),
            (disk, bytes) => panic!("{disk:?}, but {bytes:?}\n{}", file.escape_ascii()),
        }
    }
    assert!(accepted > 50, "{accepted}");
}

#[test]
fn a_broken_index_is_refused_or_sound() {
    let mut random = Random::new(3);
    let mut accepted = 0;
    for _ in 0..15_000 {
        let json = broken_index(&mut random);
        match Index::parse(&json) {
            Ok(index) => {
                accepted += 1;
                check_index(&index).unwrap_or_else(|error| panic!("{error}\n{}", json.escape_ascii()));
            }
            Err(error) => assert!(matches!(error, Error::Checkpoint(_))),
        }
    }
    assert!(accepted > 1000, "{accepted}");
    assert!(INDEXES.iter().all(|json| Index::parse(json.as_bytes()).is_ok()));
}
