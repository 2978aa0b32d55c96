//! One tensor of a layout, and which of its bytes belong to which rows of the weight.

use polmrs_core::Dtype;
use std::borrow::Cow;
use std::ops::Range;

/// What a block of the weight's rows is within a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A run of lines (steps along the first axis): every `rows` rows of the weight are `lines` of them.
    Lines {
        /// Rows of the weight.
        rows: usize,
        /// Lines of the tensor.
        lines: usize,
    },
    /// A stripe, because the tensor is the weight's transpose: every `rows` rows of the weight are `columns` columns.
    Columns {
        /// Rows of the weight.
        rows: usize,
        /// Columns of the tensor.
        columns: usize,
    },
    /// Nothing: the tensor is about the whole weight.
    Whole,
}

/// A tensor that a checkpoint holds for a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name after that of the module: `weight_packed` for `model.layers.0.mlp.up_proj.weight_packed`.
    pub suffix: &'static str,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What a block of rows is within it.
    pub part: Part,
}

impl Tensor {
    pub(crate) fn new(suffix: &'static str, dtype: Dtype, shape: &[usize], part: Part) -> Tensor {
        Tensor { suffix, dtype, shape: shape.iter().map(|axis| *axis as u64).collect(), part }
    }

    /// A tensor whose first axis is the weight's rows.
    pub(crate) fn by_rows(suffix: &'static str, dtype: Dtype, shape: &[usize]) -> Tensor {
        Tensor::new(suffix, dtype, shape, Part::Lines { rows: 1, lines: 1 })
    }

    /// Its size in bytes.
    pub fn nbytes(&self) -> usize {
        self.shape.iter().product::<u64>() as usize * self.dtype.size()
    }

    /// The runs of bytes that a block of rows is, one after the other; the block's part is their concatenation.
    pub fn runs(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let nbytes = self.nbytes();
        let (stride, run, count) = match self.part {
            Part::Lines { rows: per, lines } => {
                let line = nbytes / self.axis(0).max(1);
                let steps = steps(&rows, per, lines, self.axis(0));
                (0, steps.start * line..steps.end * line, 1)
            }
            Part::Columns { rows: per, columns } => {
                let (width, size) = (self.axis(self.shape.len() - 1), self.dtype.size());
                let steps = steps(&rows, per, columns, width);
                (width * size, steps.start * size..steps.end * size, nbytes / (width * size).max(1))
            }
            Part::Whole => (0, 0..nbytes, 1),
        };
        (0..count).map(move |at| at * stride + run.start..at * stride + run.end)
    }

    /// Puts a block's part where it belongs in the whole tensor.
    pub fn place(&self, part: &[u8], rows: Range<usize>, whole: &mut [u8]) {
        let mut rest = part;
        for run in self.runs(rows) {
            let (now, later) = rest.split_at(run.len());
            whole[run].copy_from_slice(now);
            rest = later;
        }
    }

    /// A block's part of the whole tensor.
    pub fn strip<'a>(&self, whole: &'a [u8], rows: Range<usize>) -> Strip<'a> {
        let mut runs = self.runs(rows);
        let first = runs.next().unwrap_or_default();
        let second = runs.next();
        let end = runs.last().or_else(|| second.clone()).map_or(first.end, |last| last.end);
        let stride = second.map_or(first.len(), |second| second.start - first.start);
        Strip { bytes: &whole[first.start..end], stride, width: first.len() }
    }

    fn axis(&self, at: usize) -> usize {
        self.shape.get(at).map_or(1, |axis| *axis as usize)
    }
}

/// A block's part of a tensor, where it is: lines of equal width, equally far apart.
#[derive(Clone, Copy, Debug)]
pub struct Strip<'a> {
    bytes: &'a [u8],
    stride: usize,
    width: usize,
}

impl<'a> Strip<'a> {
    /// Bytes that lie together.
    pub const fn of(bytes: &'a [u8]) -> Strip<'a> {
        Strip { bytes, stride: bytes.len(), width: bytes.len() }
    }

    /// The number of its bytes.
    pub fn nbytes(&self) -> usize {
        self.bytes.len().div_ceil(self.stride.max(1)) * self.width
    }

    /// Its bytes, one line after the other.
    pub fn together(&self) -> Cow<'a, [u8]> {
        if self.width == self.stride {
            return Cow::Borrowed(self.bytes);
        }
        Cow::Owned(self.copied_into(Vec::new()))
    }

    /// The same in a buffer that is used again.
    pub(super) fn copied_into(&self, mut buffer: Vec<u8>) -> Vec<u8> {
        buffer.clear();
        buffer.reserve(self.nbytes());
        self.bytes.chunks(self.stride.max(1)).for_each(|line| buffer.extend_from_slice(&line[..self.width]));
        buffer
    }

    /// Its words as a matrix of this many rows: all from its first to its last, and how far apart the rows begin.
    pub(super) fn matrix(&self, rows: usize) -> (&'a [[u8; 4]], usize) {
        let stride = if self.width == self.stride { self.bytes.len() / rows.max(1) } else { self.stride };
        (self.bytes.as_chunks::<4>().0, stride / 4)
    }
}

/// The steps of an axis of length `end` that rows are, where every `per` rows are `each` steps.
fn steps(rows: &Range<usize>, per: usize, each: usize, end: usize) -> Range<usize> {
    let to = |row: usize| (row * each).div_ceil(per.max(1)).min(end);
    to(rows.start)..to(rows.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(tensor: &Tensor, rows: Range<usize>) -> Vec<Range<usize>> {
        tensor.runs(rows).collect()
    }

    fn one(tensor: &Tensor, rows: Range<usize>) -> Range<usize> {
        let all = runs(tensor, rows);
        assert_eq!(all.len(), 1);
        all[0].clone()
    }

    #[test]
    fn rows_are_lines_or_a_stripe_or_everything() {
        let lines = Tensor::by_rows("weight_scale", Dtype::BF16, &[100, 3]);
        assert_eq!(one(&lines, 10..12), 60..72);
        let packed = Tensor::new("weight_zero_point", Dtype::I32, &[13, 3], Part::Lines { rows: 32, lines: 4 });
        assert_eq!(one(&packed, 32..64), 48..96);
        assert_eq!(one(&packed, 96..100), 144..156); // the last four rows fill half of the thirteenth word
        let stripe = Tensor::new("qweight", Dtype::I32, &[2, 100], Part::Columns { rows: 1, columns: 1 });
        assert_eq!(runs(&stripe, 10..12), [40..48, 440..448]);
        let eighths = Tensor::new("qweight", Dtype::I32, &[2, 8], Part::Columns { rows: 8, columns: 1 });
        assert_eq!(runs(&eighths, 16..32), [8..16, 40..48]);
        let whole = Tensor::new("weight_shape", Dtype::I64, &[2], Part::Whole);
        assert_eq!(one(&whole, 5..7), 0..16);
    }

    #[test]
    fn parts_fill_the_tensor_they_are_of() {
        for part in [Part::Lines { rows: 8, lines: 2 }, Part::Columns { rows: 8, columns: 3 }] {
            let shape = if matches!(part, Part::Lines { .. }) { [10, 5] } else { [5, 15] };
            let tensor = Tensor::new("x", Dtype::I32, &shape, part);
            let whole: Vec<u8> = (0..tensor.nbytes()).map(|at| at as u8).collect();
            let mut back = vec![0xff; whole.len()];
            for rows in [0..16, 16..24, 24..40] {
                tensor.place(&tensor.strip(&whole, rows.clone()).together(), rows, &mut back);
            }
            assert_eq!(back, whole, "{part:?}");
        }
    }
}
