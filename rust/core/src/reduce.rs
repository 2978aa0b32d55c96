//! Sums whose bits do not depend on threads, chunks or instruction set.
//!
//! A tensor is cut into blocks of [`BLOCK`](crate::BLOCK) elements in its own order. Inside a block, element `i` goes to
//! lane `i % 16` of sixteen `f64` lanes; the lanes are folded in halves (8, 4, 2, 1). Across blocks, the `f64` partial
//! sums are added in tensor order, whoever computed them.

use crate::simd;

const LANES: usize = 16;

/// Sums `term(i)` for `i < n` in sixteen lanes: the sum of one block, for a kernel that computes its own terms.
#[inline(always)]
pub fn in_lanes(n: usize, term: impl Fn(usize) -> f64) -> f64 {
    side_by_side(n, |i| [term(i)])[0]
}

/// Several such sums in one walk over the block.
#[inline(always)]
fn side_by_side<const N: usize>(n: usize, terms: impl Fn(usize) -> [f64; N]) -> [f64; N] {
    let mut lanes = [[0.0f64; LANES]; N];
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            let terms = terms(start + lane);
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                lanes[lane] += term;
            }
        }
    }
    for i in whole..n {
        for (lanes, term) in lanes.iter_mut().zip(terms(i)) {
            lanes[i - whole] += term;
        }
    }
    lanes.map(fold)
}

/// The sum of sixteen lanes, folded in halves.
#[inline(always)]
fn fold(mut lanes: [f64; LANES]) -> f64 {
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

simd! {
    /// The sum of one block.
    pub fn sum(x: &[f32]) -> f64 {
        in_lanes(x.len(), |i| f64::from(x[i]))
    }
}

simd! {
    /// The sum of absolute values of one block.
    pub fn sum_abs(x: &[f32]) -> f64 {
        in_lanes(x.len(), |i| f64::from(x[i].abs()))
    }
}

simd! {
    /// The dot product of two blocks of equal length.
    pub fn dot(x: &[f32], y: &[f32]) -> f64 {
        let n = x.len().min(y.len());
        let (x, y) = (&x[..n], &y[..n]);
        in_lanes(n, |i| f64::from(x[i]) * f64::from(y[i]))
    }
}

simd! {
    /// The dot products `<x, x>`, `<x, y>` and `<y, y>` of two blocks of equal length, with the bits of [`dot`].
    pub fn dots_of_pair(x: &[f32], y: &[f32]) -> [f64; 3] {
        let n = x.len().min(y.len());
        let (x, y) = (&x[..n], &y[..n]);
        side_by_side(n, |i| {
            let (x, y) = (f64::from(x[i]), f64::from(y[i]));
            [x * x, x * y, y * y]
        })
    }
}

simd! {
    /// The dot products `<x, x>`, `<x, y>`, `<y, y>`, `<x, z>`, `<y, z>` and `<z, z>` of three blocks of equal length, with
    /// the bits of [`dot`].
    pub fn dots_of_three(x: &[f32], y: &[f32], z: &[f32]) -> [f64; 6] {
        let n = x.len().min(y.len()).min(z.len());
        let (x, y, z) = (&x[..n], &y[..n], &z[..n]);
        side_by_side(n, |i| {
            let (x, y, z) = (f64::from(x[i]), f64::from(y[i]), f64::from(z[i]));
            [x * x, x * y, y * y, x * z, y * z, z * z]
        })
    }
}

/// Partial sums of blocks, gathered in any order and added in tensor order.
#[derive(Clone, Debug)]
pub struct Ordered<const N: usize> {
    parts: Vec<(u64, [f64; N])>,
}

impl<const N: usize> Default for Ordered<N> {
    fn default() -> Self {
        Ordered { parts: Vec::new() }
    }
}

impl<const N: usize> Ordered<N> {
    /// Keeps the sums of the block with this ordinal.
    pub fn push(&mut self, block: u64, sums: [f64; N]) {
        self.parts.push((block, sums));
    }

    /// Takes in the sums that another thread gathered.
    pub fn append(&mut self, mut other: Ordered<N>) {
        self.parts.append(&mut other.parts);
    }

    /// The totals, added in the order of the blocks.
    pub fn total(self) -> [f64; N] {
        let mut parts = self.parts;
        parts.sort_unstable_by_key(|(block, _)| *block);
        let mut totals = [0.0; N];
        for (_, sums) in parts {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total += sum;
            }
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn totals_do_not_depend_on_who_gathered_which_block(
            sums in proptest::collection::vec(-1e9f64..1e9, 1..60), split in 0usize..60,
        ) {
            let mut all = Ordered::<1>::default();
            let (mut left, mut right) = (Ordered::<1>::default(), Ordered::<1>::default());
            for (block, value) in sums.iter().enumerate() {
                all.push(block as u64, [*value]);
            }
            for (block, value) in sums.iter().enumerate().rev() {
                if block * 7 % 60 < split { &mut left } else { &mut right }.push(block as u64, [*value]);
            }
            right.append(left);
            prop_assert_eq!(all.total()[0].to_bits(), right.total()[0].to_bits());
        }

        #[test]
        fn a_dot_product_is_close_to_the_plain_loop(
            x in proptest::collection::vec(-10f32..10.0, 0..200),
        ) {
            let plain: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            prop_assert!((dot(&x, &x) - plain).abs() <= 1e-12 * plain.max(1.0));
            let y: Vec<f32> = x.iter().rev().copied().collect();
            prop_assert_eq!(dots_of_pair(&x, &y), [dot(&x, &x), dot(&x, &y), dot(&y, &y)]);
            let z: Vec<f32> = x.iter().map(|x| 1.5 - x).collect();
            let pairs = [(&x, &x), (&x, &y), (&y, &y), (&x, &z), (&y, &z), (&z, &z)];
            prop_assert_eq!(dots_of_three(&x, &y, &z), pairs.map(|(x, y)| dot(x, y)));
            prop_assert!((sum(&x) - x.iter().map(|x| f64::from(*x)).sum::<f64>()).abs() <= 1e-10);
            prop_assert!((sum_abs(&x) - x.iter().map(|x| f64::from(x.abs())).sum::<f64>()).abs() <= 1e-10);
        }
    }
}
