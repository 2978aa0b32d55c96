//! A shuffled order that depends on the seed and the purpose alone: sort by one Philox word for each element.

use polmrs_core::philox::{Key, fill};

/// `0 .. n` in random order.
pub(crate) fn permutation(n: usize, seed: u64, purpose: &str) -> Vec<u32> {
    let mut words = vec![0; n];
    fill(Key::new(seed, "batch", purpose), 0, &mut words);
    let mut order: Vec<u32> = (0..n as u32).collect();
    order.sort_unstable_by_key(|i| (words[*i as usize], *i));
    order
}
