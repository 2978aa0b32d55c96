//! DELLA's draw: elements of a row are kept with probabilities that rise with their rank by magnitude.
//!
//! An element of rank r is kept where its random word is below `threshold(p(r))`. Most words are below the least of these
//! thresholds or not below the greatest, so an exact rank matters to few elements only. Magnitudes are counted in [`BINS`]
//! equal steps; a bin's first and last rank bound the thresholds of its elements, which decides nearly all of the others.
//! The rest are ranked one by one, by counting. Where too many are left (most of a row in one bin), the row is sorted.

use polmrs_core::{philox, simd};

/// Steps between 0 and the largest magnitude of a row.
const BINS: usize = 256;
const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0x7f80_0000;

/// Probabilities of keeping an element, from the smallest of a row to the largest.
#[derive(Clone, Copy)]
pub(crate) struct Odds {
    pub(crate) lowest: f64,
    pub(crate) spread: f64,
    /// Whether what is kept is divided by its probability.
    pub(crate) expected: bool,
}

impl Odds {
    /// The probability of rank `rank` of `last + 1`.
    fn at(self, rank: u64, last: f64) -> f64 {
        let share = if last == 0.0 { 0.5 } else { rank as f64 / last };
        self.lowest + self.spread * share
    }
}

/// Buffers of one thread.
#[derive(Default)]
pub(crate) struct Scratch {
    order: Vec<u64>,
    bins: Vec<u8>,
    kept: Vec<f32>,
    doubts: Vec<u8>,
}

/// Zeroes the elements of a row that are not kept; among equal magnitudes, the lowest index ranks last.
pub(crate) fn keep(row: &mut [f32], words: &[u32], odds: Odds, scratch: &mut Scratch) {
    if odds.expected || !by_bins(row, words, odds, scratch) {
        by_sorting(row, words, odds, &mut scratch.order);
    }
}

fn by_sorting(row: &mut [f32], words: &[u32], odds: Odds, order: &mut Vec<u64>) {
    // Magnitude above, inverted index below: ascending order ranks, among equals, the lowest index last.
    let key = |(at, x): (usize, &f32)| (u64::from(x.to_bits() & !SIGN) << 32) | u64::from(!(at as u32));
    order.clear();
    order.extend(row.iter().enumerate().map(key));
    order.sort_unstable();
    let last = (row.len() - 1) as f64;
    for (rank, key) in order.iter().enumerate() {
        let at = !(*key as u32) as usize;
        let probability = odds.at(rank as u64, last);
        if u64::from(words[at]) >= philox::threshold(probability) {
            row[at] = 0.0;
        } else if odds.expected {
            row[at] *= (1.0 / probability) as f32;
        }
    }
}

/// Whether it came to an end; where it did not, the row is as it was.
fn by_bins(row: &mut [f32], words: &[u32], odds: Odds, scratch: &mut Scratch) -> bool {
    let (top, n) = (largest_bits(row), row.len());
    let (scale, last) = ((BINS - 1) as f32 / f32::from_bits(top), (n - 1) as f64);
    let sure = philox::threshold(odds.at(n as u64 - 1, last)) > u64::from(u32::MAX); // no word is as large
    if top >= INFINITY || !scale.is_finite() || sure || !(64..=1 << 30).contains(&n) {
        return false;
    }
    let Scratch { bins, kept, doubts, .. } = scratch;
    bins.resize(n, 0);
    kept.resize(n, 0.0);
    doubts.resize(n, 0);
    find_bins(row, scale, bins);
    let (mut low, mut high) = ([0; BINS], [0; BINS]);
    bounds(&counts(bins), odds, last, &mut low, &mut high);
    if decide(row, words, bins, &low, &high, kept, doubts) > 16 + n as u32 / 64 {
        return false;
    }
    for start in (0..n).step_by(64) {
        let doubts = &doubts[start..n.min(start + 64)];
        if doubts.iter().all(|doubt| *doubt == 0) {
            continue;
        }
        for at in (start..).zip(doubts).filter(|(_, doubt)| **doubt != 0).map(|(at, _)| at) {
            if u64::from(words[at]) < philox::threshold(odds.at(rank(row, at), last)) {
                kept[at] = row[at];
            }
        }
    }
    row.copy_from_slice(kept);
    true
}

/// How many elements each bin has. Neighbours often share a bin, so four counters take turns.
fn counts(bins: &[u8]) -> [u32; BINS] {
    let mut counts = [[0u32; BINS]; 4];
    let (fours, rest) = bins.as_chunks::<4>();
    for four in fours {
        for (counts, bin) in counts.iter_mut().zip(four) {
            counts[usize::from(*bin)] += 1;
        }
    }
    rest.iter().for_each(|bin| counts[0][usize::from(*bin)] += 1);
    std::array::from_fn(|bin| counts.iter().map(|counts| counts[bin]).sum())
}

simd! {
    /// The least and the greatest threshold of every bin's elements, all of them below 2^32.
    fn bounds(counts: &[u32; BINS], odds: Odds, last: f64, low: &mut [u32; BINS], high: &mut [u32; BINS]) {
        let mut first = 0;
        let mut firsts = [0u32; BINS];
        for (slot, count) in firsts.iter_mut().zip(counts) {
            *slot = first;
            first += count;
        }
        for bin in 0..BINS {
            low[bin] = threshold(odds, firsts[bin], last);
            high[bin] = threshold(odds, firsts[bin] + counts[bin].max(1) - 1, last);
        }
    }
}

/// `philox::threshold` of a rank, where it is below 2^32: a whole number next to 2^52 stands in the lowest bits.
#[inline(always)]
fn threshold(odds: Odds, rank: u32, last: f64) -> u32 {
    const SHIFT: f64 = (1u64 << 52) as f64;
    let probability = odds.lowest + odds.spread * (f64::from(rank) / last);
    ((probability * 4_294_967_296.0).round() + SHIFT).to_bits() as u32
}

simd! {
    /// Keeps the elements whose words are below the least threshold of their bins, marks those that are below the
    /// greatest only, and counts them.
    fn decide(
        row: &[f32], words: &[u32], bins: &[u8], low: &[u32; BINS], high: &[u32; BINS],
        kept: &mut [f32], doubts: &mut [u8],
    ) -> u32 {
        let mut count = 0;
        let results = kept.iter_mut().zip(doubts.iter_mut());
        for (((kept, doubt), (x, word)), bin) in results.zip(row.iter().zip(words)).zip(bins) {
            let bin = usize::from(*bin);
            *kept = if *word < low[bin] { *x } else { 0.0 };
            *doubt = u8::from(*word >= low[bin]) & u8::from(*word < high[bin]) & u8::from(*x != 0.0);
            count += u32::from(*doubt);
        }
        count
    }
}

simd! {
    /// The bits of the largest magnitude; those of a NaN are larger still.
    fn largest_bits(row: &[f32]) -> u32 {
        row.iter().fold(0, |top, x| top.max(x.to_bits() & !SIGN))
    }
}

simd! {
    /// Every element's bin. Larger magnitudes never have smaller bins: rounding is monotone. A number next to 2^23 has its
    /// whole part in the lowest bits.
    fn find_bins(row: &[f32], scale: f32, bins: &mut [u8]) {
        for (bin, x) in bins.iter_mut().zip(row) {
            *bin = (x.abs() * scale + (1 << 23) as f32).to_bits() as u8;
        }
    }
}

simd! {
    /// The rank of the element at `at`, by counting.
    fn rank(row: &[f32], at: usize) -> u64 {
        let own = row[at].to_bits() & !SIGN;
        let count = |values: &[f32], below: u32| -> u64 {
            let less = |x: &f32| u32::from(x.to_bits() & !SIGN < below);
            values.chunks(1 << 20).map(|values| u64::from(values.iter().map(less).sum::<u32>())).sum()
        };
        count(&row[..at], own) + count(&row[at + 1..], own + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn draw(row: &[f32], seed: u64, lowest: f64, spread: f64) -> (Vec<f32>, Vec<f32>, bool) {
        let odds = Odds { lowest, spread, expected: false };
        let mut words = vec![0; row.len()];
        philox::fill(philox::Key::new(seed, "w", "della:0"), 0, &mut words);
        let (mut sorted, mut binned, mut scratch) = (row.to_vec(), row.to_vec(), Scratch::default());
        by_sorting(&mut sorted, &words, odds, &mut Vec::new());
        let done = by_bins(&mut binned, &words, odds, &mut scratch);
        (sorted, binned, done)
    }

    proptest! {
        #[test]
        fn bins_decide_as_sorting_does(
            row in proptest::collection::vec(prop_oneof![-2f32..2.0, Just(0.0f32), Just(0.5), Just(-0.5), Just(1e-42)], 64..3000),
            seed in 0u64..1000, lowest in 0.01f64..0.5, spread in 0f64..0.49,
        ) {
            let (sorted, binned, done) = draw(&row, seed, lowest, spread);
            prop_assert_eq!(binned, if done { sorted } else { row });
        }
    }

    #[test]
    fn a_row_of_many_magnitudes_needs_no_sorting() {
        let row: Vec<f32> = (0..4096u32).map(|at| ((at.wrapping_mul(2_654_435_761) >> 8) as f32).sin()).collect();
        let (sorted, binned, done) = draw(&row, 1, 0.35, 0.3);
        assert!(done);
        assert_eq!(binned, sorted);
    }

    #[test]
    fn a_row_that_cannot_be_binned_is_left_alone() {
        let mut row = vec![1e-3f32; 100];
        row[7] = f32::NAN;
        let (_, binned, done) = draw(&row, 1, 0.35, 0.3);
        assert!(!done);
        assert_eq!(binned.iter().filter(|x| **x == 1e-3).count(), 99);
    }
}
