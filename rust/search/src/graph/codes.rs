//! What a walk compares: rotated vectors in bf16 or int8, whose dot products are near to those of the vectors.
//!
//! Rotation spreads every vector over all coordinates, so that the rounding of a dot product is nearly Gaussian and its
//! deviation is known: $\lVert q \rVert$ times that of a rounded coordinate of the row, and the other way round.

use super::Width;
use crate::column::Column;
use crate::finder::Found;
use crate::levels;
use crate::metric::{Metric, squared_norm};
use crate::rotation::Rotation;
use crate::rows8::Rows8;
use crate::shortlist::Shortlist;
use polmrs_core::{Dtype, dtype, simd};

/// Standard deviations of a key within which rows are scored from full vectors.
const MARGIN: f32 = 6.0;

/// The codes of rows. Row `i` has the key `dot * scale + offset` for a probe.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    pub(super) metric: Metric,
    rotation: Rotation,
    pub(super) rows: Rows,
    /// Scale and offset of each row.
    pub(super) factors: Column<[f32; 2]>,
    /// The largest deviation of a rounded coordinate, and the largest norm.
    pub(super) extremes: [f32; 2],
}

#[derive(Clone, Debug)]
pub(super) enum Rows {
    Halves(Column<u16>),
    Bytes(Rows8),
}

/// One side of comparisons: a query, or a row that is asked for its neighbours.
#[derive(Clone, Debug, Default)]
pub(super) struct Probe {
    wide: Vec<f32>,
    levels: Vec<i8>,
    correction: i32,
    scale: f32,
    /// How far below the `k`-th best key a row may lie that is better than it.
    pub(super) width: f32,
    norm: f32,
}

impl Probe {
    /// What keys of this query become scores by.
    pub(super) fn found(&self, metric: Metric, list: Shortlist) -> Found {
        let line = if metric == Metric::L2 { [2.0, -self.norm * self.norm] } else { [1.0, 0.0] };
        Found { candidates: list.finish(), line }
    }
}

impl Codes {
    pub(super) fn new(dim: usize, metric: Metric, width: Width) -> Codes {
        let rows = match width {
            Width::Bf16 => Rows::Halves(Column::default()),
            Width::Int8 => Rows::Bytes(Rows8::new(dim)),
        };
        Codes { metric, rotation: Rotation::new(dim), rows, factors: Column::default(), extremes: [0.0; 2] }
    }

    pub(super) fn dim(&self) -> usize {
        self.rotation.dim()
    }

    pub(super) fn len(&self) -> usize {
        self.factors.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let rows = match &self.rows {
            Rows::Halves(rows) => rows.bytes(),
            Rows::Bytes(rows) => rows.bytes(),
        };
        rows + self.factors.bytes()
    }

    /// Of unit length for the cosine, and rotated.
    fn turned(&self, vector: &[f32]) -> Vec<f32> {
        let mut turned = self.metric.directed(vector);
        self.rotation.apply(&mut turned);
        turned
    }

    /// Adds a row.
    pub(super) fn push(&mut self, vector: &[f32]) {
        let turned = self.turned(vector);
        let norm = squared_norm(&turned).sqrt();
        let offset = if self.metric == Metric::L2 { (-0.5 * norm * norm) as f32 } else { 0.0 };
        let (scale, deviation) = match &mut self.rows {
            Rows::Halves(rows) => {
                let rows = rows.to_mut();
                let start = rows.len();
                rows.resize(start + turned.len(), 0);
                dtype::from_f32(Dtype::BF16, &turned, bytemuck::cast_slice_mut(&mut rows[start..]));
                (1.0, half_deviation(norm, turned.len()))
            }
            Rows::Bytes(rows) => {
                let mut numbers = Vec::new();
                levels::quantize(&turned, levels::Width::Eight, &mut numbers);
                rows.push(&numbers);
                let step = step_of(&turned);
                (step, step / 12f32.sqrt())
            }
        };
        self.factors.to_mut().push([scale, offset]);
        self.extremes = [self.extremes[0].max(deviation), self.extremes[1].max(norm as f32)];
    }

    /// A query.
    pub(super) fn probe(&self, query: &[f32]) -> Probe {
        let turned = self.turned(query);
        let norm = squared_norm(&turned).sqrt() as f32;
        let step = step_of(&turned);
        let (mut probe, rounding) = match &self.rows {
            Rows::Halves(_) => (Probe { scale: 1.0, wide: turned, ..Probe::default() }, 0.0),
            Rows::Bytes(rows) => {
                let mut numbers = Vec::new();
                levels::quantize(&turned, levels::Width::Eight, &mut numbers);
                let (levels, correction) = rows.query(&numbers);
                (Probe { levels, correction, scale: step, ..Probe::default() }, step / 12f32.sqrt())
            }
        };
        let [deviation, largest] = self.extremes;
        probe.norm = norm;
        probe.width = MARGIN * (norm * deviation).hypot(largest * rounding);
        probe
    }

    /// A row as a query for others.
    pub(super) fn probe_row(&self, row: usize, probe: &mut Probe) {
        match &self.rows {
            Rows::Halves(rows) => {
                let dim = self.dim();
                probe.wide.clear();
                probe.wide.extend(rows[row * dim..(row + 1) * dim].iter().map(|x| widened(*x)));
            }
            Rows::Bytes(rows) => probe.correction = rows.row_query(row, &mut probe.levels),
        }
        probe.scale = self.factors[row][0];
    }

    /// The keys of some rows, in their order.
    pub(super) fn keys(&self, probe: &Probe, rows: &[u32], keys: &mut Vec<f32>) {
        keys.clear();
        keys.resize(rows.len(), 0.0);
        match &self.rows {
            Rows::Halves(all) => half_dots(all, &probe.wide, rows, keys),
            Rows::Bytes(all) => all.dots(rows, &probe.levels, keys, probe.correction),
        }
        for (key, row) in keys.iter_mut().zip(rows) {
            let [scale, offset] = self.factors[*row as usize];
            *key = *key * (scale * probe.scale) + offset;
        }
    }

    /// The key of `base` as row `row` sees it, from that of `row` as `base` sees it.
    pub(super) fn mirrored(&self, key: f32, base: usize, row: usize) -> f32 {
        key - self.factors[row][1] + self.factors[base][1]
    }

    /// Whether two rows are the same for every probe.
    pub(super) fn equal(&self, one: usize, two: usize) -> bool {
        let same = |all: &[u8], size: usize| all[one * size..][..size] == all[two * size..][..size];
        self.factors[one].map(f32::to_bits) == self.factors[two].map(f32::to_bits) && {
            let bytes = self.code_bytes();
            same(bytes, bytes.len() / self.len())
        }
    }

    /// A number that equal rows share.
    pub(super) fn hash(&self, row: usize) -> u64 {
        let bytes = self.code_bytes();
        let size = bytes.len() / self.len();
        let mut hash = blake3::Hasher::new();
        hash.update(&bytes[row * size..(row + 1) * size]);
        hash.update(bytemuck::bytes_of(&self.factors[row]));
        let hash = hash.finalize();
        u64::from_le_bytes(std::array::from_fn(|at| hash.as_bytes()[at]))
    }

    /// The codes as they are kept.
    pub(super) fn code_bytes(&self) -> &[u8] {
        match &self.rows {
            Rows::Halves(rows) => bytemuck::cast_slice(rows),
            Rows::Bytes(rows) => rows.codes(),
        }
    }

    /// Keeps the rows of this list, in its order, which is increasing.
    pub(super) fn keep(&mut self, rows: &[usize]) {
        let dim = self.dim();
        match &mut self.rows {
            Rows::Halves(all) => all.keep(dim, rows),
            Rows::Bytes(all) => all.keep(rows),
        }
        self.factors.keep(1, rows);
    }

    /// Copies what is mapped into memory.
    pub(super) fn to_mut(&mut self) {
        match &mut self.rows {
            Rows::Halves(rows) => drop(rows.to_mut()),
            Rows::Bytes(rows) => rows.to_mut(),
        }
        self.factors.to_mut();
    }
}

fn step_of(vector: &[f32]) -> f32 {
    vector.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0
}

/// Of a coordinate that is one of `dim` alike and is rounded to eight bits of mantissa.
fn half_deviation(norm: f64, dim: usize) -> f32 {
    (norm / (dim as f64).sqrt() / (512.0 * 3f64.sqrt())) as f32
}

#[inline(always)]
fn widened(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

simd! {
    /// Dot products of some rows, by number, with a query.
    fn half_dots(all: &[u16], query: &[f32], rows: &[u32], dots: &mut [f32]) {
        let dim = query.len();
        for (row, dot) in rows.iter().zip(dots) {
            let x = &all[*row as usize * dim..][..dim];
            let mut lanes = [0f32; 64];
            let ((x, x_rest), (q, q_rest)) = (x.as_chunks::<64>(), query.as_chunks::<64>());
            for (x, q) in x.iter().zip(q) {
                for lane in 0..64 {
                    lanes[lane] += widened(x[lane]) * q[lane];
                }
            }
            for (lane, (x, q)) in x_rest.iter().zip(q_rest).enumerate() {
                lanes[lane] += widened(*x) * q;
            }
            for half in [32, 16, 8, 4, 2, 1] {
                for lane in 0..half {
                    lanes[lane] += lanes[lane + half];
                }
            }
            *dot = lanes[0];
        }
    }
}
