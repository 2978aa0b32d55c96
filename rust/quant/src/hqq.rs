//! HQQ: a zero point found by half-quadratic splitting (Badri and Shaji, "Half-Quadratic Quantization", 2023).
//!
//! The scale stays that of the group's range; the zero point is real. Each step rounds, shrinks the error towards the
//! minimum of `|e|^p` with p = .7, and sets the zero point to the mean that explains the rest:
//!
//! `q = round(clamp(x s + z))`, `e = shrink(x - (q - z) / s)`, `z = mean(q - (x - e) s)`.
//!
//! It stops after 20 steps, or at the first that makes the mean error no smaller. Two departures from the reference: a
//! group stops by itself, not with the whole tensor, and keeps its best zero point rather than the last one tried.
//!
//! Shrinking is what costs, and it leaves nothing of an error below `(1 / beta)^(1 / (2 - p))`, which is 0.17 at the first
//! step: powers are computed only where one of 16 neighbours is above.

use crate::group::{each, map, range, together};
use polmrs_core::simd;
use std::f32::consts::LN_2;

/// A grid with a real zero point: `x = (q - zero) / inverse`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Real {
    /// The reciprocal of the scale, as the reference keeps it.
    pub inverse: f32,
    /// The zero point.
    pub zero: f32,
}

/// The search's settings; the defaults are those of hqq 0.2.8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hqq {
    /// Bits of a code, 1 to 8.
    pub bits: u32,
    /// The norm of the error, above 0 and below 1.
    pub norm: f32,
    /// The weight of the splitting's penalty at the first step.
    pub beta: f32,
    /// How much it grows at each step.
    pub kappa: f32,
    /// The most steps.
    pub steps: u32,
    /// Start from a whole zero point, as the reference does for 4 bits.
    pub round_zero: bool,
}

impl Hqq {
    /// The defaults for this many bits.
    pub const fn new(bits: u32) -> Hqq {
        Hqq { bits, norm: 0.7, beta: 10.0, kappa: 1.01, steps: 20, round_zero: bits == 4 }
    }

    fn top(self) -> f32 {
        ((1_u32 << self.bits) - 1) as f32
    }

    /// The grid of each group of `group` elements, and its codes.
    ///
    /// # Panics
    /// If `x` is not as many whole groups as there are `grids`, or if there are not as many codes as elements.
    pub fn encode(self, x: &[f32], group: usize, grids: &mut [Real], codes: &mut [u8]) {
        assert_eq!(x.len(), codes.len());
        let mut shrinks = Vec::new();
        for ((x, grid), codes) in each(x, group, grids).zip(codes.chunks_exact_mut(group.max(1))) {
            *grid = self.search(x, &mut shrinks);
            round_to(x, *grid, self.top(), codes);
        }
    }

    /// The grid of one group; `shrinks` holds those of the steps that some group came to.
    fn search(self, x: &[f32], shrinks: &mut Vec<Shrink>) -> Real {
        let mut grid = self.start(x);
        let (mut best, mut least) = (grid, f32::INFINITY);
        for at in 0..=self.steps as usize {
            if at == shrinks.len() {
                let beta = shrinks.last().map_or(self.beta, |last| last.beta * self.kappa);
                shrinks.push(Shrink::new(beta, self.norm));
            }
            let (error, zero) = step(x, grid, self.top(), shrinks[at]);
            if error >= least {
                break;
            }
            (best, least) = (grid, error);
            grid.zero = zero;
        }
        best
    }

    /// The grid of the range. (Only here need 0 not lie within it.)
    fn start(self, x: &[f32]) -> Real {
        let (low, high) = range(x);
        // A group all but constant has a scale of 1, and no inverse beyond what a half-precision file holds.
        let inverse = if high - low <= 1e-4 { 1.0 } else { (self.top() / (high - low)).min(2e4) };
        let zero = -low * inverse;
        Real { inverse, zero: if self.round_zero { zero.round_ties_even() } else { zero } }
    }
}

/// What codes of whole groups stand for.
///
/// # Panics
/// If there are not as many elements as codes, in whole groups.
pub fn decode(codes: &[u8], group: usize, grids: &[Real], x: &mut [f32]) {
    assert_eq!((codes.len(), x.len()), (group * grids.len(), codes.len()));
    for ((codes, x), grid) in codes.chunks_exact(group.max(1)).zip(x.chunks_exact_mut(group.max(1))).zip(grids) {
        for (code, x) in codes.iter().zip(x) {
            *x = (f32::from(*code) - grid.zero) / grid.inverse;
        }
    }
}

const ROUND: f32 = 12_582_912.0;

#[inline(always)]
fn rounded(x: f32, grid: Real, top: f32) -> f32 {
    let at = x * grid.inverse + grid.zero + ROUND - ROUND;
    let at = if at < 0.0 { 0.0 } else { at };
    if at > top { top } else { at }
}

simd! {
    /// `(code - zero) * scale` of each group.
    pub(crate) fn scaled(codes: &[u8], group: usize, scales: &[f32], zeros: &[f32], x: &mut [f32]) {
        let groups = codes.chunks_exact(group.max(1)).zip(x.chunks_exact_mut(group.max(1)));
        for (((codes, x), scale), zero) in groups.zip(scales).zip(zeros) {
            map(codes, x, |code| (f32::from(*code) - zero) * scale);
        }
    }
}

simd! {
    fn round_to(x: &[f32], grid: Real, top: f32, codes: &mut [u8]) {
        map(x, codes, |x| (rounded(*x, grid, top) + ROUND).to_bits() as u8);
    }
}

/// What a step does to errors: `max(|e| - |e|^exponent / beta, 0)` with the error's sign.
#[derive(Clone, Copy)]
struct Shrink {
    beta: f32,
    penalty: f32,
    exponent: f32,
    /// No error up to here leaves anything.
    least: f32,
}

impl Shrink {
    fn new(beta: f32, norm: f32) -> Shrink {
        let penalty = 1.0 / beta;
        // Short of the border by more than `power` may be off, so that whoever skips it has the same bits.
        Shrink { beta, penalty, exponent: norm - 1.0, least: penalty.powf(1.0 / (2.0 - norm)) * 0.999 }
    }

    #[inline(always)]
    fn of(self, error: f32) -> f32 {
        let size = error.abs();
        let kept = size - self.penalty * power(size, self.exponent);
        if kept > 0.0 { kept.copysign(error) } else { 0.0 }
    }
}

/// Elements of a step that are worked on together.
const LANES: usize = 16;

/// What a step sums over elements: the error as it is, and the zero point that would explain each.
type Sums = [[f32; LANES]; 2];

simd! {
    /// One step: the mean error of the grid as it is, and the next zero point.
    fn step(x: &[f32], grid: Real, top: f32, shrink: Shrink) -> (f32, f32) {
        let mut sums = [[0.0; LANES]; 2];
        let (whole, rest) = x.as_chunks::<LANES>();
        for x in whole {
            add(x, LANES, grid, top, shrink, &mut sums);
        }
        if !rest.is_empty() {
            let mut last = [0.0; LANES];
            last[..rest.len()].copy_from_slice(rest);
            add(&last, rest.len(), grid, top, shrink, &mut sums);
        }
        let [errors, zeros] = sums;
        let count = x.len() as f32;
        (together(errors, |a, b| a + b) / count, together(zeros, |a, b| a + b) / count)
    }
}

/// Adds the first `count` elements to the sums. Errors are those of what a decoder gives, `(q - z)` times the scale.
#[inline(always)]
fn add(x: &[f32; LANES], count: usize, grid: Real, top: f32, shrink: Shrink, [errors, zeros]: &mut Sums) {
    let scale = 1.0 / grid.inverse;
    let (mut codes, mut lost) = ([0.0; LANES], [0.0_f32; LANES]);
    let mut some_left = false;
    for lane in 0..LANES {
        codes[lane] = rounded(x[lane], grid, top);
        lost[lane] = x[lane] - (codes[lane] - grid.zero) * scale;
        some_left |= lost[lane].abs() > shrink.least;
    }
    for lane in 0..count {
        errors[lane] += lost[lane].abs();
    }
    if some_left {
        for lost in &mut lost {
            *lost = shrink.of(*lost);
        }
    } else {
        lost = [0.0; LANES];
    }
    for lane in 0..count {
        zeros[lane] += codes[lane] - (x[lane] - lost[lane]) * grid.inverse;
    }
}

/// `x^p` for `x >= 0`, within 1e-5 of its value; plain arithmetic, so the same bits everywhere. 0 counts as 2^-127.
#[inline(always)]
fn power(x: f32, p: f32) -> f32 {
    // log2: the exponent, and a polynomial of a mantissa between sqrt(1/2) and sqrt(2); within 2.2e-6, and without a division.
    let shifted = x.to_bits().wrapping_add(0x3f80_0000 - 0x3f35_04f3);
    let exponent = (shifted >> 23) as i32 - 127;
    let mantissa = f32::from_bits((shifted & 0x007f_ffff) + 0x3f35_04f3);
    let t = mantissa - 1.0;
    let rest = 0.479_348_03 + t * (-0.367_490_05 + t * (0.322_154_7 + t * -0.206_591_32));
    let log = exponent as f32 + t * (1.442_713_5 + t * (-0.721_131_86 + t * rest));
    // exp2: a whole power, and a polynomial between -1/2 and 1/2.
    let y = (p * log).clamp(-126.0, 126.0);
    let n = y + ROUND - ROUND;
    let r = y - n;
    let part = 1.0 + r * (LN_2 + r * (0.240_226_5 + r * (0.055_504_11 + r * (0.009_618_13 + r * 0.001_333_36))));
    part * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One step of the formula in f64: the mean error of a grid, and the next zero point.
    fn plain(x: &[f32], grid: Real, hqq: Hqq) -> (f64, f64) {
        let (s, z, top) = (f64::from(grid.inverse), f64::from(grid.zero), f64::from(hqq.top()));
        let (mut error, mut next) = (0.0, 0.0);
        for x in x.iter().map(|x| f64::from(*x)) {
            let q = (x * s + z).round_ties_even().clamp(0.0, top);
            let e = x - (q - z) / s;
            let shrunk =
                (e.abs() - e.abs().powf(f64::from(hqq.norm) - 1.0) / f64::from(hqq.beta)).max(0.0) * e.signum();
            error += e.abs();
            next += q - (x - shrunk) * s;
        }
        (error / x.len() as f64, next / x.len() as f64)
    }

    fn error(x: &[f32], grid: Real, top: f32) -> f32 {
        let mut codes = vec![0; x.len()];
        round_to(x, grid, top, &mut codes);
        let mut back = vec![0.0; x.len()];
        decode(&codes, x.len(), &[grid], &mut back);
        x.iter().zip(&back).map(|(x, back)| (x - back).abs()).sum()
    }

    proptest! {
        #[test]
        fn powers_are_near(x in 1e-6_f32..10.0, p in -0.9_f32..0.9) {
            let near = power(x, p);
            prop_assert!((near / x.powf(p) - 1.0).abs() < 1e-5, "{x}^{p}: {near}");
        }

        #[test]
        fn what_is_not_computed_shrinks_to_nothing(part in 0.0_f32..=1.0, beta in 1e-3_f32..1e6, norm in 0.01_f32..0.99) {
            let shrink = Shrink::new(beta, norm);
            prop_assert_eq!(shrink.of(-part * shrink.least), 0.0);
            prop_assert!(shrink.of(1.01 * shrink.least) > 0.0, "{} is far from the border", shrink.least);
        }

        #[test]
        fn a_step_is_the_formula(x in prop::collection::vec(-1.0_f32..1.0, 40..100), bits in 2_u32..5) {
            let hqq = Hqq::new(bits);
            let grid = hqq.start(&x);
            // An element in the middle of a cell may go either way: f32 and f64 need not agree on it.
            let apart = |x: &f32| ((x * grid.inverse + grid.zero).fract().abs() - 0.5).abs() > 1e-4;
            prop_assume!(x.iter().all(apart));
            let (error, zero) = step(&x, grid, hqq.top(), Shrink::new(hqq.beta, hqq.norm));
            let (plain_error, plain_zero) = plain(&x, grid, hqq);
            prop_assert!((f64::from(error) / plain_error - 1.0).abs() < 1e-4);
            prop_assert!((f64::from(zero) - plain_zero).abs() < 1e-4, "{zero} is not {plain_zero}");
        }

        #[test]
        fn the_search_never_loses_more_than_the_range(x in prop::collection::vec(-1.0_f32..1.0, 64), bits in 1_u32..=8) {
            let hqq = Hqq::new(bits);
            prop_assert!(error(&x, hqq.search(&x, &mut Vec::new()), hqq.top()) <= error(&x, hqq.start(&x), hqq.top()) * 1.000_01);
        }
    }

    #[test]
    fn the_search_lowers_the_mean_error_of_heavy_tails() {
        let x: Vec<f32> = (0..256).map(|at| ((at * 73 % 256) as f32 / 128.0 - 1.0).powi(5)).collect();
        for bits in [2, 3, 4] {
            let hqq = Hqq { round_zero: false, ..Hqq::new(bits) };
            let (before, after) =
                (error(&x, hqq.start(&x), hqq.top()), error(&x, hqq.search(&x, &mut Vec::new()), hqq.top()));
            assert!(after < before, "{bits} bits: {after} is not below {before}");
        }
    }
}
