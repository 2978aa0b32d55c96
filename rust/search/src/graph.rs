//! A hierarchical navigable small world graph: HNSW (Malkov and Yashunin, [paper](https://arxiv.org/abs/1603.09320)).
//!
//! A row is on layer $l$ with probability $m^{-l}$; on each it has links to rows that are near and lie in different
//! directions (algorithm 4). A search walks greedily down the layers, then keeps the `ef` nearest on the lowest (algorithm 2).
//!
//! Where this departs from the paper:
//! - Walks compare codes ([`codes`]); what is within their error of the `k`-th best is then scored from full vectors.
//! - Rows come in batches: all rows of one are searched for in the graph as it was before, and meet each other directly. Then
//!   links are set, target by target. So the graph depends on the seed and the calls of `add`, not on threads.
//! - Rows with equal codes are one node: what a thousand copies of a text would do to the links of its neighbours does not
//!   happen. They hang on it as a list.
//! - Rows that were deleted are walked through, not found; when the index is compacted, links around them are mended.
//! - A batch can be reached from the rows before it, whatever it holds; and once the graph has grown by a thousandth, every
//!   node from the first: [`repair`] sees to it.

mod build;
mod codes;
mod repair;
mod stored;
mod walk;

use crate::finder::Found;
use crate::metric::Metric;
use crate::shortlist::Shortlist;
use codes::Codes;
use polmrs_core::{Error, Result};
use std::collections::HashMap;
use walk::{Layer, NONE, walk};

/// What the walk compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    /// Two bytes a coordinate.
    Bf16,
    /// One byte a coordinate.
    Int8,
}

/// The parameters of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Links of a new row on each layer; twice as many fit on the lowest.
    pub m: usize,
    /// How many near rows are looked for to link a new one.
    pub ef_construction: usize,
    /// How many near rows a search looks for, at least.
    pub ef_search: usize,
    /// What walks compare.
    pub codes: Width,
    /// Of the layers of rows.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { m: 16, ef_construction: 200, ef_search: 64, codes: Width::Int8, seed: 0 }
    }
}

impl Settings {
    /// Refuses what is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        let ranges = [
            ("m", self.m, 2..=256),
            ("ef_construction", self.ef_construction, 1..=65_536),
            ("ef_search", self.ef_search, 1..=65_536),
        ];
        for (name, value, range) in ranges {
            if !range.contains(&value) {
                return Err(Error::Usage(format!("{name}: {value} is not in {}..={}", range.start(), range.end())));
            }
        }
        Ok(())
    }
}

/// The graph of an index.
#[derive(Clone, Debug)]
pub struct Graph {
    settings: Settings,
    codes: Codes,
    /// From the lowest up.
    layers: Vec<Layer>,
    /// The next row of the same code; from the node down, so that no list has an end that is a beginning.
    twins: crate::column::Column<u32>,
    /// The node of each hash of codes; made when rows are first added.
    known: Option<HashMap<u64, u32>>,
    /// How many rows there were when all nodes were last seen to be within reach.
    connected: usize,
}

impl Graph {
    /// No rows yet.
    pub fn new(dim: usize, metric: Metric, settings: Settings) -> Graph {
        Graph {
            settings,
            codes: Codes::new(dim, metric, settings.codes),
            layers: vec![Layer::new(2 * settings.m)],
            twins: crate::column::Column::default(),
            known: None,
            connected: 0,
        }
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.twins.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of codes and links.
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.layers.iter().map(Layer::bytes).sum::<usize>() + self.twins.bytes()
    }

    /// What is found for a query among the eligible rows, of which there are `count`, for the best `k`.
    pub fn candidates(&self, query: &[f32], k: usize, eligible: &[u64], count: usize, ef: Option<usize>) -> Found {
        let probe = self.codes.probe(query);
        let ef = ef.unwrap_or(self.settings.ef_search).max(k);
        let may = |row: u32| eligible[row as usize / 64] >> (row % 64) & 1 == 1;
        let mut list = Shortlist::new(k);
        let mut offer = |key: f32, row| list.push(key + 0.5 * probe.width, probe.width, row);
        // A walk looks at some `ef m` rows, and at as many more as fewer are eligible.
        if count * count <= ef.saturating_mul(self.settings.m).saturating_mul(self.len()) {
            let rows: Vec<u32> = crate::bitmap::ones(eligible).map(|row| row as u32).collect();
            let mut keys = Vec::new();
            self.codes.keys(&probe, &rows, &mut keys);
            for (key, row) in keys.iter().zip(rows) {
                offer(*key, row);
            }
            return probe.found(self.codes.metric, list);
        }
        let starts = self.entries(&probe);
        let found = walk(&self.codes, &self.layers[0], &probe, &starts, ef, |node| self.twins_of(node).any(may));
        for found in found {
            for row in self.twins_of(found.place).filter(|row| may(*row)) {
                offer(found.key, row);
            }
        }
        probe.found(self.codes.metric, list)
    }

    /// Where to begin on the lowest layer: near the probe, and at the first node, from which all can be reached.
    fn entries(&self, probe: &codes::Probe) -> [u32; 2] {
        let mut near = 0;
        for upper in self.layers[1..].iter().rev() {
            near = walk(&self.codes, upper, probe, &[near], 1, |_| true).first().map_or(0, |found| found.place);
            near = upper.down[near as usize];
        }
        [near, 0]
    }

    /// A node's row, and those of the same code.
    fn twins_of(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let mut last = self.len() as u32;
        std::iter::successors(Some(node), move |row| {
            let next = self.twins[*row as usize];
            let good = next != NONE && next < last && next > node;
            last = next;
            good.then_some(next)
        })
    }
}
