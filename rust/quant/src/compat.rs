//! llm-compressor's codes of bf16 and f16 weights: every step of the arithmetic is rounded to the weights' own type, as
//! torch does it. Rounding once at the end, in f32, gives other codes for 0.65 % of the elements.

use crate::group::{absmax, extent, round_scales};
use crate::int::{Grid, Int, Span};
use crate::{fp8, group};
use polmrs_core::{Dtype, dtype};

/// Arithmetic whose every result is rounded to a type.
pub(crate) struct Rounding {
    dtype: Dtype,
    bytes: Vec<u8>,
    steps: Vec<f32>,
}

impl Rounding {
    pub(crate) fn new(dtype: Dtype) -> Rounding {
        Rounding { dtype, bytes: Vec::new(), steps: Vec::new() }
    }

    fn one(&mut self, x: f32) -> f32 {
        let mut x = [x];
        self.bytes.resize(self.dtype.size(), 0);
        dtype::from_f32(self.dtype, &x, &mut self.bytes);
        dtype::to_f32(self.dtype, &self.bytes, &mut x);
        x[0]
    }

    /// `f` of every element, rounded.
    fn step(&mut self, f: impl Fn(f32) -> f32) {
        self.steps.iter_mut().for_each(|x| *x = f(*x));
        self.bytes.resize(self.steps.len() * self.dtype.size(), 0);
        dtype::from_f32(self.dtype, &self.steps, &mut self.bytes);
        dtype::to_f32(self.dtype, &self.bytes, &mut self.steps);
    }

    /// The grids of whole groups, and the codes on them.
    pub(crate) fn int(&mut self, kind: Int, x: &[f32], group: usize, grids: &mut [Grid], codes: &mut [u8]) {
        let (middle, top) = (f32::from(kind.middle()), f32::from(kind.top()));
        for ((x, grid), codes) in group::each(x, group, grids).zip(codes.chunks_exact_mut(group.max(1))) {
            *grid = self.grid(kind, extent(x));
            let zero = f32::from(grid.zero) - middle;
            self.steps.clear();
            self.steps.extend_from_slice(x);
            self.step(|x| x / grid.scale);
            if kind.span == Span::Affine {
                self.step(|x| x + zero);
            }
            for (code, at) in codes.iter_mut().zip(&self.steps) {
                *code = (at.clamp(-middle, top - middle).round_ties_even() + middle) as u8;
            }
        }
    }

    fn grid(&mut self, kind: Int, (low, high): (f32, f32)) -> Grid {
        let (middle, top) = (f32::from(kind.middle()), f32::from(kind.top()));
        let mut scale = [match kind.span {
            Span::Absmax => high.max(-low) / (middle - 1.0),
            Span::Full => high.max(-low) / (top / 2.0),
            Span::Affine => self.one(high - low) / top,
        }];
        round_scales(&mut scale, self.dtype);
        let [scale] = scale;
        let below = self.one(low / scale);
        let zero = match kind.span {
            Span::Affine if low < high => {
                self.one(-middle - below).clamp(-middle, top - middle).round_ties_even() + middle
            }
            _ => middle,
        };
        Grid { scale, zero: zero as u8 }
    }

    /// The scales of whole groups, and E4M3 bytes.
    pub(crate) fn fp8(&mut self, x: &[f32], group: usize, scales: &mut [f32], bytes: &mut [u8]) {
        for ((x, scale), bytes) in group::each(x, group, scales).zip(bytes.chunks_exact_mut(group.max(1))) {
            let mut found = [absmax(x) / fp8::MAX];
            round_scales(&mut found, self.dtype);
            [*scale] = found;
            self.steps.clear();
            self.steps.extend_from_slice(x);
            self.step(|x| x / *scale);
            self.step(|x| x.clamp(-fp8::MAX, fp8::MAX));
            dtype::from_f32(Dtype::F8E4M3, &self.steps, bytes);
        }
    }
}
