//! Packed words turned over: formats that pack along the other axis.
//!
//! Codes that lie down a column are packed as those along a row are, and the 32-bit words then change places. So GPTQ's
//! `qweight` `[in b / 32, out]` is the transpose of rows packed along `in`: one code path packs, one turns.

use super::Strip;
use crate::bits;
use polmrs_core::simd;

/// Rows and columns of a tile: a cache line of words.
pub(super) const TILE: usize = 16;

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

/// The transpose of a matrix of words with this many rows.
pub(super) fn turn(words: Strip<'_>, rows: usize, turned: &mut [u8]) {
    let (words, stride) = words.matrix(rows);
    turn_words(words, stride, rows, turned.as_chunks_mut::<4>().0);
}

/// The transpose of a matrix of numbers with this many rows.
pub(super) fn turned(x: &[f32], rows: usize) -> Vec<f32> {
    let mut turned = vec![0.0; x.len()];
    turn_floats(x, x.len() / rows.max(1), rows, &mut turned);
    turned
}

simd! {
    fn turn_words(words: &[[u8; 4]], stride: usize, rows: usize, turned: &mut [[u8; 4]]) {
        turn_all(words, stride, rows, turned, load, store);
    }
}

simd! {
    fn turn_floats(x: &[f32], stride: usize, rows: usize, turned: &mut [f32]) {
        let load = |x: &[f32], line: &mut Line| line.iter_mut().zip(x).for_each(|(word, x)| *word = x.to_bits());
        let store = |line: &Line, x: &mut [f32]| x.iter_mut().zip(line).for_each(|(x, word)| *x = f32::from_bits(*word));
        turn_all(x, stride, rows, turned, load, store);
    }
}

/// In tiles that are read and written a cache line at a time. Rows are often a power of two apart, where all lines of a
/// tile would drive each other out of the cache if they were needed twice.
#[inline(always)]
fn turn_all<T: Copy>(
    from: &[T],
    stride: usize,
    rows: usize,
    to: &mut [T],
    load: impl Fn(&[T], &mut Line),
    store: impl Fn(&Line, &mut [T]),
) {
    let columns = to.len() / rows.max(1);
    if rows < TILE || columns < TILE {
        for (at, to) in to.iter_mut().enumerate() {
            *to = from[at % rows * stride + at / rows];
        }
        return;
    }
    let mut tile = Tile::default();
    for (top, left) in tiles(rows, columns) {
        for (row, line) in tile.lines_mut().iter_mut().enumerate() {
            load(&from[(top + row) * stride + left..][..TILE], line);
        }
        tile.turn();
        for (column, line) in tile.lines().iter().enumerate() {
            store(line, &mut to[(left + column) * rows + top..][..TILE]);
        }
    }
}

/// A line of a tile.
pub(super) type Line = [u32; TILE];

/// 16 lines of 16 words.
pub(super) struct Tile([u32; TILE * TILE]);

impl Default for Tile {
    fn default() -> Tile {
        Tile([0; TILE * TILE])
    }
}

impl Tile {
    #[inline(always)]
    pub(super) fn lines(&self) -> &[Line] {
        self.0.as_chunks().0
    }

    #[inline(always)]
    pub(super) fn lines_mut(&mut self) -> &mut [Line] {
        self.0.as_chunks_mut().0
    }

    /// Lines become columns: in four perfect shuffles, each of which turns the eight bits of a word's place by one.
    #[inline(always)]
    pub(super) fn turn(&mut self) {
        let mut other = Tile::default();
        for _ in 0..2 {
            self.shuffled(&mut other);
            other.shuffled(self);
        }
    }

    /// One half between the other: an interleaving store, of which compilers make permutations of whole registers.
    #[inline(always)]
    fn shuffled(&self, to: &mut Tile) {
        let (upper, lower) = self.0.split_at(TILE * TILE / 2);
        for (pair, (upper, lower)) in to.0.as_chunks_mut::<2>().0.iter_mut().zip(upper.iter().zip(lower)) {
            *pair = [*upper, *lower];
        }
    }
}

/// Words into a line; it keeps what it has beyond them.
#[inline(always)]
pub(super) fn load(words: &[[u8; 4]], line: &mut Line) {
    line.iter_mut().zip(words).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
}

/// As many words of a line as there is place for.
#[inline(always)]
pub(super) fn store(line: &Line, words: &mut [[u8; 4]]) {
    words.iter_mut().zip(line).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
}

/// Where tiles begin that cover a matrix, along its rows. All that a matrix has room for are whole, so the last of a row or column
/// may lie over the one before.
pub(super) fn tiles(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    let starts = |len: usize| (0..len).step_by(TILE).map(move |at| at.min(len.saturating_sub(TILE)));
    starts(rows).flat_map(move |row| starts(columns).map(move |column| (row, column)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_transpose_changes_places(rows in 1_usize..40, columns in 1_usize..40) {
            let words: Vec<u8> = (0..rows * columns).flat_map(|at| (at as u32).to_le_bytes()).collect();
            let mut turned = vec![0xee; words.len()];
            turn(Strip::of(&words), rows, &mut turned);
            for (at, word) in turned.as_chunks::<4>().0.iter().enumerate() {
                let (column, row) = (at / rows, at % rows);
                prop_assert_eq!(u32::from_le_bytes(*word), (row * columns + column) as u32);
            }
            let mut back = vec![0xee; words.len()];
            turn(Strip::of(&turned), columns, &mut back);
            prop_assert_eq!(back, words);
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
