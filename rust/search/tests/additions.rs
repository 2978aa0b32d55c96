//! What is added is made ready beside the index, which is searched meanwhile as it was before.
#![allow(missing_docs, clippy::unwrap_used)]

use polmrs_core::philox::{Key, fill};
use polmrs_core::{Ctl, Dtype, Error};
use polmrs_search::ids::Ids;
use polmrs_search::index::{Hits, Index, Kind, Query, Settings};
use polmrs_search::metric::Metric;
use serde_json::json;
use std::path::Path;

const DIM: usize = 12;

fn vectors(rows: usize, seed: u64) -> Vec<f32> {
    let mut words = vec![0; rows * DIM];
    fill(Key::new(seed, "additions", "numbers"), 0, &mut words);
    words.iter().map(|word| (*word >> 8) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

fn ids(range: std::ops::Range<i64>) -> Ids {
    Ids::Numbers(range.collect())
}

fn found(index: &Index) -> Hits {
    let queries = vectors(20, 9);
    let query = Query { vectors: &queries, k: 5, filter: None, min_score: None, effort: None, estimate: false };
    index.search(query, &Ctl::new()).unwrap()
}

/// An index of each kind with 300 rows.
fn indexes() -> Vec<Index> {
    let kinds = [
        json!({"kind": "flat"}),
        json!({"kind": "quantized", "bits": 1}),
        json!({"kind": "quantized", "bits": 4}),
        json!({"kind": "quantized", "bits": 8}),
        json!({"kind": "hnsw", "m": 6, "ef_construction": 30}),
        json!({"kind": "ivf", "lists": 6, "probes": 6}),
    ];
    let make = |kind: serde_json::Value| {
        let kind = Kind::from_json(kind).unwrap();
        let mut index = Index::new(Settings { dim: DIM, metric: Metric::Cosine, kind, storage: Dtype::F32 }).unwrap();
        index.add(&ids(0..300), &vectors(300, 1), &[], &Ctl::new()).unwrap();
        index
    };
    kinds.into_iter().map(make).collect()
}

#[test]
fn an_index_is_as_it_was_until_an_addition_joins_it() {
    for mut index in indexes() {
        let (before, new) = (found(&index), ids(300..800));
        let addition = index.prepare(&new, &vectors(500, 2), &[], &Ctl::new()).unwrap();
        assert_eq!((found(&index), index.len()), (before.clone(), 300));
        index.commit(addition, &Ctl::new()).unwrap();
        assert_eq!(index.len(), 800);
        assert_ne!(found(&index), before);
    }
}

#[test]
fn few_rows_and_many_are_added_alike() {
    for (mut many, mut few) in indexes().into_iter().zip(indexes()) {
        many.add(&ids(300..330), &vectors(30, 2), &[], &Ctl::new()).unwrap();
        for row in 0..30 {
            few.add(&ids(300 + row..301 + row), &vectors(30, 2)[row as usize * DIM..][..DIM], &[], &Ctl::new())
                .unwrap();
        }
        assert_eq!(many.len(), few.len());
        if !matches!(many.settings().kind, Kind::Hnsw(_)) {
            assert_eq!(found(&many), found(&few)); // a graph depends on the calls
        }
    }
}

#[test]
fn an_addition_made_for_other_rows_is_refused() {
    for mut index in indexes() {
        let (one, two) = (ids(300..310), ids(310..320));
        let first = index.prepare(&one, &vectors(10, 2), &[], &Ctl::new()).unwrap();
        let second = index.prepare(&two, &vectors(10, 3), &[], &Ctl::new()).unwrap();
        index.commit(first, &Ctl::new()).unwrap();
        let before = found(&index);
        assert!(matches!(index.commit(second, &Ctl::new()), Err(Error::Usage(_))));
        assert_eq!((found(&index), index.len()), (before, 310));
    }
}

#[test]
fn an_addition_made_for_another_index_is_refused() {
    let new = ids(300..310);
    for (one, mut other) in indexes().into_iter().zip(indexes()) {
        let (before, addition) = (found(&other), one.prepare(&new, &vectors(10, 2), &[], &Ctl::new()).unwrap());
        assert!(matches!(other.commit(addition, &Ctl::new()), Err(Error::Usage(_))));
        assert_eq!((found(&other), other.len()), (before, 300));
    }
}

#[test]
fn an_addition_that_is_cancelled_changes_nothing() {
    for mut index in indexes() {
        let (before, ctl) = (found(&index), Ctl::new());
        ctl.cancel();
        for rows in [1, 500] {
            let added = index.add(&ids(300..300 + rows as i64), &vectors(rows, 2), &[], &ctl);
            assert!(matches!(added, Err(Error::Cancelled)));
            assert_eq!((found(&index), index.len()), (before.clone(), 300));
        }
    }
}

#[test]
fn an_addition_in_place_that_is_stopped_half_way_adds_nothing() {
    let (many, new) = (ids(300..20_000), ids(100..700));
    let in_place = |index: &Index| matches!(index.settings().kind, Kind::Quantized { .. } | Kind::Ivf(_));
    for mut index in indexes().into_iter().filter(in_place) {
        index.add(&many, &vectors(19_700, 3), &[], &Ctl::new()).unwrap();
        let (before, rows, ctl) = (found(&index), vectors(600, 4), Ctl::new());
        let addition = index.prepare(&new, &rows, &[], &Ctl::new()).unwrap();
        ctl.cancel(); // codes look at this once in 256 rows, so some are coded; lists look before their first
        assert!(matches!(index.commit(addition, &ctl), Err(Error::Cancelled)));
        assert_eq!((found(&index), index.len()), (before, 20_000));
        let dead = matches!(index.write(Path::new("no folder/index"), &Ctl::new()), Err(Error::Usage(_)));
        assert_eq!(dead, matches!(index.settings().kind, Kind::Quantized { .. })); // what was coded is there, and dead
        assert_eq!(index.vectors(&ids(600..601)).unwrap(), [Some(vectors(19_700, 3)[300 * DIM..][..DIM].to_vec())]);
        let ctl = Ctl::new();
        index.add(&new, &rows, &[], &ctl).unwrap();
        assert_eq!(ctl.progress(), (4 * rows.len() as u64, 4 * rows.len() as u64));
        assert_eq!((index.len(), index.vectors(&ids(100..101)).unwrap()), (20_000, vec![Some(rows[..DIM].to_vec())]));
        let query = Query { vectors: &rows[..DIM], k: 1, filter: None, min_score: None, effort: None, estimate: false };
        assert_eq!(index.search(query, &Ctl::new()).unwrap().ids, ids(100..101));
    }
}
