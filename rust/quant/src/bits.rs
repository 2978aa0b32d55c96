//! Codes of 1 to 8 bits as a dense stream of bits, the first code in the lowest bits.
//!
//! Read as little-endian 32-bit words, 32 codes of `b` bits make `b` words. That is the packing of compressed-tensors,
//! of GPTQ (whose 3-bit scheme of 10 + 1 + 10 + 1 + 10 codes is this stream) and of AWQ (after it has reordered columns).
//!
//! Eight codes become `b` bytes at a time: neighbours are pushed together in three steps, in all lanes at once.

use polmrs_core::simd;

/// Bytes that `codes` codes of `bits` bits take: whole 32-bit words.
pub const fn packed_bytes(codes: usize, bits: usize) -> usize {
    (codes * bits).div_ceil(32) * 4
}

simd! {
    /// Packs codes below `2^bits`; `bytes` has [`packed_bytes`] of them, and those that no code reaches become 0.
    ///
    /// # Panics
    /// If `bits` is not 1 to 8, or `bytes` has another length.
    pub fn pack(bits: usize, codes: &[u8], bytes: &mut [u8]) {
        assert_eq!(bytes.len(), packed_bytes(codes.len(), bits));
        match bits {
            1 => pack_all::<1>(codes, bytes),
            2 => pack_all::<2>(codes, bytes),
            3 => pack_all::<3>(codes, bytes),
            4 => pack_all::<4>(codes, bytes),
            5 => pack_all::<5>(codes, bytes),
            6 => pack_all::<6>(codes, bytes),
            7 => pack_all::<7>(codes, bytes),
            8 => pack_all::<8>(codes, bytes),
            _ => unreachable!("{bits} bits are not 1 to 8"),
        }
    }
}

simd! {
    /// The codes of a stream that [`pack`] made.
    ///
    /// # Panics
    /// If `bits` is not 1 to 8, or `bytes` does not have [`packed_bytes`] of the codes.
    pub fn unpack(bits: usize, bytes: &[u8], codes: &mut [u8]) {
        assert_eq!(bytes.len(), packed_bytes(codes.len(), bits));
        match bits {
            1 => unpack_all::<1>(bytes, codes),
            2 => unpack_all::<2>(bytes, codes),
            3 => unpack_all::<3>(bytes, codes),
            4 => unpack_all::<4>(bytes, codes),
            5 => unpack_all::<5>(bytes, codes),
            6 => unpack_all::<6>(bytes, codes),
            7 => unpack_all::<7>(bytes, codes),
            8 => unpack_all::<8>(bytes, codes),
            _ => unreachable!("{bits} bits are not 1 to 8"),
        }
    }
}

#[inline(always)]
fn pack_all<const B: usize>(codes: &[u8], bytes: &mut [u8]) {
    let (eights, rest) = codes.as_chunks::<8>();
    let (whole, tail) = bytes.split_at_mut(eights.len() * B);
    for (eight, packed) in eights.iter().zip(whole.as_chunks_mut::<B>().0) {
        let together = squeeze::<B>(u64::from_le_bytes(*eight)).to_le_bytes();
        packed.copy_from_slice(&together[..B]);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let together = squeeze::<B>(u64::from_le_bytes(last)).to_le_bytes();
    for (at, byte) in tail.iter_mut().enumerate() {
        *byte = together.get(at).copied().unwrap_or(0);
    }
}

#[inline(always)]
fn unpack_all<const B: usize>(bytes: &[u8], codes: &mut [u8]) {
    let (eights, rest) = codes.as_chunks_mut::<8>();
    let (whole, tail) = bytes.split_at(eights.len() * B);
    for (eight, packed) in eights.iter_mut().zip(whole.as_chunks::<B>().0) {
        let mut together = [0; 8];
        together[..B].copy_from_slice(packed);
        *eight = spread::<B>(u64::from_le_bytes(together)).to_le_bytes();
    }
    let mut together = [0; 8];
    let last = tail.len().min(B);
    together[..last].copy_from_slice(&tail[..last]);
    rest.copy_from_slice(&spread::<B>(u64::from_le_bytes(together)).to_le_bytes()[..rest.len()]);
}

/// `width` ones at the bottom of every lane of `lane` bits.
const fn lanes(lane: usize, width: usize) -> u64 {
    let ones = u64::MAX >> (64 - width);
    let (mut mask, mut at) = (0, 0);
    while at < 64 {
        mask |= ones << at;
        at += lane;
    }
    mask
}

/// Eight codes, one in every byte, to `8 B` bits.
#[inline(always)]
fn squeeze<const B: usize>(x: u64) -> u64 {
    let x = (x & lanes(16, B)) | ((x >> (8 - B)) & (lanes(16, B) << B));
    let x = (x & lanes(32, 2 * B)) | ((x >> (16 - 2 * B)) & (lanes(32, 2 * B) << (2 * B)));
    (x & lanes(64, 4 * B)) | ((x >> (32 - 4 * B)) & (lanes(64, 4 * B) << (4 * B)))
}

/// `8 B` bits to eight codes, one in every byte.
#[inline(always)]
fn spread<const B: usize>(x: u64) -> u64 {
    let x = (x & lanes(64, 4 * B)) | ((x & (lanes(64, 4 * B) << (4 * B))) << (32 - 4 * B));
    let x = (x & lanes(32, 2 * B)) | ((x & (lanes(32, 2 * B) << (2 * B))) << (16 - 2 * B));
    (x & lanes(16, B)) | ((x & (lanes(16, B) << B)) << (8 - B))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The stream, bit by bit.
    fn plain(bits: usize, codes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; packed_bytes(codes.len(), bits)];
        for (place, code) in codes.iter().enumerate() {
            for bit in 0..bits {
                let at = place * bits + bit;
                bytes[at / 8] |= ((code >> bit) & 1) << (at % 8);
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn a_stream_is_its_bits_in_order(bits in 1_usize..=8, codes in prop::collection::vec(any::<u8>(), 0..200)) {
            let codes: Vec<u8> = codes.iter().map(|code| code & (0xff >> (8 - bits))).collect();
            let mut bytes = vec![0xff; packed_bytes(codes.len(), bits)];
            pack(bits, &codes, &mut bytes);
            prop_assert_eq!(&bytes, &plain(bits, &codes));
            let mut back = vec![0xff; codes.len()];
            unpack(bits, &bytes, &mut back);
            prop_assert_eq!(back, codes);
        }
    }

    /// GPTQ's 3-bit zero points of a symmetric grid, as its files hold them: the word pattern db6db6db, b6db6db6, 6db6db6d.
    #[test]
    fn three_bits_cross_words_as_gptq_has_them() {
        let mut bytes = vec![0; packed_bytes(32, 3)];
        pack(3, &[3; 32], &mut bytes);
        let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(words, [0xdb6d_b6db, 0xb6db_6db6, 0x6db6_db6d]);
    }
}
