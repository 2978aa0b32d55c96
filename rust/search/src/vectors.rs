//! Vectors as they were given, row after row: f32, or f16 and bf16 that are widened where they are read.

use crate::column::Column;
use crate::rows8::prefetch;
use memmap2::Mmap;
use polmrs_core::{Dtype, dtype};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Rows of one length in one type.
#[derive(Debug)]
pub struct Vectors {
    dim: usize,
    elements: Elements,
}

#[derive(Debug)]
enum Elements {
    Full(Column<f32>),
    Half(Dtype, Column<u16>),
}

impl Vectors {
    /// No rows yet. `dtype` is F32, F16 or BF16.
    pub fn new(dim: usize, dtype: Dtype) -> Vectors {
        let elements = match dtype {
            Dtype::F16 | Dtype::BF16 => Elements::Half(dtype, Column::default()),
            _ => Elements::Full(Column::default()),
        };
        Vectors { dim, elements }
    }

    /// Rows that lie in a mapped file; nothing if the bytes are no whole rows.
    pub(crate) fn map(dim: usize, dtype: Dtype, file: &Arc<Mmap>, range: Range<usize>) -> Option<Vectors> {
        let elements = match dtype {
            Dtype::F32 => Elements::Full(Column::map(file, range)?),
            Dtype::F16 | Dtype::BF16 => Elements::Half(dtype, Column::map(file, range)?),
            _ => return None,
        };
        let len = match &elements {
            Elements::Full(all) => all.len(),
            Elements::Half(_, all) => all.len(),
        };
        len.is_multiple_of(dim).then_some(Vectors { dim, elements })
    }

    /// The numbers as they are kept.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.elements {
            Elements::Full(all) => bytemuck::cast_slice(all),
            Elements::Half(_, all) => bytemuck::cast_slice(all),
        }
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        match &mut self.elements {
            Elements::Full(all) => drop(all.to_mut()),
            Elements::Half(_, all) => drop(all.to_mut()),
        }
    }

    /// Adds rows, rounded to the stored type.
    pub fn push(&mut self, rows: &[f32]) {
        match &mut self.elements {
            Elements::Full(all) => all.to_mut().extend_from_slice(rows),
            Elements::Half(dtype, all) => {
                let all = all.to_mut();
                let start = all.len();
                all.resize(start + rows.len(), 0);
                dtype::from_f32(*dtype, rows, bytemuck::cast_slice_mut(&mut all[start..]));
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.elements {
            Elements::Full(all) => all.len() / self.dim,
            Elements::Half(_, all) => all.len() / self.dim,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows `first..last` in f32.
    pub fn rows(&self, first: usize, last: usize) -> Cow<'_, [f32]> {
        let range = first * self.dim..last * self.dim;
        match &self.elements {
            Elements::Full(all) => Cow::Borrowed(&all[range]),
            Elements::Half(dtype, all) => {
                let mut wide = vec![0.0; range.len()];
                dtype::to_f32(*dtype, bytemuck::cast_slice(&all[range]), &mut wide);
                Cow::Owned(wide)
            }
        }
    }

    /// One row in f32.
    pub fn row(&self, row: usize) -> Cow<'_, [f32]> {
        self.rows(row, row + 1)
    }

    /// Asks for a row that will be needed soon.
    #[inline(always)]
    pub fn prefetch(&self, row: usize) {
        let range = row * self.dim..(row + 1) * self.dim;
        match &self.elements {
            Elements::Full(all) => prefetch(&all[range]),
            Elements::Half(_, all) => prefetch(&all[range]),
        }
    }

    /// Adds rows of the same length and type.
    pub(crate) fn append(&mut self, more: Vectors) {
        match (&mut self.elements, more.elements) {
            (Elements::Full(all), Elements::Full(more)) => all.append(more),
            (Elements::Half(_, all), Elements::Half(_, more)) => all.append(more),
            _ => {} // an index has one type
        }
    }

    /// Keeps the rows of this list, in its order, which is increasing.
    pub fn keep(&mut self, rows: &[usize]) {
        match &mut self.elements {
            Elements::Full(all) => all.keep(self.dim, rows),
            Elements::Half(_, all) => all.keep(self.dim, rows),
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match &self.elements {
            Elements::Full(all) => all.bytes(),
            Elements::Half(_, all) => all.bytes(),
        }
    }
}

/// Rows that are there, and rows that come after them.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'a> {
    there: &'a Vectors,
    more: Option<&'a Vectors>,
}

impl<'a> Joined<'a> {
    /// These after those.
    pub fn new(there: &'a Vectors, more: &'a Vectors) -> Joined<'a> {
        Joined { there, more: Some(more) }
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.there.len() + self.more.map_or(0, Vectors::len)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// One row in f32.
    pub fn row(self, row: usize) -> Cow<'a, [f32]> {
        match self.more {
            Some(more) if row >= self.there.len() => more.row(row - self.there.len()),
            _ => self.there.row(row),
        }
    }
}

impl<'a> From<&'a Vectors> for Joined<'a> {
    fn from(there: &'a Vectors) -> Joined<'a> {
        Joined { there, more: None }
    }
}
