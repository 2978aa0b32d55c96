//! A bit a row.

/// As many bits that are set.
pub(crate) fn all_ones(rows: usize) -> Vec<u64> {
    (0..rows).step_by(64).map(|first| u64::MAX >> (64 - (rows - first).min(64))).collect()
}

/// The places of the bits that are set.
pub(crate) fn ones(bits: &[u64]) -> impl Iterator<Item = usize> + Clone {
    bits.iter().enumerate().flat_map(|(at, word)| {
        std::iter::successors(Some(*word), |word| Some(word & word.wrapping_sub(1)))
            .take_while(|word| *word != 0)
            .map(move |word| 64 * at + word.trailing_zeros() as usize)
    })
}

/// The bits of rows `first..last`, at most 64 of them, all in one word.
pub(crate) fn eligible_of(bits: &[u64], first: usize, last: usize) -> u64 {
    bits[first / 64] >> (first % 64) & (u64::MAX >> (64 - (last - first)))
}
