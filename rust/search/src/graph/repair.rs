//! A graph that stays whole: links around rows that go, and a way to every node.

use super::Graph;
use super::build::nearest_apart;
use super::walk::{Layer, NONE, walk};
use crate::column::Column;
use polmrs_core::{Result, pool};
use rayon::prelude::*;
use std::collections::HashSet;

/// Dead nodes that are gone through to find who lives behind them.
const MOST_DEAD: usize = 64;

impl Graph {
    /// Keeps the rows of this list, which is increasing. A node that loses a neighbour may link to those behind it.
    ///
    /// # Errors
    /// Those of making a thread pool.
    pub fn keep(&mut self, rows: &[usize]) -> Result<()> {
        let mut place = vec![NONE; self.len()];
        for (to, from) in rows.iter().enumerate() {
            place[*from] = to as u32;
        }
        // A node whose row goes is now at the first of its twins that stays.
        let (mut twins, mut moved) = (vec![NONE; rows.len()], vec![NONE; self.len()]);
        for node in self.nodes() {
            let mut stay: Vec<u32> =
                self.twins_of(node).map(|row| place[row as usize]).filter(|row| *row != NONE).collect();
            stay.sort_unstable();
            let Some((first, rest)) = stay.split_first() else { continue };
            moved[node as usize] = *first;
            let mut last = *first as usize;
            for row in rest.iter().rev() {
                twins[last] = *row;
                last = *row as usize;
            }
        }
        let mut layers = Vec::new();
        let mut below: Vec<u32> = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let lives = |at: u32| moved[layer.row(at) as usize] != NONE;
            let living: Vec<u32> = (0..layer.len() as u32).filter(|at| lives(*at)).collect();
            if number > 0 && living.is_empty() {
                break;
            }
            let links: Vec<Vec<u32>> =
                pool::shared()?.install(|| living.par_iter().map(|at| mended(self, layer, *at, lives)).collect());
            let mut to = moved.clone();
            let mut next = Layer::new(layer.width);
            if number > 0 {
                to = vec![NONE; layer.len()];
                for (new, old) in living.iter().enumerate() {
                    to[*old as usize] = new as u32;
                }
                let of_living = |of: &[u32]| living.iter().map(|at| of[*at as usize]).collect::<Vec<u32>>();
                next.rows = Column::Owned(of_living(&layer.rows).iter().map(|row| moved[*row as usize]).collect());
                // In a damaged file, what lives here may have died below: then the way down begins at the first.
                let down = |at: &u32| Some(below[*at as usize]).filter(|place| *place != NONE).unwrap_or(0);
                next.down = Column::Owned(of_living(&layer.down).iter().map(down).collect());
            }
            let n = if number > 0 { living.len() } else { rows.len() };
            next.links = Column::Owned(vec![NONE; n * layer.width]);
            for (old, links) in living.iter().zip(links) {
                let links: Vec<u32> = links.iter().map(|link| to[*link as usize]).collect();
                next.set(to[*old as usize], &links);
            }
            layers.push(next);
            below = to;
        }
        self.codes.keep(rows);
        (self.layers, self.twins, self.known) = (layers, Column::Owned(twins), None);
        self.connect();
        Ok(())
    }

    /// The rows that are nodes.
    fn nodes(&self) -> Vec<u32> {
        let mut is_twin = vec![false; self.len()];
        for twin in self.twins.iter() {
            if let Some(is_twin) = is_twin.get_mut(*twin as usize) {
                *is_twin = true;
            }
        }
        (0..self.len() as u32).filter(|row| !is_twin[*row as usize]).collect()
    }

    /// Gives every node of the lowest layer that cannot be reached from the first a way from its nearest that can.
    pub(super) fn connect(&mut self) {
        self.connected = self.len();
        if self.is_empty() {
            return;
        }
        let mut seen = vec![false; self.len()];
        self.see(0, &mut seen);
        self.reach(&self.nodes(), &mut seen);
    }

    /// Gives each of these nodes that is not among the seen a way from its nearest that is.
    pub(super) fn reach(&mut self, nodes: &[u32], seen: &mut [bool]) {
        for node in nodes {
            if seen[*node as usize] {
                continue;
            }
            let mut probe = super::codes::Probe::default();
            self.codes.probe_row(*node as usize, &mut probe);
            let starts = self.entries(&probe);
            // The start that is near may itself be out of reach.
            let near = walk(&self.codes, &self.layers[0], &probe, &starts, 32, |place| seen[place as usize]);
            self.insert_after(near.first().map_or(0, |found| found.place), *node);
            self.see(*node, seen);
        }
    }

    /// Marks what can be reached from a node.
    pub(super) fn see(&self, from: u32, seen: &mut [bool]) {
        let mut open = vec![from];
        seen[from as usize] = true;
        while let Some(node) = open.pop() {
            for link in self.layers[0].links(node) {
                if !seen[link as usize] {
                    seen[link as usize] = true;
                    open.push(link);
                }
            }
        }
    }

    /// Lets `node`, which no one reaches, be reached from `from`. If that has no room, its last link becomes one of `node`,
    /// so that whoever was reached by it still is.
    fn insert_after(&mut self, from: u32, node: u32) {
        let layer = &mut self.layers[0];
        let mut links: Vec<u32> = layer.links(from).collect();
        if links.len() == layer.width
            && let Some(other) = links.pop()
        {
            let mut onward: Vec<u32> = layer.links(node).filter(|link| *link != other).collect();
            onward.truncate(layer.width - 1);
            onward.push(other);
            layer.set(node, &onward);
        }
        links.push(node);
        layer.set(from, &links);
    }
}

/// The links of a node among the living: its own, and, if some are dead, those behind them.
fn mended(graph: &Graph, layer: &Layer, node: u32, lives: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut links: Vec<u32> = layer.links(node).filter(|link| lives(*link)).collect();
    let mut dead: Vec<u32> = layer.links(node).filter(|link| !lives(*link)).collect();
    if dead.is_empty() {
        return links;
    }
    let mut seen: HashSet<u32> = links.iter().chain(&dead).copied().chain([node]).collect();
    let mut at = 0;
    while at < dead.len().min(MOST_DEAD) {
        for link in layer.links(dead[at]).filter(|link| seen.insert(*link)) {
            if lives(link) { links.push(link) } else { dead.push(link) }
        }
        at += 1;
    }
    links.sort_unstable();
    nearest_apart(&graph.codes, layer, node, &links)
}
