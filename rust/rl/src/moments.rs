//! Count, mean and sum of squared deviations of the unmasked elements, mergeable over parts and ranks.
//!
//! Blocks of 32,768 elements in order; inside a block element `i` goes to lane `i % 16` and the lanes fold in halves,
//! first the sum, then the squared deviations from the block's mean; blocks merge in order by the rule of Chan, Golub
//! and LeVeque (1979). So the bits do not depend on threads.

use crate::float::Float;
use crate::parallel;
use crate::ragged::{first_bad, same_length};
use crate::simd::{Kernel, at_best};
use polmrs_core::reduce::in_lanes;
use polmrs_core::{BLOCK, Error, Result};

/// The first two moments of a set of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// How many numbers, as a sum of weights.
    pub n: f64,
    /// Their mean; 0 if there are none.
    pub mean: f64,
    /// The sum of squared deviations from the mean.
    pub m2: f64,
}

impl Moments {
    /// The moments of both sets together.
    #[must_use]
    pub fn merge(self, other: Moments) -> Moments {
        if self.n == 0.0 {
            return other;
        }
        if other.n == 0.0 {
            return self;
        }
        let n = self.n + other.n;
        let apart = other.mean - self.mean;
        Moments {
            n,
            mean: self.mean + apart * (other.n / n),
            m2: self.m2 + other.m2 + apart * apart * (self.n * other.n / n),
        }
    }

    /// The variance with `ddof` degrees of freedom taken off; needs `n > ddof`.
    pub fn variance(self, ddof: f64) -> Result<f64> {
        if self.n > ddof {
            return Ok(self.m2 / (self.n - ddof));
        }
        Err(Error::Array(format!("x: {} elements outside the mask, but a variance of ddof {ddof} needs more", self.n)))
    }
}

/// The moments of `x` outside the holes.
pub fn moments<T: Float>(x: &[T], mask: Option<&[u8]>) -> Result<Moments> {
    mask.map_or(Ok(()), |mask| same_length("mask", mask.len(), "x", x.len()))?;
    let parts = parallel::parts(x.len())?;
    let size = x.len().div_ceil(parts).max(1).next_multiple_of(BLOCK);
    let pieces: Vec<_> = (0..x.len()).step_by(size).map(|start| start..(start + size).min(x.len())).collect();
    let blocks = parallel::each(pieces, |piece| {
        let blocks = piece.clone().step_by(BLOCK).map(|start| start..(start + BLOCK).min(piece.end));
        blocks.map(|b| at_best(Block { x: &x[b.clone()], mask: mask.map(|mask| &mask[b]) })).collect::<Vec<_>>()
    })?;
    let all = blocks.into_iter().flatten().fold(Moments::default(), Moments::merge);
    if !(all.mean.is_finite() && all.m2.is_finite()) {
        first_bad("x", x, 0..x.len(), mask)?;
        return Err(Error::NonFinite("x: the variance overflows".into()));
    }
    Ok(all)
}

struct Block<'a, T> {
    x: &'a [T],
    mask: Option<&'a [u8]>,
}

impl<T: Float> Kernel for Block<'_, T> {
    type Output = Moments;

    #[inline(always)]
    fn run(self) -> Moments {
        let x = self.x;
        let Some(mask) = self.mask else {
            let n = x.len() as f64;
            let mean = in_lanes(x.len(), |i| x[i].wide()) / n;
            let m2 = in_lanes(x.len(), |i| square(x[i].wide() - mean));
            return Moments { n, mean, m2 };
        };
        let mask = &mask[..x.len()];
        let n = mask.iter().map(|here| usize::from(*here != 0)).sum::<usize>() as f64;
        if n == 0.0 {
            return Moments::default();
        }
        let mean = in_lanes(x.len(), |i| if mask[i] != 0 { x[i].wide() } else { 0.0 }) / n;
        let m2 = in_lanes(x.len(), |i| if mask[i] != 0 { square(x[i].wide() - mean) } else { 0.0 });
        Moments { n, mean, m2 }
    }
}

#[inline(always)]
fn square(x: f64) -> f64 {
    x * x
}
