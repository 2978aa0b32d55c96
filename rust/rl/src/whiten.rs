//! Whitening: mean 0 and variance 1 over the unmasked elements.
//!
//! $$ y = (x - \mu) / \sqrt{\sigma^2 + \varepsilon} $$

use crate::float::Float;
use crate::moments::Moments;
use crate::parallel;
use crate::ragged::same_length;
use crate::simd::{Kernel, at_best};
use polmrs_core::{BLOCK, Error, Result};

/// The settings of whitening.
#[derive(Clone, Copy, Debug)]
pub struct Whiten {
    /// The moments to whiten with: of this array, or of all ranks together.
    pub moments: Moments,
    /// Degrees of freedom taken off the count in the variance.
    pub ddof: f64,
    /// Added to the variance.
    pub eps: f64,
    /// Whether the mean is taken away for good; if not, it is added again after scaling.
    pub center: bool,
}

impl Whiten {
    /// Writes the whitened elements; holes get 0.
    pub fn run<T: Float>(&self, x: &[T], mask: Option<&[u8]>, out: &mut [T]) -> Result<()> {
        mask.map_or(Ok(()), |mask| same_length("mask", mask.len(), "x", x.len()))?;
        same_length("out", out.len(), "x", x.len())?;
        if self.moments.n == 0.0 {
            out.fill(T::ZERO);
            return Ok(());
        }
        let spread = self.moments.variance(self.ddof)? + self.eps;
        if spread <= 0.0 {
            return Err(Error::Array(format!("x: the variance is 0 and eps is {}; take eps > 0", self.eps)));
        }
        let (mean, scale, shift) =
            (self.moments.mean, 1.0 / spread.sqrt(), if self.center { 0.0 } else { self.moments.mean });
        let size = x.len().div_ceil(parallel::parts(x.len())?).max(1).next_multiple_of(BLOCK);
        let pieces = out.chunks_mut(size).enumerate().collect();
        parallel::each(pieces, |(piece, out): (usize, &mut [T])| {
            let span = piece * size..piece * size + out.len();
            at_best(Elements { x: &x[span.clone()], mask: mask.map(|mask| &mask[span]), mean, scale, shift, out });
        })?;
        Ok(())
    }
}

struct Elements<'a, T> {
    x: &'a [T],
    mask: Option<&'a [u8]>,
    mean: f64,
    scale: f64,
    shift: f64,
    out: &'a mut [T],
}

impl<T: Float> Kernel for Elements<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let of = |x: T| T::narrow((x.wide() - self.mean) * self.scale + self.shift);
        let pairs = self.out.iter_mut().zip(self.x);
        match self.mask {
            None => pairs.for_each(|(out, x)| *out = of(*x)),
            Some(mask) => pairs.zip(mask).for_each(|((out, x), here)| *out = if *here != 0 { of(*x) } else { T::ZERO }),
        }
    }
}
