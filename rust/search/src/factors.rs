//! What makes the dot product with a code a key, row by row, and how far off keys are.

use crate::column::Column;
use crate::metric::squared_norm;

/// Factors of rows, and sums over them from which the error of keys follows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Factors {
    pub(crate) scales: Column<f32>,
    pub(crate) offsets: Column<f32>,
    /// Of the squared errors for a query of length 1.
    variance: f64,
    /// Of the squared scales.
    squares: f64,
    /// Of the squared norms of scaled codes.
    norms: f64,
}

impl Factors {
    /// These columns of `rows` rows, with what [`sums`](Factors::sums) gave; nothing if there are more or fewer.
    pub(crate) fn with(rows: usize, scales: Column<f32>, offsets: Column<f32>, sums: [f64; 3]) -> Option<Factors> {
        let [variance, squares, norms] = sums;
        let fits = scales.len() == rows && offsets.len() == rows;
        fits.then_some(Factors { scales, offsets, variance, squares, norms })
    }

    /// A row `r` with code `y`: `along` is their dot product, `square` the code's squared norm. The key is the offset, the
    /// scale times the query's dot product with `y`, and, if the query is not centred, less the scale times `centre`, which is
    /// that of the centre.
    pub(crate) fn push(&mut self, r: &[f32], along: f64, square: f64, offset: f32, centre: f64) {
        let norm = squared_norm(r);
        let scale = if along > 0.0 { norm / along } else { 0.0 };
        if along > 0.0 {
            let cosine2 = (along * along / (norm * square)).min(1.0);
            self.variance += norm * (1.0 - cosine2) / cosine2 / (r.len().max(2) - 1) as f64;
        }
        self.squares += scale * scale;
        self.norms += scale * scale * square;
        self.scales.to_mut().push(scale as f32);
        self.offsets.to_mut().push(offset - (scale * centre) as f32);
    }

    /// Sums over rows.
    pub(crate) fn sums(&self) -> [f64; 3] {
        [self.variance, self.squares, self.norms]
    }

    /// A row with a code of whole numbers; `centre` is what is taken from queries before they meet codes, or nothing if
    /// queries are centred.
    pub(crate) fn push_levels(&mut self, r: &[f32], y: &[i8], offset: f32, centre: Option<&[f32]>) {
        let (mut along, mut square, mut of_centre) = (0f64, 0f64, 0f64);
        for (x, y) in r.iter().zip(y) {
            along += f64::from(*x) * f64::from(*y);
            square += f64::from(*y) * f64::from(*y);
        }
        for (c, y) in centre.unwrap_or_default().iter().zip(y) {
            of_centre += f64::from(*c) * f64::from(*y);
        }
        self.push(r, along, square, offset, of_centre);
    }

    /// Half of `deviations` standard deviations of the dot product that a scale multiplies, for a query of this norm, seen
    /// from the centre, whose coordinates were rounded with this variance.
    pub(crate) fn reach(&self, query_norm: f32, rounding: f32, deviations: f32) -> f32 {
        if self.squares == 0.0 {
            return 0.0;
        }
        let query2 = f64::from(query_norm) * f64::from(query_norm);
        let variance = (self.variance * query2 + self.norms * f64::from(rounding)) / self.squares;
        (0.5 * f64::from(deviations) * variance.sqrt()) as f32
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.scales.bytes() + self.offsets.bytes()
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        self.scales.to_mut();
        self.offsets.to_mut();
    }
}
