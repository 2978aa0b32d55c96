//! A random rotation in $O(d \log d)$, so that no coordinate carries more than its share.
//!
//! Four rounds of random signs, a Walsh-Hadamard transform over the first or the last $2^k \le d$ coordinates in turns, and a
//! butterfly between the halves, which mixes what the transforms leave apart where $d$ is no power of two (the rotator of
//! the RaBitQ library; [paper](https://arxiv.org/abs/2405.12497), section 3.1, uses a dense matrix). Only sums, differences and
//! products with a constant, so the same bits on every processor.

use polmrs_core::philox::{Key, fill};
use polmrs_core::simd;

const ROUNDS: usize = 4;

/// An orthogonal map of vectors of one length.
#[derive(Clone, Debug)]
pub struct Rotation {
    dim: usize,
    window: usize,
    signs: Vec<f32>,
}

impl Rotation {
    /// The rotation of this length; there is one.
    pub fn new(dim: usize) -> Rotation {
        let mut words = vec![0u32; ROUNDS * dim];
        fill(Key::new(0, "polmrs.search", "rotation"), 0, &mut words);
        let signs = words.into_iter().map(|word| if word & 1 == 0 { 1.0 } else { -1.0 }).collect();
        Rotation { dim, window: 1 << dim.ilog2(), signs }
    }

    /// The length of vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rotates in place.
    pub fn apply(&self, x: &mut [f32]) {
        for (round, signs) in self.signs.chunks_exact(self.dim).enumerate() {
            let first = if round % 2 == 0 { 0 } else { self.dim - self.window };
            turn(x, signs, first, self.window);
        }
    }
}

simd! {
    fn turn(x: &mut [f32], signs: &[f32], first: usize, window: usize) {
        for (x, sign) in x.iter_mut().zip(signs) {
            *x *= sign;
        }
        hadamard(&mut x[first..first + window]);
        if window < x.len() {
            let half = x.len() / 2;
            let (low, high) = x.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                let sum = *a + *b;
                *b = (*a - *b) * std::f32::consts::FRAC_1_SQRT_2;
                *a = sum * std::f32::consts::FRAC_1_SQRT_2;
            }
        }
    }
}

/// The orthonormal Walsh-Hadamard transform of a power of two.
#[inline(always)]
fn hadamard(x: &mut [f32]) {
    let mut stride = x.len() / 2;
    while stride >= 16 {
        for pair in x.chunks_exact_mut(2 * stride) {
            let (low, high) = pair.split_at_mut(stride);
            for (a, b) in low.as_chunks_mut::<16>().0.iter_mut().zip(high.as_chunks_mut::<16>().0) {
                for lane in 0..16 {
                    (a[lane], b[lane]) = (a[lane] + b[lane], a[lane] - b[lane]);
                }
            }
        }
        stride /= 2;
    }
    let (blocks, rest) = x.as_chunks_mut::<16>();
    for block in blocks {
        *block = within::<1>(within::<2>(within::<4>(within::<8>(*block))));
    }
    while stride > 0 && !rest.is_empty() {
        for pair in rest.chunks_exact_mut(2 * stride) {
            let (low, high) = pair.split_at_mut(stride);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        stride /= 2;
    }
    let scale = 1.0 / (x.len() as f32).sqrt();
    for x in x {
        *x *= scale;
    }
}

/// The sums and differences of a stride inside sixteen lanes.
#[inline(always)]
fn within<const STRIDE: usize>(x: [f32; 16]) -> [f32; 16] {
    let mut out = [0.0; 16];
    for lane in 0..16 {
        let other = x[lane ^ STRIDE];
        let mine = if lane & STRIDE == 0 { x[lane] } else { -x[lane] };
        out[lane] = mine + other;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_angles_stay() {
        for dim in [1, 2, 3, 5, 8, 15, 16, 17, 31, 48, 100, 384, 510, 768] {
            let rotation = Rotation::new(dim);
            let a: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..dim).map(|i| (i as f32 * 1.3).cos()).collect();
            let turned = |x: &[f32]| {
                let mut x = x.to_vec();
                rotation.apply(&mut x);
                x
            };
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let (ra, rb) = (turned(&a), turned(&b));
            for (before, after) in [(dot(&a, &a), dot(&ra, &ra)), (dot(&a, &b), dot(&ra, &rb))] {
                assert!((before - after).abs() < 1e-5 * dim as f64, "{dim}: {before} {after}");
            }
        }
    }

    #[test]
    fn one_coordinate_is_spread_over_all() {
        for dim in [64, 96, 384, 510, 768] {
            let rotation = Rotation::new(dim);
            for at in [0, dim / 2, dim - 1] {
                let mut x = vec![0.0; dim];
                x[at] = 1.0;
                rotation.apply(&mut x);
                let largest = x.iter().fold(0f32, |a, b| a.max(b.abs()));
                assert!(largest < 6.0 / (dim as f32).sqrt(), "{dim} {at}: {largest}");
            }
        }
    }
}
