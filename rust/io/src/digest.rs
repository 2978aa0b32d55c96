//! The BLAKE3 hash of bytes that arrive in any order, from many threads: that of the whole, as `b3sum` prints it.
//!
//! BLAKE3 is a tree over chunks of 1,024 bytes ([paper](https://github.com/BLAKE3-team/BLAKE3-specs), section 2.1), so
//! every region is cut into the largest subtrees that lie inside it, and neighbours are joined as soon as both are there.
//! A chunk that a region holds only a part of is kept until its other parts come. What is kept is small: a few nodes and
//! at most two chunks for every gap between regions.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use blake3::{CHUNK_LEN, Hasher};
use polmrs_core::{Error, Result};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

const CHUNK: u64 = CHUNK_LEN as u64;

/// A hash in the making.
#[derive(Debug)]
pub struct Digest {
    len: u64,
    tree: Mutex<Tree>,
}

#[derive(Debug, Default)]
struct Tree {
    /// Subtrees by their first byte: their length, and their hash.
    nodes: HashMap<u64, (u64, ChainingValue)>,
    /// Chunks of which a part is still to come, by their first byte: the bytes, and how many are there.
    chunks: HashMap<u64, (Vec<u8>, usize)>,
}

impl Digest {
    /// The hash of `len` bytes, of which none is there yet.
    pub fn new(len: u64) -> Digest {
        Digest { len, tree: Mutex::default() }
    }

    /// Takes in bytes from `offset` on; every byte once.
    pub fn add(&self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        let mut parts = Vec::new();
        let mut nodes = Vec::new();
        let mut at = offset;
        while at < end {
            let chunk_end = ((at / CHUNK + 1) * CHUNK).min(self.len);
            let partial = !at.is_multiple_of(CHUNK) || end < chunk_end || self.len <= CHUNK;
            let next = if partial { end.min(chunk_end) } else { at + self.subtree(at, end) };
            let part = &bytes[(at - offset) as usize..(next - offset) as usize];
            if partial {
                parts.push((at, part));
            } else {
                nodes.push((at, next - at, hash(at, part)));
            }
            at = next;
        }
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, part) in parts {
            self.fill(&mut tree, at, part);
        }
        for (at, len, value) in nodes {
            self.join(&mut tree, at, len, value);
        }
    }

    /// The hash, in hexadecimal.
    ///
    /// # Errors
    /// [`Error::Internal`] if bytes are missing.
    pub fn finish(&self) -> Result<String> {
        let tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || Error::Internal(format!("a digest of {} bytes lacks some of them", self.len));
        let hash = if self.len <= CHUNK {
            let (bytes, there) = tree.chunks.get(&0).cloned().unwrap_or_default();
            if there as u64 != self.len {
                return Err(missing());
            }
            blake3::hash(&bytes)
        } else {
            let left = left_subtree_len(self.len);
            let halves = (tree.value(0, left), tree.value(left, self.len - left));
            let (Some(left), Some(right)) = halves else { return Err(missing()) };
            merge_subtrees_root(&left, &right, Mode::Hash)
        };
        Ok(hash.to_hex().to_string())
    }

    /// The length of the largest subtree, not the whole, that begins at `at` and ends by `end`; `at` begins a chunk.
    fn subtree(&self, at: u64, end: u64) -> u64 {
        let chunks = (end - at) / CHUNK;
        if chunks == 0 {
            return end - at; // the last chunk, a short one
        }
        let mut len = CHUNK << chunks.ilog2();
        if at > 0 {
            len = len.min(1 << at.trailing_zeros());
        }
        if len == self.len { len / 2 } else { len }
    }

    /// Puts a part of a chunk in place, and hashes the chunk once it is whole.
    fn fill(&self, tree: &mut Tree, at: u64, part: &[u8]) {
        let start = at / CHUNK * CHUNK;
        let size = (self.len - start).min(CHUNK) as usize;
        let (bytes, there) = tree.chunks.entry(start).or_insert_with(|| (vec![0; size], 0));
        let first = (at - start) as usize;
        bytes[first..first + part.len()].copy_from_slice(part);
        *there += part.len();
        if *there == size && self.len > CHUNK {
            let value = hash(start, bytes);
            tree.chunks.remove(&start);
            self.join(tree, start, size as u64, value);
        }
    }

    /// Adds a subtree, joined with the one beside it as long as that one is there too.
    fn join(&self, tree: &mut Tree, mut at: u64, mut len: u64, mut value: ChainingValue) {
        while len >= CHUNK && 2 * len < self.len {
            let Some((_, other)) = tree.nodes.get(&(at ^ len)).filter(|(size, _)| *size == len) else { break };
            let (left, right) = if at & len == 0 { (&value, other) } else { (other, &value) };
            value = merge_subtrees_non_root(left, right, Mode::Hash);
            tree.nodes.remove(&(at ^ len));
            at &= !len;
            len *= 2;
        }
        tree.nodes.insert(at, (len, value));
    }
}

impl Tree {
    /// The hash of the subtree of `len` bytes at `at`, if all of it is there.
    fn value(&self, at: u64, len: u64) -> Option<ChainingValue> {
        if let Some((_, value)) = self.nodes.get(&at).filter(|(size, _)| *size == len) {
            return Some(*value);
        }
        if len <= CHUNK {
            return None;
        }
        let left = left_subtree_len(len);
        Some(merge_subtrees_non_root(&self.value(at, left)?, &self.value(at + left, len - left)?, Mode::Hash))
    }
}

fn hash(offset: u64, bytes: &[u8]) -> ChainingValue {
    Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The twin is `blake3::hash` of the whole.
        #[test]
        fn any_cut_in_any_order_has_the_hash_of_the_whole(
            len in prop_oneof![0usize..5000, Just(1024), Just(2048), Just(4096), Just(131_072), 0usize..300_000],
            mut cuts in proptest::collection::vec(0usize..300_000, 0..12),
            aligned: bool,
            order in any::<u64>(),
        ) {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            cuts = cuts.into_iter().map(|cut| if aligned { cut / 2048 * 2048 } else { cut }.min(len)).collect();
            cuts.extend([0, len]);
            cuts.sort_unstable();
            let mut regions: Vec<(usize, usize)> = cuts.windows(2).map(|pair| (pair[0], pair[1])).collect();
            regions.sort_by_key(|(first, _)| (*first as u64 + 1).wrapping_mul(order | 1));
            let digest = Digest::new(len as u64);
            for (first, end) in regions {
                digest.add(first as u64, &bytes[first..end]);
            }
            prop_assert_eq!(digest.finish().unwrap(), blake3::hash(&bytes).to_hex().to_string());
        }
    }

    #[test]
    fn missing_bytes_are_noticed() {
        for len in [1, 1024, 5000] {
            let digest = Digest::new(len);
            digest.add(1, &vec![0; len as usize - 1]);
            assert!(digest.finish().is_err(), "{len}");
        }
    }

    #[test]
    fn joined_neighbours_leave_little_behind() {
        let digest = Digest::new(100_000 * 700);
        for row in 0..1000 {
            digest.add(row * 700, &[7; 700]);
        }
        let tree = digest.tree.lock().unwrap();
        assert!(tree.nodes.len() + tree.chunks.len() < 24, "{} {}", tree.nodes.len(), tree.chunks.len());
    }
}
