//! A model with its vocabulary matrices in the rows of another vocabulary: computed while reading, never held.
//!
//! Runs of rows that follow each other in a model are read in one go. A matrix whose rows are all copies of one type
//! keeps that type, bit for bit; one with means is given in the widest type of what it is made of and of the
//! configuration's `dtype`, so that a mean is rounded no more than the merge asks for.

use super::rows::{Row, Rows};
use polmrs_core::{Dtype, Error, Result, dtype};
use polmrs_engine::source::{Meta, Source};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes read at once for the mean of all rows.
const CHUNK: usize = 1 << 20;

/// How one tensor of a model is made.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// Where its rows come from.
    pub(crate) rows: Arc<Rows>,
    /// The tensor that goes with it in each model that gives rows.
    pub(crate) tensors: Vec<Option<usize>>,
    /// The type it is given in.
    pub(crate) dtype: Dtype,
    /// The mean of the rows that tokens have, once it is known.
    pub(crate) mean: Mutex<Option<Arc<[f32]>>>,
}

/// The maps of one model.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    /// For its tensors, in their order; none: it stays as it is.
    pub(crate) tensors: Vec<Option<Mapped>>,
    /// Heads that it ties and another model does not: the name, and how it is made.
    pub(crate) heads: Vec<(String, Mapped)>,
}

impl Maps {
    /// All of them.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Mapped> {
        self.tensors.iter().flatten().chain(self.heads.iter().map(|(_, map)| map))
    }
}

/// The view of one model.
pub struct Remapped<'a> {
    models: Vec<&'a dyn Source>,
    own: usize,
    maps: &'a Maps,
    tensors: Vec<Meta>,
}

impl<'a> Remapped<'a> {
    /// Model `own` of `models`, in the rows of `maps`.
    pub(crate) fn new(models: Vec<&'a dyn Source>, own: usize, maps: &'a Maps) -> Remapped<'a> {
        let mapped = |name: &str, map: &Mapped, shape: &[u64]| {
            let shape = [&[map.rows.count()], &shape[1..]].concat();
            Meta { name: name.into(), dtype: map.dtype, shape }
        };
        let own_tensors = models[own].tensors();
        let mut tensors = own_tensors.to_vec();
        for (meta, map) in tensors.iter_mut().zip(&maps.tensors) {
            if let Some(map) = map {
                *meta = mapped(&meta.name, map, &meta.shape);
            }
        }
        for (name, map) in &maps.heads {
            if let Some(embedding) = map.tensors[own] {
                tensors.push(mapped(name, map, &own_tensors[embedding].shape));
            }
        }
        Remapped { models, own, maps, tensors }
    }

    /// Elements `first ..` of the rows that `map` describes.
    fn read_mapped(&self, map: &Mapped, columns: u64, mut first: u64, mut bytes: &mut [u8]) -> Result<()> {
        let size = map.dtype.size();
        while !bytes.is_empty() {
            let (row, offset) = (first / columns, first % columns);
            let run = map.rows.at(row);
            let end = if matches!(run.row, Row::Mean(_) | Row::Blank) { row + 1 } else { run.end };
            let left = ((end - row) * columns - offset).min((bytes.len() / size) as u64);
            let (piece, rest) = bytes.split_at_mut(left as usize * size);
            match run.row {
                Row::Zero => piece.fill(0),
                Row::Copy { model, row: start } => {
                    self.copy(map, *model, (start + row - run.first) * columns + offset, piece)?;
                }
                Row::Mean(rows) => {
                    let mut mean = vec![0.0; left as usize];
                    let mut values = mean.clone();
                    for (model, row) in rows {
                        self.values(map, *model, row * columns + offset, &mut values)?;
                        mean.iter_mut().zip(&values).for_each(|(mean, value)| *mean += value);
                    }
                    mean.iter_mut().for_each(|mean| *mean /= rows.len() as f32);
                    dtype::from_f32(map.dtype, &mean, piece);
                }
                Row::Blank => {
                    let mean = self.mean(map, columns)?;
                    dtype::from_f32(map.dtype, &mean[offset as usize..][..left as usize], piece);
                }
            }
            (first, bytes) = (first + left, rest);
        }
        Ok(())
    }

    /// Elements of a model's tensor, in the map's type.
    fn copy(&self, map: &Mapped, model: usize, first: u64, bytes: &mut [u8]) -> Result<()> {
        let tensor = self.tensor(map, model)?;
        if self.models[model].tensors()[tensor].dtype == map.dtype {
            return self.models[model].read(tensor, first, bytes);
        }
        let mut values = vec![0.0; bytes.len() / map.dtype.size()];
        self.values(map, model, first, &mut values)?;
        dtype::from_f32(map.dtype, &values, bytes);
        Ok(())
    }

    /// Elements of a model's tensor, as numbers.
    fn values(&self, map: &Mapped, model: usize, first: u64, values: &mut [f32]) -> Result<()> {
        let tensor = self.tensor(map, model)?;
        let from = self.models[model].tensors()[tensor].dtype;
        let mut bytes = vec![0; values.len() * from.size()];
        self.models[model].read(tensor, first, &mut bytes)?;
        dtype::to_f32(from, &bytes, values);
        Ok(())
    }

    fn tensor(&self, map: &Mapped, model: usize) -> Result<usize> {
        map.tensors[model].ok_or_else(|| Error::Internal(format!("model {model} gives no rows")))
    }

    /// The mean of the rows that tokens have: found by the first who asks, while the others wait.
    fn mean(&self, map: &Mapped, columns: u64) -> Result<Arc<[f32]>> {
        let mut known = map.mean.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mean) = &*known {
            return Ok(Arc::clone(mean));
        }
        let mut sums = vec![0.0_f64; columns as usize];
        let per_chunk = (CHUNK as u64 / (columns * map.dtype.size() as u64)).max(1);
        let (mut counted, mut row) = (0_u64, 0);
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        while row < map.rows.count() {
            let run = map.rows.at(row);
            if *run.row == Row::Blank {
                row = run.end;
                continue;
            }
            let count = per_chunk.min(run.end - row);
            bytes.resize((count * columns) as usize * map.dtype.size(), 0);
            values.resize((count * columns) as usize, 0.0);
            self.read_mapped(map, columns, row * columns, &mut bytes)?;
            dtype::to_f32(map.dtype, &bytes, &mut values);
            for row in values.chunks_exact(columns as usize) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            (counted, row) = (counted + count, row + count);
        }
        let mean: Arc<[f32]> = sums.iter().map(|sum| (sum / counted.max(1) as f64) as f32).collect();
        *known = Some(Arc::clone(&mean));
        Ok(mean)
    }
}

impl Source for Remapped<'_> {
    fn label(&self) -> &str {
        self.models[self.own].label()
    }

    fn tensors(&self) -> &[Meta] {
        &self.tensors
    }

    fn find(&self, name: &str) -> Option<usize> {
        let source = self.models[self.own];
        let head = || self.maps.heads.iter().position(|(head, _)| head == name);
        source.find(name).or_else(|| head().map(|at| source.tensors().len() + at))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.models[self.own].files()
    }

    fn read(&self, tensor: usize, first: u64, bytes: &mut [u8]) -> Result<()> {
        let source = self.models[self.own];
        let map = match tensor.checked_sub(source.tensors().len()) {
            None => self.maps.tensors.get(tensor).and_then(Option::as_ref),
            Some(head) => Some(&self.maps.heads[head].1),
        };
        match map {
            None => source.read(tensor, first, bytes),
            Some(map) => self.read_mapped(map, self.tensors[tensor].shape[1..].iter().product(), first, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polmrs_engine::source::MemorySource;
    use proptest::prelude::*;

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let copy = || (0..2_usize, 0..9_u64).prop_map(|(model, row)| Row::Copy { model, row });
        let mean = prop::collection::vec((0..2_usize, 0..9_u64), 1..4).prop_map(|rows| Row::Mean(rows.into()));
        let run = (0..2_usize, 0..9_u64, 1..9_u64).prop_map(|(model, first, count)| {
            (first..9.min(first + count)).map(|row| Row::Copy { model, row }).collect::<Vec<_>>()
        });
        let one = prop_oneof![copy(), mean, Just(Row::Zero), Just(Row::Blank)].prop_map(|row| vec![row]);
        prop::collection::vec(prop_oneof![one, run], 1..12).prop_map(|rows| rows.concat())
    }

    /// Element `at` of the remapped matrix, by itself.
    fn element(rows: &[Row], models: &[Vec<f32>; 2], columns: usize, at: usize) -> f32 {
        let (row, column) = (at / columns, at % columns);
        let value = |model: usize, row: u64| models[model][row as usize * columns + column];
        match &rows[row] {
            Row::Zero => 0.0,
            Row::Copy { model, row } => value(*model, *row),
            Row::Mean(rows) => rows.iter().map(|(model, row)| value(*model, *row)).sum::<f32>() / rows.len() as f32,
            Row::Blank => {
                let tokens: Vec<usize> = (0..rows.len()).filter(|row| rows[*row] != Row::Blank).collect();
                let column = |row: &usize| f64::from(element(rows, models, columns, row * columns + column));
                (tokens.iter().map(column).sum::<f64>() / tokens.len().max(1) as f64) as f32
            }
        }
    }

    proptest! {
        #[test]
        fn any_piece_is_what_its_elements_are_by_themselves(
            rows in rows(), columns in 1..6_usize, at in 0..1000_usize, len in 0..1000_usize,
        ) {
            let models = [0, 1].map(|model| (0..9 * columns).map(|at| (at + 100 * model) as f32).collect::<Vec<f32>>());
            let bytes = models.each_ref().map(|model| model.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
            let meta = Meta { name: "embed".into(), dtype: Dtype::F32, shape: vec![9, columns as u64] };
            let sources = [0, 1].map(|model| MemorySource::new("m", vec![(meta.clone(), &bytes[model][..])]).unwrap());
            let mut runs = Rows::default();
            rows.iter().for_each(|row| runs.push(row.clone()));
            let tensors = vec![Some(0), Some(0)];
            let map = Mapped { rows: Arc::new(runs), tensors, dtype: Dtype::F32, mean: Mutex::new(None) };
            let maps = Maps { tensors: vec![Some(map)], heads: Vec::new() };
            let view = Remapped::new(sources.iter().map(|source| source as &dyn Source).collect(), 1, &maps);
            prop_assert_eq!(&view.tensors()[0].shape, &[rows.len() as u64, columns as u64]);
            let size = rows.len() * columns;
            let first = at % size;
            let len = len % (size - first + 1);
            let mut piece = vec![0; 4 * len];
            view.read(0, first as u64, &mut piece).unwrap();
            for (at, value) in piece.chunks_exact(4).enumerate() {
                let value = f32::from_le_bytes(value.try_into().unwrap());
                prop_assert_eq!(value, element(&rows, &models, columns, first + at));
            }
        }
    }
}
