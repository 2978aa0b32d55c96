//! Packed words turned over: formats that pack along the other axis.
//!
//! Codes that lie down a column are packed as those along a row are, and the 32-bit words then change places. So GPTQ's
//! `qweight` `[in b / 32, out]` is the transpose of rows packed along `in`: one code path packs, one turns.

use crate::bits;

/// Rows and columns of a tile: a cache line of words.
const TILE: usize = 16;

/// Each column of a matrix of codes that is `width` wide as a stream of its own, one stream after the other.
pub(super) fn pack_down(bits: usize, codes: &[u8], width: usize) -> Vec<u8> {
    let count = codes.len() / width.max(1);
    let each = bits::packed_bytes(count, bits);
    let (mut column, mut streams) = (Vec::with_capacity(count), vec![0; width * each]);
    for (at, stream) in streams.chunks_exact_mut(each.max(1)).enumerate() {
        column.clear();
        column.extend(codes.iter().skip(at).step_by(width).copied());
        bits::pack(bits, &column, stream);
    }
    streams
}

/// The codes of `width` streams of `count` codes each, as columns.
pub(super) fn unpack_down(bits: usize, streams: &[u8], width: usize, count: usize) -> Vec<u8> {
    let each = bits::packed_bytes(count, bits);
    let (mut column, mut codes) = (vec![0; count], vec![0; width * count]);
    for (at, stream) in streams.chunks_exact(each.max(1)).enumerate() {
        bits::unpack(bits, stream, &mut column);
        codes.iter_mut().skip(at).step_by(width).zip(&column).for_each(|(code, from)| *code = *from);
    }
    codes
}

/// The transpose of a matrix with this many rows, whose elements have `N` bytes.
pub(super) fn turn<const N: usize>(elements: &[u8], rows: usize) -> Vec<u8> {
    let mut turned = vec![0; elements.len()];
    let columns = elements.len() / (N * rows).max(1);
    turn_all(elements.as_chunks::<N>().0, rows, columns, turned.as_chunks_mut::<N>().0);
    turned
}

/// The transpose of a small matrix with this many rows.
pub(super) fn turned(x: &[f32], rows: usize) -> Vec<f32> {
    let columns = x.len() / rows.max(1);
    (0..x.len()).map(|at| x[at % rows * columns + at / rows]).collect()
}

/// In tiles, so that what is read and what is written both stay in the cache.
fn turn_all<const N: usize>(elements: &[[u8; N]], rows: usize, columns: usize, turned: &mut [[u8; N]]) {
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for column in left..columns.min(left + TILE) {
                for row in top..rows.min(top + TILE) {
                    turned[column * rows + row] = elements[row * columns + column];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_transpose_changes_places(rows in 1_usize..40, columns in 1_usize..40) {
            let words: Vec<u8> = (0..rows * columns).flat_map(|at| (at as u32).to_le_bytes()).collect();
            let turned = turn::<4>(&words, rows);
            for (at, word) in turned.as_chunks::<4>().0.iter().enumerate() {
                let (column, row) = (at / rows, at % rows);
                prop_assert_eq!(u32::from_le_bytes(*word), (row * columns + column) as u32);
            }
            prop_assert_eq!(turn::<4>(&turned, columns), words);
        }

        #[test]
        fn columns_are_streams(bits in 1_usize..=8, width in 1_usize..5, count in 1_usize..70, seed in any::<u8>()) {
            let mask = 0xff >> (8 - bits);
            let codes: Vec<u8> = (0..width * count).map(|at| (at as u8).wrapping_mul(seed | 1) & mask).collect();
            let streams = pack_down(bits, &codes, width);
            let first: Vec<u8> = codes.iter().step_by(width).copied().collect();
            let mut packed = vec![0; bits::packed_bytes(count, bits)];
            bits::pack(bits, &first, &mut packed);
            prop_assert_eq!(&streams[..packed.len()], &packed[..]);
            prop_assert_eq!(unpack_down(bits, &streams, width, count), codes);
        }
    }
}
