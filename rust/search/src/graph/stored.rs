//! A graph in a file.

use super::codes::Rows;
use super::walk::Layer;
use super::{Graph, NONE};
use crate::column::Column;
use memmap2::Mmap;
use serde_json::{Value as Json, json};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

impl Graph {
    /// What a file keeps besides [`sections`](Graph::sections).
    pub(crate) fn facts(&self) -> Json {
        let layers: Vec<usize> = self.layers[1..].iter().map(Layer::len).collect();
        json!({"extremes": self.codes.extremes, "upper": layers, "connected": self.connected})
    }

    /// The parts that a file keeps; the upper layers, a small part, one after another.
    pub(crate) fn sections(&self) -> Vec<(&'static str, Cow<'_, [u8]>)> {
        let of_upper = |part: fn(&Layer) -> &Column<u32>| {
            let all: Vec<u32> = self.layers[1..].iter().flat_map(|layer| part(layer).iter().copied()).collect();
            Cow::Owned(bytemuck::cast_slice(&all).to_vec())
        };
        vec![
            ("codes", Cow::Borrowed(self.codes.code_bytes())),
            ("factors", Cow::Borrowed(bytemuck::cast_slice(&self.codes.factors))),
            ("links", Cow::Borrowed(bytemuck::cast_slice(&self.layers[0].links))),
            ("twins", Cow::Borrowed(bytemuck::cast_slice(&self.twins))),
            ("upper_rows", of_upper(|layer| &layer.rows)),
            ("upper_down", of_upper(|layer| &layer.down)),
            ("upper_links", of_upper(|layer| &layer.links)),
        ]
    }

    /// This graph with what a file keeps of `rows` rows; nothing if it does not fit together.
    pub(crate) fn mapped(
        mut self,
        rows: usize,
        facts: &Json,
        map: &Arc<Mmap>,
        section: &dyn Fn(&str) -> Option<Range<usize>>,
    ) -> Option<Graph> {
        let numbers = |name: &str| Column::<u32>::map(map, section(name)?);
        let dim = self.codes.dim();
        self.codes.rows = match self.codes.rows {
            Rows::Halves(_) => Rows::Halves(Column::map(map, section("codes")?).filter(|all| all.len() == rows * dim)?),
            Rows::Bytes(empty) => Rows::Bytes(empty.with(rows, Column::map(map, section("codes")?)?)?),
        };
        self.codes.factors = Column::map(map, section("factors")?).filter(|all| all.len() == rows)?;
        let extreme = |at: usize| facts.get("extremes")?.get(at)?.as_f64();
        self.codes.extremes = [extreme(0)? as f32, extreme(1)? as f32];
        self.connected = usize::try_from(facts.get("connected")?.as_u64()?).ok()?;
        self.twins = numbers("twins").filter(|all| all.len() == rows)?;
        self.layers[0].links = numbers("links").filter(|all| all.len() == rows * self.layers[0].width)?;
        let (all_rows, all_down, all_links) = (numbers("upper_rows")?, numbers("upper_down")?, numbers("upper_links")?);
        let (mut start, mut below) = (0usize, rows);
        for len in facts.get("upper")?.as_array()? {
            let len = usize::try_from(len.as_u64()?).ok().filter(|len| *len > 0 && *len <= below)?;
            let mut layer = Layer::new(self.settings.m);
            let of = |all: &Column<u32>, size: usize| {
                all.get(start * size..(start + len) * size).map(|part| Column::Owned(part.to_vec()))
            };
            layer.rows = of(&all_rows, 1)?;
            layer.down = of(&all_down, 1)?;
            layer.links = of(&all_links, layer.width)?;
            let good = layer.rows.iter().all(|row| (*row as usize) < rows)
                && layer.down.iter().all(|place| (*place as usize) < below)
                && layer.links.iter().all(|link| *link == NONE || (*link as usize) < len);
            if !good {
                return None;
            }
            self.layers.push(layer);
            (start, below) = (start + len, len);
        }
        Some(self)
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        self.codes.to_mut();
        self.twins.to_mut();
        self.layers[0].links.to_mut();
    }
}
