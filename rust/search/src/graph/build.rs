//! Rows that join the graph, batch after batch.

use super::Graph;
use super::codes::{Codes, Probe};
use super::walk::{Found, Layer, NONE, walk};
use crate::vectors::Joined;
use polmrs_core::philox::{Key, fill};
use polmrs_core::{Ctl, Result, pool};
use rayon::prelude::*;
use std::collections::HashMap;

/// Most rows that join together; they are no more than this part of those that are there.
const BATCH: usize = 256;
const PART: usize = 4;
/// More layers than any graph has.
const MAX_LAYERS: usize = 16;
/// All nodes are made sure to be within reach once the graph has grown by this part.
const UNCHECKED: usize = 1024;

/// What a row that joins has found, layer after layer: nodes, nearest first.
type Neighbours = Vec<Vec<Found>>;

impl Graph {
    /// Takes in the rows that came since. If it is cancelled, some of them are in, and all is well with those.
    ///
    /// # Errors
    /// [`polmrs_core::Error::Cancelled`]; those of making a thread pool, before anything is done.
    pub fn extend(&mut self, vectors: Joined<'_>, ctl: &Ctl) -> Result<()> {
        let bytes = 4 * self.codes.dim() as u64;
        pool::shared()?; // what fails later is nothing but a stop
        ctl.expect((vectors.len() - self.len()) as u64 * bytes);
        while self.len() < vectors.len() {
            ctl.check()?;
            let first = self.len();
            let last = vectors.len().min(first + (first / PART).clamp(1, BATCH));
            for row in first..last {
                self.codes.push(&vectors.row(row));
            }
            let new = self.without_twins(first..last);
            self.join(&new)?;
            ctl.advance((last - first) as u64 * bytes);
        }
        if self.connected.saturating_add(self.connected / UNCHECKED) < self.len() {
            self.connect();
        }
        Ok(())
    }

    /// The rows whose code no node has. The others hang on their node.
    fn without_twins(&mut self, rows: std::ops::Range<usize>) -> Vec<u32> {
        let nodes =
            |this: &Graph| (0..this.len() as u32).map(|row| (this.codes.hash(row as usize), row)).rev().collect();
        let mut known: HashMap<u64, u32> = self.known.take().unwrap_or_else(|| nodes(self));
        let twins = self.twins.to_mut();
        let mut new = Vec::new();
        for row in rows {
            twins.push(NONE);
            let node = *known.entry(self.codes.hash(row)).or_insert(row as u32);
            if node as usize != row && self.codes.equal(node as usize, row) {
                twins[row] = std::mem::replace(&mut twins[node as usize], row as u32);
            } else {
                new.push(row as u32);
            }
        }
        self.known = Some(known);
        let (n, width) = (self.twins.len(), self.layers[0].width);
        self.layers[0].links.to_mut().resize(n * width, NONE);
        new
    }

    /// The highest layer of a row.
    fn height(&self, row: u32) -> usize {
        let mut word = [0];
        fill(Key::new(self.settings.seed, "polmrs.search", "layers"), u64::from(row), &mut word);
        let (word, m) = (u64::from(word[0].max(1)), self.settings.m as u64);
        let part = |height: &usize| word.saturating_mul(m.saturating_pow(*height as u32 + 1)) < 1 << 32;
        (0..MAX_LAYERS).take_while(part).count()
    }

    fn join(&mut self, new: &[u32]) -> Result<()> {
        let heights: Vec<usize> = new.iter().map(|row| self.height(*row)).collect();
        let top = heights.iter().copied().max().unwrap_or(0);
        // The place of each new row on each layer that it is on.
        let mut places: Vec<Vec<u32>> = new.iter().map(|row| vec![*row]).collect();
        for layer in 1..=top {
            let mut next = self.layers.get(layer).map_or(0, Layer::len) as u32;
            for (places, height) in places.iter_mut().zip(&heights) {
                if *height >= layer {
                    places.push(next);
                    next += 1;
                }
            }
        }
        let pool = pool::shared()?;
        let chosen: Vec<Vec<Vec<u32>>> = pool.install(|| {
            let choose = |at: usize| self.choose(new, &places, at);
            (0..new.len()).into_par_iter().map(choose).collect()
        });
        while self.layers.len() <= top {
            self.layers.push(Layer::new(self.settings.m));
        }
        let mut back: Vec<(usize, u32, u32)> = Vec::new(); // layer, target, source
        for ((row, places), chosen) in new.iter().zip(&places).zip(&chosen) {
            for (number, (place, links)) in places.iter().zip(chosen).enumerate() {
                let layer = &mut self.layers[number];
                if number > 0 {
                    layer.rows.to_mut().push(*row);
                    layer.down.to_mut().push(places[number - 1]);
                    let end = layer.links.len() + layer.width;
                    layer.links.to_mut().resize(end, NONE);
                }
                layer.set(*place, links);
                back.extend(links.iter().map(|target| (number, *target, *place)));
            }
        }
        back.sort_unstable();
        let targets: Vec<&[(usize, u32, u32)]> = back.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
        let linked: Vec<Vec<u32>> = pool.install(|| {
            let link =
                |group: &&[(usize, u32, u32)]| self.linked(group[0].0, group[0].1, group.iter().map(|one| one.2));
            targets.par_iter().map(link).collect()
        });
        for (group, links) in targets.iter().zip(linked) {
            self.layers[group[0].0].set(group[0].1, &links);
        }
        // Rows of one batch may have found nothing but each other.
        let old = |target: &u32| new.first().is_some_and(|first| target < first);
        let mut seen: Vec<bool> = (0..self.len() as u32).map(|row| old(&row) || row == 0).collect();
        for group in targets.iter().filter(|group| group[0].0 == 0 && old(&group[0].1)) {
            self.see(group[0].1, &mut seen);
        }
        self.reach(new, &mut seen);
        Ok(())
    }

    /// The links of a new row, layer after layer.
    fn choose(&self, new: &[u32], places: &[Vec<u32>], at: usize) -> Vec<Vec<u32>> {
        let mut probe = Probe::default();
        self.codes.probe_row(new[at] as usize, &mut probe);
        let mut found = self.neighbours(&probe, places[at].len(), new[at] == 0);
        let others: Vec<usize> = (0..new.len()).filter(|other| *other != at).collect();
        let rows: Vec<u32> = others.iter().map(|other| new[*other]).collect();
        let mut keys = Vec::new();
        self.codes.keys(&probe, &rows, &mut keys);
        for (key, other) in keys.iter().zip(others) {
            for (found, place) in found.iter_mut().zip(&places[other]) {
                found.push(Found { key: *key, place: *place });
            }
        }
        let row_of = |layer: usize, place: u32| {
            let old = self.layers.get(layer).map_or(0, Layer::len) as u32;
            if layer == 0 || place < old {
                return self.layers[layer].row(place);
            }
            let is_it = |(_, places): &(&u32, &Vec<u32>)| places.get(layer) == Some(&place);
            new.iter().zip(places).find(is_it).map_or(place, |(row, _)| *row)
        };
        let select = |(layer, mut found): (usize, Vec<Found>)| {
            found.sort_unstable_by(|a, b| b.cmp(a));
            found.truncate(self.settings.ef_construction);
            select(&self.codes, new[at], &found, self.settings.m, |place| row_of(layer, place))
        };
        found.into_iter().enumerate().map(select).collect()
    }

    /// What a walk finds on the first layers, as many as the row is on.
    fn neighbours(&self, probe: &Probe, layers: usize, is_first: bool) -> Neighbours {
        let mut all = vec![Vec::new(); layers];
        let mut starts = vec![0];
        for (number, layer) in self.layers.iter().enumerate().rev() {
            if number == 0 && is_first {
                break; // the only row there is itself
            }
            let ef = if number < layers { self.settings.ef_construction } else { 1 };
            let found = walk(&self.codes, layer, probe, &starts, ef, |_| true);
            starts = found.iter().take(ef).filter_map(|found| layer.down.get(found.place as usize).copied()).collect();
            if let Some(all) = all.get_mut(number) {
                *all = found;
            }
        }
        all
    }

    /// The links of a node that others have chosen.
    fn linked(&self, layer: usize, target: u32, sources: impl Iterator<Item = u32>) -> Vec<u32> {
        let layer = &self.layers[layer];
        let mut links: Vec<u32> = layer.links(target).collect();
        links.extend(sources);
        links.sort_unstable();
        links.dedup();
        if links.len() <= layer.width {
            return links;
        }
        nearest_apart(&self.codes, layer, target, &links)
    }
}

/// Of these neighbours, those that a node keeps.
pub(super) fn nearest_apart(codes: &Codes, layer: &Layer, node: u32, neighbours: &[u32]) -> Vec<u32> {
    let (mut probe, mut keys) = (Probe::default(), Vec::new());
    codes.probe_row(layer.row(node) as usize, &mut probe);
    let rows: Vec<u32> = neighbours.iter().map(|place| layer.row(*place)).collect();
    codes.keys(&probe, &rows, &mut keys);
    let mut found: Vec<Found> = neighbours.iter().zip(keys).map(|(place, key)| Found { key, place: *place }).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.truncate(3 * layer.width);
    select(codes, layer.row(node), &found, layer.width, |place| layer.row(place))
}

/// Of neighbours, nearest first, each that is nearer to `base` than to all that were taken before it (algorithm 4).
fn select(codes: &Codes, base: u32, found: &[Found], most: usize, row: impl Fn(u32) -> u32) -> Vec<u32> {
    let (mut places, mut rows) = (Vec::with_capacity(most), Vec::with_capacity(most));
    let (mut probe, mut keys) = (Probe::default(), Vec::new());
    for candidate in found {
        if places.len() == most {
            break;
        }
        let one = row(candidate.place);
        let to_base = codes.mirrored(candidate.key, base as usize, one as usize);
        codes.probe_row(one as usize, &mut probe);
        codes.keys(&probe, &rows, &mut keys);
        if keys.iter().all(|key| *key < to_base) {
            places.push(candidate.place);
            rows.push(one);
        }
    }
    places
}
