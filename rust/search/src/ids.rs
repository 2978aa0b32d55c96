//! The names of rows: integers or strings, one kind an index.

use polmrs_core::{Error, Result};
use std::collections::HashMap;

/// Ids in the order of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Integers.
    Numbers(Vec<i64>),
    /// Strings.
    Texts(Vec<Box<str>>),
}

impl Ids {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Ids::Numbers(all) => all.len(),
            Ids::Texts(all) => all.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds ids of the same kind.
    pub(crate) fn extend(&mut self, more: Ids) {
        match (self, more) {
            (Ids::Numbers(all), Ids::Numbers(more)) => all.extend(more),
            (Ids::Texts(all), Ids::Texts(more)) => all.extend(more),
            _ => {} // an index has one kind
        }
    }

    /// The ids of these rows.
    #[must_use]
    pub fn select(&self, rows: impl Iterator<Item = usize>) -> Ids {
        match self {
            Ids::Numbers(all) => Ids::Numbers(rows.map(|row| all[row]).collect()),
            Ids::Texts(all) => Ids::Texts(rows.map(|row| all[row].clone()).collect()),
        }
    }
}

/// Ids in the order of rows, and back.
#[derive(Debug)]
pub(crate) enum Names {
    /// Nothing was ever added, so either kind may come.
    None,
    Numbers(Vec<i64>, HashMap<i64, u32>),
    Texts(Vec<Box<str>>, HashMap<Box<str>, u32>),
}

impl Names {
    /// Refuses ids of the other kind.
    pub(crate) fn check_kind(&self, ids: &Ids) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let (have, given) = match (self, ids) {
            (Names::Numbers(..), Ids::Texts(_)) => ("integers", "strings"),
            (Names::Texts(..), Ids::Numbers(_)) => ("strings", "integers"),
            _ => return Ok(()),
        };
        Err(Error::Usage(format!("ids: this index has {have} for ids, got {given}")))
    }

    /// Appends ids of rows `first..`; the rows that had them before. The later of two equal ids stands.
    pub(crate) fn push(&mut self, ids: &Ids, first: usize) -> Vec<u32> {
        fn all<T: Clone + Eq + std::hash::Hash>(
            (rows, places): (&mut Vec<T>, &mut HashMap<T, u32>),
            ids: &[T],
            first: usize,
        ) -> Vec<u32> {
            rows.extend_from_slice(ids);
            let pairs = ids.iter().enumerate();
            pairs.filter_map(|(at, id)| places.insert(id.clone(), (first + at) as u32)).collect()
        }
        if let (Names::None, false) = (&self, ids.is_empty()) {
            *self = match ids {
                Ids::Numbers(_) => Names::Numbers(Vec::new(), HashMap::new()),
                Ids::Texts(_) => Names::Texts(Vec::new(), HashMap::new()),
            };
        }
        match (self, ids) {
            (Names::Numbers(rows, places), Ids::Numbers(ids)) => all((rows, places), ids, first),
            (Names::Texts(rows, places), Ids::Texts(ids)) => all((rows, places), ids, first),
            _ => Vec::new(), // `check_kind` came before
        }
    }

    /// Appends rows that have no name; there are others before them.
    pub(crate) fn push_none(&mut self, more: usize) {
        match self {
            Names::None => {}
            Names::Numbers(rows, _) => rows.resize(rows.len() + more, 0),
            Names::Texts(rows, _) => rows.resize(rows.len() + more, "".into()),
        }
    }

    /// The row of each id, if it is there.
    pub(crate) fn find(&self, ids: &Ids) -> Vec<Option<u32>> {
        match (self, ids) {
            (Names::Numbers(_, places), Ids::Numbers(ids)) => ids.iter().map(|id| places.get(id).copied()).collect(),
            (Names::Texts(_, places), Ids::Texts(ids)) => ids.iter().map(|id| places.get(id).copied()).collect(),
            _ => vec![None; ids.len()],
        }
    }

    /// Forgets where the id of this row is.
    pub(crate) fn forget(&mut self, row: u32) {
        match self {
            Names::None => {}
            Names::Numbers(rows, places) => drop(places.remove(&rows[row as usize])),
            Names::Texts(rows, places) => drop(places.remove(&rows[row as usize])),
        }
    }

    /// Forgets all ids, not their kind.
    pub(crate) fn clear(&mut self) {
        match self {
            Names::None => {}
            Names::Numbers(rows, places) => {
                rows.clear();
                places.clear();
            }
            Names::Texts(rows, places) => {
                rows.clear();
                places.clear();
            }
        }
    }

    /// The ids of these rows.
    pub(crate) fn select(&self, rows: impl Iterator<Item = usize>) -> Ids {
        match self {
            Names::None => Ids::Numbers(Vec::new()),
            Names::Numbers(all, _) => Ids::Numbers(rows.map(|row| all[row]).collect()),
            Names::Texts(all, _) => Ids::Texts(rows.map(|row| all[row].clone()).collect()),
        }
    }
}
