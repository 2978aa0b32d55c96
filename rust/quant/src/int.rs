//! Integer grids: round to nearest (survey eq. 23).
//!
//! A code `q` stands for `(q - z) s`. Codes are kept unsigned, `0 ..= 2^b - 1`, as files store them; a symmetric grid has
//! `z = 2^(b-1)`. A grid with a zero point always spans 0, and its zero point is a whole code, so that exact zero stays
//! exact: an unrounded one costs little weight error and ruins perplexity.
//!
//! Arithmetic follows compressed-tensors on f32: `q = round(clamp(x / s + z))`, a true division, ties to even.

use crate::group::{absmax, each, extent, extents, map, round_scales, together};
use polmrs_core::{Dtype, simd};

/// How a group's range becomes a scale and a zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Symmetric, `s = max|x| / (2^(b-1) - 1)`: the largest magnitude is a code, and the lowest code stays unused.
    Absmax,
    /// Symmetric, `s = max|x| / ((2^b - 1) / 2)`: all codes are used, as compressed-tensors and GPTQ files have it.
    Full,
    /// With a zero point: `s = (max - min) / (2^b - 1)`, `z = round(-min / s)`.
    Affine,
}

/// An integer grid's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Int {
    /// Bits of a code, 2 to 8.
    pub bits: u32,
    /// How a range becomes a grid.
    pub span: Span,
    /// The type that scales are stored in; codes are computed with the stored scale.
    pub scale_dtype: Dtype,
}

/// One group's grid.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Grid {
    /// The distance of neighbouring codes.
    pub scale: f32,
    /// The code of zero.
    pub zero: u8,
}

impl Int {
    /// The code in the middle: the zero of symmetric grids.
    pub const fn middle(self) -> u8 {
        1 << (self.bits - 1)
    }

    /// The greatest code.
    pub const fn top(self) -> u8 {
        (0xff_u16 >> (8 - self.bits)) as u8
    }

    /// The grid of each group of `group` elements, from its extreme values.
    ///
    /// # Panics
    /// If `x` is not as many whole groups as there are `grids`.
    pub fn fit(self, x: &[f32], group: usize, grids: &mut [Grid]) {
        const PIECE: usize = 64;
        assert_eq!(x.len(), group * grids.len());
        let (mut ranges, mut scales) = ([(0.0, 0.0); PIECE], [0.0; PIECE]);
        for (x, grids) in x.chunks(group.max(1) * PIECE).zip(grids.chunks_mut(PIECE)) {
            let (ranges, scales) = (&mut ranges[..grids.len()], &mut scales[..grids.len()]);
            extents(x, group, ranges);
            ranges.iter().zip(&mut *scales).for_each(|(range, scale)| *scale = self.scale(*range));
            round_scales(scales, self.scale_dtype);
            for ((grid, range), scale) in grids.iter_mut().zip(ranges).zip(scales) {
                *grid = Grid { scale: *scale, zero: self.zero(*range, *scale) };
            }
        }
    }

    /// The grid of each group that loses least: of the `steps` ranges `1, 1 - shrink / steps, ..` of the group's own, the
    /// one whose codes have the smallest sum of squared errors.
    ///
    /// # Panics
    /// As [`fit`](Int::fit).
    pub fn fit_clipped(self, x: &[f32], group: usize, steps: u32, shrink: f32, grids: &mut [Grid]) {
        for (x, grid) in each(x, group, grids) {
            let (low, high) = extent(x);
            let mut least = f32::INFINITY;
            for step in 0..steps.max(1) {
                let part = 1.0 - shrink * step as f32 / steps as f32;
                let candidate = self.grid(low * part, high * part);
                let error = squared_error(x, candidate, self.reach());
                if error < least {
                    (least, *grid) = (error, candidate);
                }
            }
        }
    }

    /// The grid that spans `low <= 0 <= high`.
    pub fn grid(self, low: f32, high: f32) -> Grid {
        let mut scale = [self.scale((low, high))];
        round_scales(&mut scale, self.scale_dtype);
        let [scale] = scale;
        Grid { scale, zero: self.zero((low, high), scale) }
    }

    /// The scale of a range, before it is rounded.
    fn scale(self, (low, high): (f32, f32)) -> f32 {
        let codes = f32::from(self.top());
        match self.span {
            Span::Absmax => high.max(-low) / f32::from(self.middle() - 1),
            Span::Full => high.max(-low) / (codes / 2.0),
            Span::Affine => (high - low) / codes,
        }
    }

    /// The code of zero where a range has this scale.
    fn zero(self, (low, high): (f32, f32), scale: f32) -> u8 {
        match self.span {
            Span::Affine if low < high => (-low / scale).clamp(0.0, f32::from(self.top())).round_ties_even() as u8,
            _ => self.middle(),
        }
    }

    /// The codes of whole groups on their grids.
    ///
    /// # Panics
    /// As [`fit`](Int::fit), or if there are not as many codes as elements.
    pub fn encode(self, x: &[f32], group: usize, grids: &[Grid], codes: &mut [u8]) {
        assert_eq!((x.len(), x.len()), (group * grids.len(), codes.len()));
        encode(x, group, grids, self.reach(), codes);
    }

    /// What the codes of whole groups stand for.
    ///
    /// # Panics
    /// As [`encode`](Int::encode).
    pub fn decode(self, codes: &[u8], group: usize, grids: &[Grid], x: &mut [f32]) {
        assert_eq!((codes.len(), x.len()), (group * grids.len(), codes.len()));
        decode(codes, group, grids, x);
    }

    /// The lowest and the highest code in use, counted from the middle, and the middle.
    fn reach(self) -> Reach {
        let middle = f32::from(self.middle());
        Reach { low: if self.span == Span::Absmax { 1.0 - middle } else { -middle }, high: middle - 1.0, middle }
    }
}

/// The range of codes, counted from the middle one.
#[derive(Clone, Copy)]
struct Reach {
    low: f32,
    high: f32,
    middle: f32,
}

/// Adding it rounds a small number to an integer, ties to even, which then stands in the last bits.
const ROUND: f32 = 12_582_912.0;

/// `x / s + z`, clamped and rounded, counted from the middle; plus `ROUND`.
#[inline(always)]
fn rounded(x: f32, scale: f32, zero: f32, reach: Reach) -> f32 {
    let at = x / scale + zero;
    let at = if at < reach.low { reach.low } else { at };
    let at = if at > reach.high { reach.high } else { at };
    at + ROUND
}

simd! {
    fn encode(x: &[f32], group: usize, grids: &[Grid], reach: Reach, codes: &mut [u8]) {
        let middle = reach.middle as u8;
        for ((x, codes), grid) in x.chunks_exact(group.max(1)).zip(codes.chunks_exact_mut(group.max(1))).zip(grids) {
            let zero = f32::from(grid.zero) - reach.middle;
            map(x, codes, |x| (rounded(*x, grid.scale, zero, reach).to_bits() as u8).wrapping_add(middle));
        }
    }
}

simd! {
    fn decode(codes: &[u8], group: usize, grids: &[Grid], x: &mut [f32]) {
        for ((codes, x), grid) in codes.chunks_exact(group.max(1)).zip(x.chunks_exact_mut(group.max(1))).zip(grids) {
            let zero = i32::from(grid.zero);
            map(codes, x, |code| (i32::from(*code) - zero) as f32 * grid.scale);
        }
    }
}

simd! {
    fn squared_error(x: &[f32], grid: Grid, reach: Reach) -> f32 {
        const LANES: usize = 16;
        let zero = f32::from(grid.zero) - reach.middle;
        let lost = |x: f32| {
            let lost = (rounded(x, grid.scale, zero, reach) - ROUND - zero) * grid.scale - x;
            lost * lost
        };
        let (whole, rest) = x.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for x in whole {
            for lane in 0..LANES {
                sums[lane] += lost(x[lane]);
            }
        }
        for (lane, x) in rest.iter().enumerate() {
            sums[lane] += lost(*x);
        }
        together(sums, |a, b| a + b)
    }
}

/// LLM.int8()'s rows (arXiv:2208.07339): `q = round(x * 127 / max|x|)`, a signed byte; gives `max|x|`.
///
/// The factor is computed first and multiplied, as bitsandbytes does. A row of zeros has codes 0.
///
/// # Panics
/// If there are not as many codes as elements.
pub fn encode_int8_row(x: &[f32], codes: &mut [u8]) -> f32 {
    assert_eq!(x.len(), codes.len());
    let largest = absmax(x);
    encode_row(x, if largest == 0.0 { 0.0 } else { 127.0 / largest }, codes);
    largest
}

/// What [`encode_int8_row`]'s codes stand for: `q * (largest / 127)`, the quotient as a product, as bitsandbytes has it.
///
/// # Panics
/// As there.
pub fn decode_int8_row(codes: &[u8], largest: f32, x: &mut [f32]) {
    assert_eq!(x.len(), codes.len());
    decode_row(codes, largest * (1.0 / 127.0), x);
}

simd! {
    fn encode_row(x: &[f32], factor: f32, codes: &mut [u8]) {
        map(x, codes, |x| (x * factor + ROUND).to_bits() as u8);
    }
}

simd! {
    fn decode_row(codes: &[u8], scale: f32, x: &mut [f32]) {
        map(codes, x, |code| f32::from(*code as i8) * scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = Int> {
        let spans = prop_oneof![Just(Span::Absmax), Just(Span::Full), Just(Span::Affine)];
        let dtypes = prop_oneof![Just(Dtype::F32), Just(Dtype::BF16), Just(Dtype::F16)];
        (2_u32..=8, spans, dtypes).prop_map(|(bits, span, scale_dtype)| Int { bits, span, scale_dtype })
    }

    fn values() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(prop_oneof![-4.0_f32..4.0, Just(0.0)], 48)
    }

    fn through(kind: Int, x: &[f32], group: usize) -> (Vec<Grid>, Vec<u8>, Vec<f32>) {
        let mut grids = vec![Grid::default(); x.len() / group];
        kind.fit(x, group, &mut grids);
        let (mut codes, mut back) = (vec![0; x.len()], vec![0.0; x.len()]);
        kind.encode(x, group, &grids, &mut codes);
        kind.decode(&codes, group, &grids, &mut back);
        (grids, codes, back)
    }

    proptest! {
        #[test]
        fn a_code_is_the_formula(kind in kinds(), x in values()) {
            let (grids, codes, back) = through(kind, &x, 12);
            for (at, x) in x.iter().enumerate() {
                let Grid { scale, zero } = grids[at / 12];
                let shift = f32::from(zero) - f32::from(kind.middle());
                let lowest = if kind.span == Span::Absmax { 1.0 } else { 0.0 } - f32::from(kind.middle());
                let q = (x / scale + shift).clamp(lowest, f32::from(kind.middle()) - 1.0).round_ties_even();
                prop_assert_eq!(f32::from(codes[at]), q + f32::from(kind.middle()));
                prop_assert_eq!(back[at], (q - shift) * scale);
            }
        }

        #[test]
        fn zero_stays_zero_and_nothing_moves_by_more_than_its_cell(kind in kinds(), x in values()) {
            let (grids, _, back) = through(kind, &x, 16);
            for (at, (x, back)) in x.iter().zip(&back).enumerate() {
                prop_assert!(*x != 0.0 || *back == 0.0);
                // Half a cell; a whole one where the range ends between codes; a little for the rounding of the scale.
                let cells = if kind.span == Span::Absmax { 0.5 } else { 1.0 };
                let slack = 4.0 * polmrs_core::dtype::overflow(Dtype::F32).recip() + x.abs() * 0.008;
                prop_assert!((x - back).abs() <= cells * grids[at / 16].scale + slack);
            }
        }

        #[test]
        fn a_grid_keeps_its_own_values(kind in kinds(), x in values()) {
            let (grids, codes, back) = through(kind, &x, 48);
            let mut again = vec![0; codes.len()];
            kind.encode(&back, 48, &grids, &mut again);
            prop_assert_eq!(again, codes);
        }

        #[test]
        fn a_power_of_two_scales_through(x in values(), power in -8_i32..8) {
            let kind = Int { bits: 4, span: Span::Affine, scale_dtype: Dtype::F32 };
            let factor = 2.0_f32.powi(power);
            let scaled: Vec<f32> = x.iter().map(|x| x * factor).collect();
            let (one, two) = (through(kind, &x, 16).2, through(kind, &scaled, 16).2);
            prop_assume!(x.chunks(16).all(|x| absmax(x) > 0.0));
            prop_assert_eq!(one.iter().map(|x| x * factor).collect::<Vec<_>>(), two);
        }

        #[test]
        fn clipping_never_loses_more(kind in kinds(), x in values()) {
            let mut plain = vec![Grid::default(); 3];
            let mut clipped = plain.clone();
            kind.fit(&x, 16, &mut plain);
            kind.fit_clipped(&x, 16, 40, 0.8, &mut clipped);
            for (at, x) in x.chunks(16).enumerate() {
                prop_assert!(squared_error(x, clipped[at], kind.reach()) <= squared_error(x, plain[at], kind.reach()));
            }
        }
    }

    #[test]
    fn more_bits_lose_less() {
        let x: Vec<f32> = (0..512).map(|at| ((at * 37 % 512) as f32 - 200.0) / 91.0).collect();
        for span in [Span::Absmax, Span::Full, Span::Affine] {
            let mut before = f32::INFINITY;
            for bits in 2..=8 {
                let (_, _, back) = through(Int { bits, span, scale_dtype: Dtype::F32 }, &x, 64);
                let error: f32 = x.iter().zip(&back).map(|(x, back)| (x - back).powi(2)).sum();
                assert!(error < before, "{bits} bits, {span:?}: {error} is not below {before}");
                before = error;
            }
        }
    }

    #[test]
    fn a_group_of_zeros_has_a_scale_that_can_be_divided_by() {
        let kind = Int { bits: 4, span: Span::Full, scale_dtype: Dtype::BF16 };
        let (grids, codes, back) = through(kind, &[0.0; 8], 8);
        assert_eq!((grids[0].scale, codes[0], back[0]), (0.007_812_5, 8, 0.0));
    }

    #[test]
    fn int8_rows_are_signed_and_reach_127() {
        let (mut codes, mut back) = ([0; 4], [0.0; 4]);
        assert_eq!(encode_int8_row(&[-2.0, 1.0, 0.0, 0.3], &mut codes), 2.0);
        assert_eq!(codes.map(|code| code as i8), [-127, 64, 0, 19]); // 63.5 is a tie, to the even 64
        decode_int8_row(&codes, 2.0, &mut back);
        assert_eq!(back, [-127.0, 64.0, 0.0, 19.0].map(|code| code * (2.0 * (1.0 / 127.0))));
        assert_eq!(encode_int8_row(&[0.0; 4], &mut codes), 0.0);
        assert_eq!(codes, [0; 4]);
    }
}
