//! Random numbers addressed by seed, name and element index: Philox4x32-10 (Salmon et al., SC'11).
//!
//! There is no state to advance: element `i` of a stream has the same number whoever asks, so masks and noise do not
//! depend on threads, chunks, shards or a resumed run. Element `64 g + 16 j + i` (j < 4, i < 16) has word `j` of counter
//! `16 g + i`, so that sixteen counters side by side fill 64 elements without a shuffle. Key = hash(seed, output tensor
//! name, stream), so two models, or two uses, are independent.

use crate::simd;

const ROUND: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const WIDE: usize = 16;

/// The key of one stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u32; 2]);

impl Key {
    /// The key of `stream` (its purpose and the model's ordinal, `dare:2`) for one output tensor under a seed.
    ///
    /// FNV-1a over the length-prefixed parts, then the finaliser of SplitMix64.
    pub fn new(seed: u64, tensor: &str, stream: &str) -> Key {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut eat = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        eat(&seed.to_le_bytes());
        for part in [tensor, stream] {
            eat(&(part.len() as u64).to_le_bytes());
            eat(part.as_bytes());
        }
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        Key([hash as u32, (hash >> 32) as u32])
    }
}

/// Ten rounds on `WIDE` counters side by side; `words[j][i]` is word `j` of counter `i`, in its lower half.
///
/// A word fills 64 bits, of which the upper half is noise: then a round is two widening multiplications, two shifts and
/// two exclusive ors of whole vectors, with no packing in between (more than twice as fast as words of 32 bits).
#[inline(always)]
fn rounds(mut words: [[u64; WIDE]; 4], Key(mut key): Key) -> [[u64; WIDE]; 4] {
    for _ in 0..10 {
        let mut next = [[0u64; WIDE]; 4];
        for i in 0..WIDE {
            let a = u64::from(ROUND[0]) * (words[0][i] & 0xffff_ffff);
            let b = u64::from(ROUND[1]) * (words[2][i] & 0xffff_ffff);
            next[0][i] = (b >> 32) ^ words[1][i] ^ u64::from(key[0]);
            next[1][i] = b;
            next[2][i] = (a >> 32) ^ words[3][i] ^ u64::from(key[1]);
            next[3][i] = a;
        }
        words = next;
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    words
}

/// Elements that share their sixteen counters.
const GROUP: usize = 4 * WIDE;

/// The random words of elements `first ..` of a stream.
pub fn fill(key: Key, first: u64, out: &mut [u32]) {
    let skipped = (first % GROUP as u64) as usize;
    if skipped == 0 {
        return fill_groups(key, first, out);
    }
    let head = out.len().min(GROUP - skipped);
    let mut group = [0; GROUP];
    fill_groups(key, first - skipped as u64, &mut group);
    out[..head].copy_from_slice(&group[skipped..skipped + head]);
    fill_groups(key, first + head as u64, &mut out[head..]);
}

simd! {
    fn fill_groups(key: Key, first: u64, out: &mut [u32]) {
        let mut counters = [0u64; WIDE];
        for (i, counter) in counters.iter_mut().enumerate() {
            *counter = first / 4 + i as u64;
        }
        let (groups, rest) = out.as_chunks_mut::<GROUP>();
        for group in groups {
            fill_group(key, &counters, group);
            for counter in &mut counters {
                *counter += WIDE as u64;
            }
        }
        if !rest.is_empty() {
            let mut group = [0; GROUP];
            fill_group(key, &counters, &mut group);
            rest.copy_from_slice(&group[..rest.len()]);
        }
    }
}

#[inline(always)]
fn fill_group(key: Key, counters: &[u64; WIDE], out: &mut [u32; GROUP]) {
    let words = rounds([*counters, counters.map(|counter| counter >> 32), [0; WIDE], [0; WIDE]], key);
    for j in 0..4 {
        for i in 0..WIDE {
            out[j * WIDE + i] = words[j][i] as u32;
        }
    }
}

/// A probability as a threshold on the random words: an element is drawn where `word < threshold`.
pub fn threshold(probability: f64) -> u64 {
    (probability.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
        let mut words = [[0; WIDE]; 4];
        for j in 0..4 {
            words[j][0] = counter[j].into();
        }
        let words = rounds(words, Key(key));
        [words[0][0] as u32, words[1][0] as u32, words[2][0] as u32, words[3][0] as u32]
    }

    #[test]
    fn equals_the_known_answers_of_random123() {
        assert_eq!(one([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(one([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            one([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn any_chunking_gives_the_same_numbers() {
        let key = Key::new(7, "model.norm.weight", "dare:1");
        let mut whole = vec![0; 1000];
        fill(key, 0, &mut whole);
        for size in [1, 7, 64, 100, 960] {
            let mut pieces = vec![0; 1000];
            for (at, chunk) in pieces.chunks_mut(size).enumerate() {
                fill(key, (at * size) as u64, chunk);
            }
            assert_eq!(pieces, whole, "chunks of {size}");
        }
    }

    #[test]
    fn streams_differ_by_seed_tensor_and_purpose() {
        let keys = [
            Key::new(0, "a", "dare:0"),
            Key::new(1, "a", "dare:0"),
            Key::new(0, "b", "dare:0"),
            Key::new(0, "a", "dare:1"),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn the_words_are_uniform_at_a_threshold() {
        let mut words = vec![0; 1 << 20];
        fill(Key::new(3, "w", "test"), 0, &mut words);
        for p in [0.0, 0.1, 0.5, 0.9, 1.0] {
            let drawn = words.iter().filter(|word| u64::from(**word) < threshold(p)).count() as f64;
            let n = words.len() as f64;
            assert!((drawn - p * n).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt() + 0.5, "p = {p}: {drawn}");
        }
    }
}
