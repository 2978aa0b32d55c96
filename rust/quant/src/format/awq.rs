//! AWQ, the GEMM layout: what AutoAWQ began; transformers loads it through gptqmodel.
//!
//! | tensor of a module | holds |
//! |---|---|
//! | `qweight` i32 `[in, out / 8]` | 4-bit codes of eight outputs a word |
//! | `qzeros` i32 `[groups, out / 8]` | zero points, in the same way |
//! | `scales` `[groups, out]` | f16 |
//!
//! `w = (q - z) s`. Nibble `i` of a word belongs to output `8 j + ORDER[i]`. Everything is transposed, so a block of eight
//! rows is a column of words. Symmetric grids are stored with their zero point of 8.

use super::words::{TILE, tiles, turned};
use super::{Coding, Format, Group, Held, Layout, Part, Rows, Stored, Strip, Tensor, narrow, widen};
use polmrs_core::{Dtype, Error, Result, simd};
use serde_json::{Value, json};

pub(super) const CODINGS: &str = "awq holds int4 in channels or groups";

/// The output, of eight, whose code is nibble `i` of a word.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Of 16 words of each row, and of 16 stripes: the eight words whose nibbles are turned, beside those of the other stripes.
type Tile = [[[[u8; 4]; TILE]; 8]; TILE];

pub(super) fn tensors(layout: &Layout, rows: usize, columns: usize) -> Result<Vec<Tensor>> {
    let Coding::Int { bits: 4, group: Group::Channel | Group::Size(_), .. } = layout.coding else {
        return Err(layout.unsupported());
    };
    if !rows.is_multiple_of(8) || !columns.is_multiple_of(8) {
        return Err(Error::Config(format!(
            "awq: [{rows}, {columns}]: awq files hold multiples of 8 inputs and outputs"
        )));
    }
    let groups = columns / layout.coding.group(columns);
    let eighths = Part::Columns { rows: 8, columns: 1 };
    Ok(vec![
        Tensor::new("qweight", Dtype::I32, &[columns, rows / 8], eighths),
        Tensor::new("qzeros", Dtype::I32, &[groups, rows / 8], eighths),
        Tensor::new("scales", layout.dtype, &[groups, rows], Part::Columns { rows: 1, columns: 1 }),
    ])
}

pub(super) fn write(layout: &Layout, block: &Rows, columns: usize, parts: &mut [Vec<u8>]) {
    let groups = columns / layout.coding.group(columns);
    let count = block.scales.len() / groups;
    parts[0].resize(block.packed.len(), 0);
    to_stripes(block.packed.as_chunks::<4>().0, columns / 8, parts[0].as_chunks_mut::<4>().0);
    parts[1] = match layout.coding {
        Coding::Int { symmetric: false, .. } => pack_zeros(&block.zeros, count, groups),
        _ => vec![0x88; count * groups / 2],
    };
    parts[2] = narrow(layout.dtype, &turned(&block.scales, count));
}

pub(super) fn read(layout: &Layout, parts: &[Strip<'_>], count: usize, columns: usize, mut packed: Vec<u8>) -> Rows {
    let groups = columns / layout.coding.group(columns);
    packed.resize(parts[0].nbytes(), 0);
    let (stripes, stride) = parts[0].matrix(columns);
    from_stripes(stripes, stride, columns / 8, packed.as_chunks_mut::<4>().0);
    Rows {
        packed,
        scales: turned(&widen(layout.dtype, &parts[2].together()), groups),
        zeros: unpack_zeros(&parts[1].together(), count, groups),
        ..Rows::default()
    }
}

/// Zero points `[count, groups]` to words `[groups, count / 8]`.
fn pack_zeros(zeros: &[u8], count: usize, groups: usize) -> Vec<u8> {
    let word = |at: usize| {
        let (group, stripe) = (at / (count / 8), at % (count / 8));
        let zero = |nibble: usize| u32::from(zeros[(8 * stripe + ORDER[nibble]) * groups + group]);
        (0..8).fold(0, |word, nibble| word | zero(nibble) << (4 * nibble))
    };
    (0..groups * count / 8).flat_map(|at| word(at).to_le_bytes()).collect()
}

fn unpack_zeros(words: &[u8], count: usize, groups: usize) -> Vec<u8> {
    let mut zeros = vec![0; count * groups];
    for (at, word) in words.as_chunks::<4>().0.iter().enumerate() {
        let (group, stripe) = (at / (count / 8), at % (count / 8));
        for (nibble, output) in ORDER.iter().enumerate() {
            zeros[(8 * stripe + output) * groups + group] = (u32::from_le_bytes(*word) >> (4 * nibble)) as u8 & 15;
        }
    }
    zeros
}

/// The 8 x 8 matrix of nibbles in eight words, transposed, for 16 stripes at once.
#[inline(always)]
fn turn_nibbles(lines: &mut [[[u8; 4]; TILE]; 8]) {
    let mut words = [[0; TILE]; 8];
    for (words, line) in words.iter_mut().zip(&*lines) {
        for lane in 0..TILE {
            words[lane] = u32::from_le_bytes(line[lane]);
        }
    }
    for (step, mask) in [(4, 0x0000_ffff_u32), (2, 0x00ff_00ff), (1, 0x0f0f_0f0f)] {
        for at in (0..8).filter(|at| at & step == 0) {
            let (lower, upper) = (words[at], words[at + step]);
            let shift = 4 * step;
            for lane in 0..TILE {
                let (low, high) = (lower[lane], upper[lane]);
                words[at][lane] = (low & mask) | (high & mask) << shift;
                words[at + step][lane] = (low >> shift) & mask | high & !mask;
            }
        }
    }
    for (line, words) in lines.iter_mut().zip(&words) {
        for lane in 0..TILE {
            line[lane] = words[lane].to_le_bytes();
        }
    }
}

simd! {
    /// Rows of `width` words to columns: word `[8 w + c, j]` has column `8 w + c` of rows `8 j ..`.
    fn to_stripes(rows: &[[u8; 4]], width: usize, stripes: &mut [[u8; 4]]) {
        let count = rows.len() / width / 8;
        if count < TILE || width < TILE {
            stripes.fill([0; 4]);
            return codes(count, width, count).for_each(|(row, stripe)| set_code(stripes, stripe, code(rows, row)));
        }
        let mut tile: Tile = Default::default();
        for (left, first) in tiles(width, count) {
            for (stripe, nibble) in (0..TILE).flat_map(|stripe| (0..8).map(move |nibble| (stripe, nibble))) {
                let row = 8 * (first + stripe) + ORDER[nibble];
                let words = &rows[row * width + left..][..TILE];
                tile.iter_mut().zip(words).for_each(|(eight, word)| eight[nibble][stripe] = *word);
            }
            for (at, eight) in tile.iter_mut().enumerate() {
                turn_nibbles(eight);
                for (column, line) in eight.iter().enumerate() {
                    stripes[(8 * (left + at) + column) * count + first..][..TILE].copy_from_slice(line);
                }
            }
        }
    }
}

simd! {
    /// What [`to_stripes`] did, undone, where columns begin `stride` words apart.
    fn from_stripes(stripes: &[[u8; 4]], stride: usize, width: usize, rows: &mut [[u8; 4]]) {
        let count = rows.len() / width / 8;
        if count < TILE || width < TILE {
            rows.fill([0; 4]);
            return codes(count, width, stride).for_each(|(row, stripe)| set_code(rows, row, code(stripes, stripe)));
        }
        let mut tile: Tile = Default::default();
        for (left, first) in tiles(width, count) {
            for (at, eight) in tile.iter_mut().enumerate() {
                for (column, line) in eight.iter_mut().enumerate() {
                    line.copy_from_slice(&stripes[(8 * (left + at) + column) * stride + first..][..TILE]);
                }
                turn_nibbles(eight);
            }
            for (stripe, nibble) in (0..TILE).flat_map(|stripe| (0..8).map(move |nibble| (stripe, nibble))) {
                let row = 8 * (first + stripe) + ORDER[nibble];
                let words = &mut rows[row * width + left..][..TILE];
                words.iter_mut().zip(&tile).for_each(|(word, eight)| *word = eight[nibble][stripe]);
            }
        }
    }
}

/// A word, and the place of a code in it.
type Place = (usize, usize);

/// Where each code is in rows of `width` words, and in stripes that begin `stride` words apart.
fn codes(count: usize, width: usize, stride: usize) -> impl Iterator<Item = (Place, Place)> {
    (0..64 * count * width).map(move |at| {
        let (column, stripe, nibble) = (at / 8 / count, at / 8 % count, at % 8);
        let row = 8 * stripe + ORDER[nibble];
        ((row * width + column / 8, column % 8), (column * stride + stripe, nibble))
    })
}

fn code(words: &[[u8; 4]], (word, nibble): Place) -> u32 {
    (u32::from_le_bytes(words[word]) >> (4 * nibble)) & 15
}

/// Sets a code that is 0.
fn set_code(words: &mut [[u8; 4]], (word, nibble): Place, code: u32) {
    words[word] = (u32::from_le_bytes(words[word]) | code << (4 * nibble)).to_le_bytes();
}

pub(super) fn config(layouts: &[(Layout, Vec<String>)], ignore: &[String]) -> Value {
    let size = match layouts[0].0.coding {
        Coding::Int { group: Group::Size(size), .. } => size as i64,
        _ => -1,
    };
    json!({
        "quant_method": "awq",
        "bits": 4,
        "group_size": size,
        "zero_point": true,
        "version": "gemm",
        "modules_to_not_convert": ignore,
    })
}

pub(super) fn recognise(held: &Held<'_>) -> Result<Stored> {
    let (columns, eighths, groups) = (held.axis("qweight", 0)?, held.axis("qweight", 1)?, held.axis("scales", 0)?);
    let dtype = held.find("scales").map_or(Dtype::F16, |(dtype, _)| dtype);
    let group = if groups == 1 { Group::Channel } else { Group::Size(columns / groups) };
    let coding = Coding::Int { bits: 4, symmetric: false, group };
    Ok(Stored { layout: Layout { format: Format::Awq, coding, dtype, activations: false }, rows: 8 * eighths, columns })
}
