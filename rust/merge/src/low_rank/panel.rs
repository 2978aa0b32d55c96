//! A few long columns in f64: Gram-Schmidt twice over, and products with an f32 matrix.

use polmrs_core::reduce::in_lanes;
use polmrs_core::simd;

/// A column that Gram-Schmidt leaves this small a share of depends on those before it.
const DEPENDENT: f64 = 1e-12;

/// Columns of equal length, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    rows: usize,
    values: Vec<f64>,
}

impl Panel {
    /// Columns that are there already.
    pub(crate) fn new(rows: usize, values: Vec<f64>) -> Panel {
        Panel { rows, values }
    }

    /// No columns yet.
    pub(crate) fn empty(rows: usize) -> Panel {
        Panel { rows, values: Vec::new() }
    }

    pub(crate) fn identity(n: usize) -> Panel {
        Panel { rows: n, values: (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect() }
    }

    /// A matrix in the order of its rows as columns: its own, or its rows where it is `turned`.
    pub(crate) fn of(matrix: &[f32], rows: usize, columns: usize, turned: bool) -> Panel {
        if turned {
            return Panel { rows: columns, values: matrix.iter().map(|x| f64::from(*x)).collect() };
        }
        let value = |at: usize| f64::from(matrix[(at % rows) * columns + at / rows]);
        Panel { rows, values: (0..matrix.len()).map(value).collect() }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn count(&self) -> usize {
        self.values.len() / self.rows.max(1)
    }

    pub(crate) fn column(&self, at: usize) -> &[f64] {
        &self.values[at * self.rows..(at + 1) * self.rows]
    }

    pub(crate) fn column_mut(&mut self, at: usize) -> &mut [f64] {
        &mut self.values[at * self.rows..(at + 1) * self.rows]
    }

    /// Two columns, the first before the second.
    pub(crate) fn pair_mut(&mut self, first: usize, second: usize) -> (&mut [f64], &mut [f64]) {
        let (before, after) = self.values.split_at_mut(second * self.rows);
        (&mut before[first * self.rows..(first + 1) * self.rows], &mut after[..self.rows])
    }

    pub(crate) fn columns(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks(self.rows.max(1))
    }

    /// Adds the columns of another after its own.
    pub(crate) fn extend(&mut self, other: &Panel) {
        self.values.extend(&other.values);
    }

    /// Adds columns that a matrix in the order of its rows has, each times `factor`: its own, or its rows if `turned`.
    pub(crate) fn extend_scaled(&mut self, matrix: &[f32], turned: bool, factor: f64) {
        let others = matrix.len() / self.rows.max(1);
        let (rows, columns) = if turned { (others, self.rows) } else { (self.rows, others) };
        let other = Panel::of(matrix, rows, columns, turned);
        self.values.extend(other.values.into_iter().map(|x| x * factor));
    }

    /// The sum of the columns, each times its factor.
    pub(crate) fn combine(&self, factors: &[f64]) -> Vec<f64> {
        let mut sum = vec![0.0; self.rows];
        for (column, factor) in self.columns().zip(factors) {
            add_scaled(&mut sum, column, *factor);
        }
        sum
    }

    /// Makes the columns orthonormal, those that depend on others zero; gives what each was made of: the columns of the
    /// upper triangle.
    pub(crate) fn orthonormalize(&mut self) -> Vec<Vec<f64>> {
        let all = std::mem::replace(self, Panel::empty(self.rows));
        self.values.reserve_exact(all.values.len());
        all.columns().map(|column| self.push(column.to_vec())).collect()
    }

    /// Adds what is new in a column, as a column of length 1, if there is anything.
    pub(crate) fn push_independent(&mut self, column: Vec<f64>) {
        if self.push(column).last() == Some(&0.0) {
            self.values.truncate(self.values.len() - self.rows);
        }
    }

    /// Adds what is new in a column, as a column of length 1 or 0; gives the shares of the columns before and of it.
    fn push(&mut self, mut column: Vec<f64>) -> Vec<f64> {
        let before = dot(&column, &column).sqrt();
        let mut shares = vec![0.0; self.count() + 1];
        for _ in 0..2 {
            for (share, own) in shares.iter_mut().zip(self.values.chunks(self.rows.max(1))) {
                let along = dot(own, &column);
                add_scaled(&mut column, own, -along);
                *share += along;
            }
        }
        let norm = dot(&column, &column).sqrt();
        let new = if norm > DEPENDENT * before { norm } else { 0.0 };
        let factor = if new > 0.0 { 1.0 / new } else { 0.0 };
        self.values.extend(column.into_iter().map(|x| x * factor));
        if let Some(last) = shares.last_mut() {
            *last = new;
        }
        shares
    }
}

/// Rows of the matrix that meet a column at once.
const ROWS: usize = 4;

/// A matrix of `columns` columns times each column of a panel.
pub(crate) fn times(matrix: &[f32], columns: usize, panel: &Panel) -> Panel {
    let rows = matrix.len() / columns;
    let mut out = Panel::new(rows, vec![0.0; rows * panel.count()]);
    for (group, matrix) in matrix.chunks(ROWS * columns).enumerate() {
        for at in 0..panel.count() {
            let to = &mut out.column_mut(at)[group * ROWS..];
            for (to, row) in to.iter_mut().zip(matrix.chunks(columns)) {
                *to = dot_mixed(row, panel.column(at));
            }
        }
    }
    out
}

/// The transpose of a matrix of `columns` columns times each column of a panel from `from` on.
pub(crate) fn transposed_times(matrix: &[f32], columns: usize, panel: &Panel, from: usize) -> Panel {
    let count = panel.count() - from;
    let mut out = Panel::new(columns, vec![0.0; columns * count]);
    for (group, matrix) in matrix.chunks(ROWS * columns).enumerate() {
        for at in 0..count {
            let factors = &panel.column(from + at)[group * ROWS..];
            match matrix.len() / columns {
                ROWS => add_rows(out.column_mut(at), matrix, [factors[0], factors[1], factors[2], factors[3]]),
                _ => {
                    for (row, factor) in matrix.chunks(columns).zip(factors) {
                        add_mixed(out.column_mut(at), row, *factor);
                    }
                }
            }
        }
    }
    out
}

simd! {
    pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
        let n = x.len().min(y.len());
        let (x, y) = (&x[..n], &y[..n]);
        in_lanes(n, |i| x[i] * y[i])
    }
}

simd! {
    fn dot_mixed(x: &[f32], y: &[f64]) -> f64 {
        let n = x.len().min(y.len());
        let (x, y) = (&x[..n], &y[..n]);
        in_lanes(n, |i| f64::from(x[i]) * y[i])
    }
}

simd! {
    fn add_scaled(sum: &mut [f64], x: &[f64], factor: f64) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += x * factor;
        }
    }
}

simd! {
    fn add_mixed(sum: &mut [f64], x: &[f32], factor: f64) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += f64::from(*x) * factor;
        }
    }
}

simd! {
    fn add_rows(sum: &mut [f64], rows: &[f32], factors: [f64; 4]) {
        let n = sum.len();
        let row = |at: usize| &rows[at * n..][..n];
        let (a, b, c, d) = (row(0), row(1), row(2), row(3));
        for i in 0..n {
            let (a, b, c, d) = (f64::from(a[i]), f64::from(b[i]), f64::from(c[i]), f64::from(d[i]));
            sum[i] += a * factors[0] + b * factors[1] + c * factors[2] + d * factors[3];
        }
    }
}
