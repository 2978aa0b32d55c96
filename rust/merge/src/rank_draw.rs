//! DELLA's draw: elements of a row are kept with probabilities that rise with their rank by magnitude.
//!
//! An element of rank r is kept where its random word is below `threshold(p(r))`. Most words are below the least of these
//! thresholds or not below the greatest, so an exact rank matters to few elements only. Magnitudes are counted in [`BINS`]
//! equal steps; a bin's first and last rank bound the thresholds of its elements, which decides nearly all of the others.
//! The rest are ranked one by one, by counting. Where too many are left (most of a row in one bin), the row is sorted.

use crate::select::count_equal;
use polmrs_core::{philox, simd};

/// Steps between 0 and the largest magnitude of a row.
const BINS: usize = 512;
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
    bins: Vec<u16>,
    kept: Vec<f32>,
    undecided: Vec<usize>,
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
    let top = largest_bits(row);
    let scale = (BINS - 1) as f32 / f32::from_bits(top);
    if top >= INFINITY || !scale.is_finite() || row.len() < 64 {
        return false;
    }
    let Scratch { bins, kept, undecided, .. } = scratch;
    bins.resize(row.len(), 0);
    find_bins(row, scale, bins);
    let bounds = bounds(bins, odds, row.len());
    kept.clear();
    undecided.clear();
    let most = 16 + row.len() / 64;
    for (at, ((x, word), bin)) in row.iter().zip(words).zip(bins.iter()).enumerate() {
        let (low, high) = bounds[usize::from(*bin) % BINS];
        let word = u64::from(*word);
        kept.push(if word < low { *x } else { 0.0 });
        if word >= low && word < high && *x != 0.0 {
            undecided.push(at);
            if undecided.len() > most {
                return false;
            }
        }
    }
    let last = (row.len() - 1) as f64;
    for at in undecided.drain(..) {
        let bits = row[at].to_bits() & !SIGN;
        let rank = count_below(row, bits) + count_equal(&row[at + 1..], bits);
        if u64::from(words[at]) < philox::threshold(odds.at(rank, last)) {
            kept[at] = row[at];
        }
    }
    row.copy_from_slice(kept);
    true
}

/// The least and the greatest threshold of every bin's elements.
fn bounds(bins: &[u16], odds: Odds, n: usize) -> [(u64, u64); BINS] {
    let mut counts = [0u32; BINS];
    for bin in bins {
        counts[usize::from(*bin) % BINS] += 1;
    }
    let (mut bounds, mut rank, last) = ([(0, 0); BINS], 0, (n - 1) as f64);
    for (bounds, count) in bounds.iter_mut().zip(counts).filter(|(_, count)| *count > 0) {
        let threshold = |rank: u64| philox::threshold(odds.at(rank, last));
        *bounds = (threshold(rank), threshold(rank + u64::from(count) - 1));
        rank += u64::from(count);
    }
    bounds
}

simd! {
    /// The bits of the largest magnitude; those of a NaN are larger still.
    fn largest_bits(row: &[f32]) -> u32 {
        row.iter().fold(0, |top, x| top.max(x.to_bits() & !SIGN))
    }
}

simd! {
    /// Every element's bin. Larger magnitudes never have smaller bins: rounding is monotone.
    fn find_bins(row: &[f32], scale: f32, bins: &mut [u16]) {
        for (bin, x) in bins.iter_mut().zip(row) {
            *bin = ((x.abs() * scale) as i32).min(BINS as i32 - 1) as u16;
        }
    }
}

simd! {
    fn count_below(row: &[f32], bits: u32) -> u64 {
        row.chunks(1 << 20).map(|x| u64::from(x.iter().map(|x| u32::from(x.to_bits() & !SIGN < bits)).sum::<u32>())).sum()
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
