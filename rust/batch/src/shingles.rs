//! A document as the set of its word n-grams (shingles; Broder, 1997).

use crate::words::mix;

/// The shingles of a document, sorted, each once. A document of fewer than `n` words has one, of all its words; an empty
/// one has none.
pub fn shingles(words: &[u64], n: usize) -> Vec<u64> {
    if words.is_empty() {
        return Vec::new();
    }
    let n = n.clamp(1, words.len());
    let mut found: Vec<u64> = words.windows(n).map(ngram).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The hash of an n-gram: depends on the words and on their order.
pub(crate) fn ngram(words: &[u64]) -> u64 {
    words.iter().fold(words.len() as u64, |hash, word| mix(hash.rotate_left(5) ^ word))
}

/// |A and B| of two sorted sets.
pub fn shared(a: &[u64], b: &[u64]) -> usize {
    let (mut i, mut j, mut both) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        both += usize::from(a[i] == b[j]);
        (i, j) = (i + usize::from(a[i] <= b[j]), j + usize::from(b[j] <= a[i]));
    }
    both
}

/// |A and B| / |A or B|; 1 for two empty sets.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    ratio(shared(a, b), a.len(), b.len())
}

/// The Jaccard index of sets of these sizes that share so many.
pub(crate) fn ratio(shared: usize, a: usize, b: usize) -> f64 {
    if a + b == 0 { 1.0 } else { shared as f64 / (a + b - shared) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_compared_as_a_set() {
        assert_eq!(shingles(&[1, 2, 1, 2, 1, 2], 2).len(), 2);
        assert_eq!(shingles(&[1, 2], 5).len(), 1);
        assert_ne!(shingles(&[1, 2], 5), shingles(&[2, 1], 5));
        assert_eq!(jaccard(&[1, 2, 3], &[2, 3, 4]), 0.5);
        assert_eq!((jaccard(&[], &[]), jaccard(&[], &[1])), (1.0, 0.0));
    }
}
