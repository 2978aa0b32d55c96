//! The walk towards a query: always on from the nearest row whose neighbours were not looked at yet.

use super::codes::{Codes, Probe};
use crate::column::Column;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// No link.
pub(super) const NONE: u32 = u32::MAX;

/// The links of one layer. A node is a place in it; on the lowest layer, places are rows.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Most links of a node.
    pub(super) width: usize,
    /// The row of each node; empty on the lowest layer.
    pub(super) rows: Column<u32>,
    /// The place of each node on the layer below; empty on the lowest.
    pub(super) down: Column<u32>,
    /// `width` places a node, filled up with [`NONE`].
    pub(super) links: Column<u32>,
}

/// A node and its key; the greater is the nearer, and of equal keys the earlier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) key: f32,
    pub(super) place: u32,
}

impl Eq for Found {}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Found) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Found {
    fn cmp(&self, other: &Found) -> Ordering {
        self.key.total_cmp(&other.key).then(other.place.cmp(&self.place))
    }
}

impl Layer {
    pub(super) fn new(width: usize) -> Layer {
        Layer { width, rows: Column::default(), down: Column::default(), links: Column::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.links.len() / self.width
    }

    /// The row of a node.
    #[inline]
    pub(super) fn row(&self, place: u32) -> u32 {
        self.rows.get(place as usize).copied().unwrap_or(place)
    }

    /// The links of a node. Those of a damaged file that lead nowhere are left out.
    #[inline]
    pub(super) fn links(&self, place: u32) -> impl Iterator<Item = u32> + '_ {
        let n = self.len() as u32;
        let links = &self.links[place as usize * self.width..][..self.width];
        links.iter().copied().take_while(|link| *link != NONE).filter(move |link| *link < n)
    }

    /// Sets the links of a node.
    pub(super) fn set(&mut self, place: u32, links: &[u32]) {
        let width = self.width;
        let all = &mut self.links.to_mut()[place as usize * width..][..width];
        all.fill(NONE);
        all[..links.len()].copy_from_slice(links);
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes() + self.down.bytes() + self.links.bytes()
    }
}

/// The `ef` nearest nodes that are accepted, nearest first, of those that a walk from `starts` comes by.
pub(super) fn walk(
    codes: &Codes,
    layer: &Layer,
    probe: &Probe,
    starts: &[u32],
    ef: usize,
    accept: impl Fn(u32) -> bool,
) -> Vec<Found> {
    let mut seen = vec![0u64; layer.len().div_ceil(64)];
    let mut unseen = |place: u32| {
        let (word, bit) = (&mut seen[place as usize / 64], 1 << (place % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    };
    let (mut frontier, mut best) = (BinaryHeap::new(), BinaryHeap::<Reverse<Found>>::with_capacity(ef + 1));
    let (mut rows, mut keys) = (Vec::new(), Vec::new());
    let mut places: Vec<u32> = starts.iter().copied().filter(|place| unseen(*place)).collect();
    loop {
        rows.clear();
        rows.extend(places.iter().map(|place| layer.row(*place)));
        codes.keys(probe, &rows, &mut keys);
        for (key, place) in keys.iter().zip(&places) {
            let found = Found { key: *key, place: *place };
            if best.len() == ef && best.peek().is_some_and(|Reverse(worst)| found <= *worst) {
                continue;
            }
            frontier.push(found);
            if accept(*place) {
                best.push(Reverse(found));
                if best.len() > ef {
                    best.pop();
                }
            }
        }
        let Some(next) = frontier.pop() else { break };
        if best.len() == ef && best.peek().is_some_and(|Reverse(worst)| next < *worst) {
            break;
        }
        places.clear();
        places.extend(layer.links(next.place).filter(|place| unseen(*place)));
    }
    best.into_sorted_vec().into_iter().map(|Reverse(found)| found).collect()
}
