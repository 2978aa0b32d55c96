//! One row through each codec, in buffers that are used again.
//!
//! Scales, zero points and packed codes are the caller's: one scale for each group, and the bytes that the codes take.

use crate::compat::Rounding;
use crate::group::round_scales;
use crate::hqq::{Hqq, Real};
use crate::int::{Grid, Int};
use crate::{bits, codebook, fp4, fp8};
use polmrs_core::Dtype;

/// A narrower range than the group's own, chosen by squared error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// How many ranges to try.
    pub steps: u32,
    /// How much of the range the narrowest leaves out.
    pub shrink: f32,
}

/// A row's scales, zero points and packed codes.
pub(crate) type Grids<'a> = (&'a mut [f32], &'a mut [u8], &'a mut [u8]);

/// Codes and grids of a row.
#[derive(Default)]
pub(crate) struct Work {
    codes: Vec<u8>,
    grids: Vec<Grid>,
    reals: Vec<Real>,
}

impl Work {
    /// Integer codes, and a scale and a zero point for each `group` elements.
    pub(crate) fn int(
        &mut self,
        kind: Int,
        group: usize,
        clip: Option<Clip>,
        row: &[f32],
        (scales, zeros, packed): Grids<'_>,
    ) {
        self.grids.resize(scales.len(), Grid::default());
        match clip {
            None => kind.fit(row, group, &mut self.grids),
            Some(Clip { steps, shrink }) => kind.fit_clipped(row, group, steps, shrink, &mut self.grids),
        }
        self.on_grids(kind, group, row, (scales, zeros, packed));
    }

    /// The codes on the grids that were found.
    fn on_grids(&mut self, kind: Int, group: usize, row: &[f32], out: Grids<'_>) {
        self.codes.resize(row.len(), 0);
        kind.encode(row, group, &self.grids, &mut self.codes);
        self.store(kind, out);
    }

    fn store(&self, kind: Int, (scales, zeros, packed): Grids<'_>) {
        bits::pack(kind.bits as usize, &self.codes, packed);
        for ((grid, scale), zero) in self.grids.iter().zip(scales).zip(zeros) {
            (*scale, *zero) = (grid.scale, grid.zero);
        }
    }

    /// HQQ codes, and a scale and a real zero point for each `group` elements.
    pub(crate) fn hqq(
        &mut self,
        settings: Hqq,
        group: usize,
        row: &[f32],
        scales: &mut [f32],
        zeros: &mut [f32],
        packed: &mut [u8],
    ) {
        self.reals.resize(scales.len(), Real::default());
        self.codes.resize(row.len(), 0);
        settings.encode(row, group, &mut self.reals, &mut self.codes);
        bits::pack(settings.bits as usize, &self.codes, packed);
        for ((real, scale), zero) in self.reals.iter().zip(scales).zip(zeros) {
            (*scale, *zero) = (1.0 / real.inverse, real.zero);
        }
    }

    /// As [`int`](Work::int), in arithmetic that rounds every step.
    pub(crate) fn int_as(
        &mut self,
        rounding: &mut Rounding,
        kind: Int,
        group: usize,
        row: &[f32],
        (scales, zeros, packed): Grids<'_>,
    ) {
        self.grids.resize(scales.len(), Grid::default());
        self.codes.resize(row.len(), 0);
        rounding.int(kind, row, group, &mut self.grids, &mut self.codes);
        self.store(kind, (scales, zeros, packed));
    }

    /// HQQ codes on a zero point that is rounded to a code. Where it lies outside of the codes, or the range lacks zero,
    /// the group keeps the grid of its range.
    pub(crate) fn hqq_rounded(
        &mut self,
        settings: Hqq,
        kind: Int,
        group: usize,
        row: &[f32],
        (scales, zeros, packed): Grids<'_>,
    ) {
        self.grids.resize(scales.len(), Grid::default());
        self.reals.resize(scales.len(), Real::default());
        self.codes.resize(row.len(), 0);
        settings.encode(row, group, &mut self.reals, &mut self.codes);
        kind.fit(row, group, &mut self.grids);
        for (real, grid) in self.reals.iter().zip(&mut self.grids) {
            let zero = real.zero.round_ties_even();
            if (0.0..=f32::from(kind.top())).contains(&zero) {
                let mut scale = [1.0 / real.inverse];
                round_scales(&mut scale, kind.scale_dtype);
                *grid = Grid { scale: scale[0], zero: zero as u8 };
            }
        }
        self.on_grids(kind, group, row, (scales, zeros, packed));
    }

    /// E4M3 bytes, and a scale for each `group` elements.
    pub(crate) fn fp8(&self, group: usize, scale_dtype: Dtype, row: &[f32], scales: &mut [f32], bytes: &mut [u8]) {
        fp8::fit(row, group, scale_dtype, scales);
        fp8::encode(row, group, scales, bytes);
    }

    /// MXFP4: an exponent for each 32 elements, and packed codes, the first in the low half.
    pub(crate) fn mxfp4(&mut self, row: &[f32], exponents: &mut [u8], packed: &mut [u8]) {
        self.codes.resize(row.len(), 0);
        fp4::encode_mx(row, exponents, &mut self.codes);
        bits::pack(4, &self.codes, packed);
    }

    /// NVFP4 under the tensor's scale `global`: an E4M3 scale for each 16 elements, and packed codes.
    pub(crate) fn nvfp4(&mut self, global: f32, row: &[f32], scales: &mut [u8], packed: &mut [u8]) {
        self.codes.resize(row.len(), 0);
        fp4::encode_nv(row, global, scales, &mut self.codes);
        bits::pack(4, &self.codes, packed);
    }

    /// NF4: the largest magnitude of each `block` elements, and packed codes, the first in the high half.
    pub(crate) fn nf4(&mut self, block: usize, run: &[f32], scales: &mut [f32], packed: &mut [u8]) {
        self.codes.resize(run.len(), 0);
        codebook::encode_nf4(run, block, scales, &mut self.codes);
        codebook::pack_high_first(&self.codes, packed);
    }
}
