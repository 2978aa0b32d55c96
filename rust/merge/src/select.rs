//! The k largest magnitudes of a tensor, exactly, without sorting it.
//!
//! The bits of |x| without the sign order as |x| does. One pass counts the upper 16 of the 31 bits, a second the lower
//! 15 within the bucket where the k-th lies: that is the threshold, exactly. Everything above it is kept; of the elements
//! equal to it, those with the lowest index, for which a third pass counts the equal ones of every block. (mergekit sorts
//! with an unstable sort, so among equal magnitudes its choice is arbitrary; on rounded fine-tunes that is up to half of
//! the tensor.)

use polmrs_core::simd;
use polmrs_engine::Accumulate;

const LOW_BITS: u32 = 15;
const SIGN: u32 = 0x8000_0000;

/// How many elements `density` keeps of `n`: its floor, but at least one.
pub(crate) fn kept(density: f64, n: u64) -> u64 {
    if density <= 0.0 { 0 } else { ((density * n as f64) as u64).clamp(1.min(n), n) }
}

/// Counts of the upper or the lower bits of magnitudes.
pub(crate) struct Histogram(Vec<u64>);

impl Accumulate for Histogram {
    fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

impl Histogram {
    pub(crate) fn upper() -> Histogram {
        Histogram(vec![0; 1 << (31 - LOW_BITS)])
    }

    pub(crate) fn lower() -> Histogram {
        Histogram(vec![0; 1 << LOW_BITS])
    }

    pub(crate) fn count_upper(&mut self, x: &[f32]) {
        for x in x {
            self.0[((x.to_bits() & !SIGN) >> LOW_BITS) as usize] += 1;
        }
    }

    /// Counts the lower bits of the elements whose upper bits are `bucket`.
    pub(crate) fn count_lower(&mut self, x: &[f32], bucket: u32) {
        count_lower(&mut self.0, x, bucket);
    }

    /// How many were counted.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The bin in which the `k`-th largest lies (k >= 1), and how many lie in the bins above.
    pub(crate) fn kth(&self, k: u64) -> (u32, u64) {
        let mut above = 0;
        for (bin, count) in self.0.iter().enumerate().rev() {
            if above + count >= k {
                return (bin as u32, above);
            }
            above += count;
        }
        (0, above)
    }
}

/// Which elements of one tensor stay: those above the threshold, and the first `quota` of those equal to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cutoff {
    /// The sign-cleared bits of the k-th largest magnitude.
    pub(crate) bits: u32,
    /// How many of the elements equal to it stay.
    pub(crate) quota: u64,
    /// How many elements equal it.
    pub(crate) equal: u64,
}

impl Cutoff {
    /// Keeps nothing.
    pub(crate) fn none() -> Cutoff {
        Cutoff { bits: u32::MAX, quota: 0, equal: 0 }
    }

    /// From both histograms: `bucket` and `above` are the upper one's answer for `k`.
    pub(crate) fn from_lower(lower: &Histogram, bucket: u32, above: u64, k: u64) -> Cutoff {
        let (low, greater) = lower.kth(k - above);
        let equal = lower.0[low as usize];
        Cutoff { bits: (bucket << LOW_BITS) | low, quota: k - above - greater, equal }
    }

    /// From a whole small tensor.
    pub(crate) fn of(x: &[f32], k: u64) -> Cutoff {
        if k == 0 || x.is_empty() {
            return Cutoff::none();
        }
        let mut bits: Vec<u32> = x.iter().map(|x| x.to_bits() & !SIGN).collect();
        let at = x.len() - k as usize;
        let (_, kth, above) = bits.select_nth_unstable(at);
        let kth = *kth;
        let greater = above.iter().filter(|bits| **bits > kth).count() as u64;
        Cutoff { bits: kth, quota: k - greater, equal: count_equal(x, kth) }
    }

    /// Whether every element equal to the threshold stays (or goes), so that their order does not matter.
    pub(crate) fn is_plain(&self) -> bool {
        self.quota == 0 || self.quota >= self.equal
    }
}

/// A cutoff at one stretch of its tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) cutoff: Cutoff,
    /// How many elements before the stretch equal the threshold.
    pub(crate) seen: u64,
    /// How many in the stretch do.
    pub(crate) here: u64,
}

impl Cut {
    /// Zeroes the elements that are not among the largest.
    pub(crate) fn keep(&self, x: &mut [f32]) {
        let Cutoff { bits: threshold, quota, .. } = self.cutoff;
        let mut left = quota.saturating_sub(self.seen);
        if left == 0 {
            zero_below(x, threshold.saturating_add(1));
        } else if left >= self.here {
            zero_below(x, threshold);
        } else {
            for x in x {
                let bits = x.to_bits() & !SIGN;
                if bits == threshold && left > 0 {
                    left -= 1;
                } else if bits <= threshold {
                    *x = 0.0;
                }
            }
        }
    }

    /// Zeroes the elements that are among the largest.
    pub(crate) fn remove(&self, x: &mut [f32]) {
        let Cutoff { bits: threshold, quota, .. } = self.cutoff;
        let mut left = quota.saturating_sub(self.seen);
        if left == 0 {
            zero_above(x, threshold.saturating_add(1));
        } else if left >= self.here {
            zero_above(x, threshold);
        } else {
            for x in x {
                let bits = x.to_bits() & !SIGN;
                if bits > threshold || (bits == threshold && left > 0) {
                    left -= u64::from(bits == threshold);
                    *x = 0.0;
                }
            }
        }
    }
}

simd! {
    /// Few elements lie in the bucket, so most stretches are passed over whole.
    fn count_lower(bins: &mut [u64], x: &[f32], bucket: u32) {
        for x in x.chunks(32) {
            if x.iter().map(|x| u32::from((x.to_bits() & !SIGN) >> LOW_BITS == bucket)).sum::<u32>() > 0 {
                for x in x {
                    let bits = x.to_bits() & !SIGN;
                    if bits >> LOW_BITS == bucket {
                        bins[(bits & ((1 << LOW_BITS) - 1)) as usize] += 1;
                    }
                }
            }
        }
    }
}

simd! {
    /// How many magnitudes have exactly these bits.
    pub(crate) fn count_equal(x: &[f32], bits: u32) -> u64 {
        x.chunks(1 << 20).map(|x| u64::from(x.iter().map(|x| u32::from(x.to_bits() & !SIGN == bits)).sum::<u32>())).sum()
    }
}

simd! {
    fn zero_below(x: &mut [f32], least: u32) {
        for x in x {
            *x = if x.to_bits() & !SIGN >= least { *x } else { 0.0 };
        }
    }
}

simd! {
    fn zero_above(x: &mut [f32], least: u32) {
        for x in x {
            *x = if x.to_bits() & !SIGN < least { *x } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sorts by magnitude, then index; keeps the first k.
    fn sorted(x: &[f32], k: usize) -> Vec<f32> {
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|a, b| x[*b].abs().total_cmp(&x[*a].abs()).then(a.cmp(b)));
        let mut out = vec![0.0; x.len()];
        for at in &order[..k] {
            out[*at] = x[*at];
        }
        out
    }

    proptest! {
        #[test]
        fn both_ways_equal_a_stable_sort(
            x in proptest::collection::vec(prop_oneof![Just(0.0f32), Just(1.5), Just(-1.5), -2f32..2.0, Just(1e-42)], 1..300),
            share in 0f64..1.0, cut in 0usize..300,
        ) {
            let k = kept(share, x.len() as u64);
            let expected = sorted(&x, k as usize);
            let small = Cutoff::of(&x, k);
            if k > 0 {
                let (mut upper, mut lower) = (Histogram::upper(), Histogram::lower());
                upper.count_upper(&x);
                let (bucket, above) = upper.kth(k);
                lower.count_lower(&x, bucket);
                prop_assert_eq!(&Cutoff::from_lower(&lower, bucket, above, k), &small);
            }
            let mut pieces = x.clone();
            let (left, right) = pieces.split_at_mut(cut.min(x.len()));
            let (seen, rest) = (count_equal(left, small.bits), count_equal(right, small.bits));
            let cuts = [Cut { cutoff: small, seen: 0, here: seen }, Cut { cutoff: small, seen, here: rest }];
            cuts[0].keep(left);
            cuts[1].keep(right);
            prop_assert_eq!(&pieces, &expected);
            let mut others = x.clone();
            let (left, right) = others.split_at_mut(cut.min(x.len()));
            cuts[0].remove(left);
            cuts[1].remove(right);
            let back: Vec<f32> = others.iter().zip(&expected).map(|(a, b)| a + b).collect();
            prop_assert_eq!(back, x);
        }
    }

    #[test]
    fn the_kept_count_truncates_as_python_int_does() {
        assert_eq!([kept(0.5, 5), kept(0.2, 4), kept(0.0, 9), kept(1.0, 9), kept(0.29, 100)], [2, 1, 0, 9, 28]);
    }
}
