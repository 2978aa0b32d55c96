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

use super::words::{Line, TILE, Tile, load, store, tiles, turned};
use super::{Coding, Format, Group, Held, Layout, Part, Rows, Stored, Strip, Tensor, widen};
use polmrs_core::{Dtype, Error, Result, dtype, simd};
use serde_json::{Value, json};

pub(super) const CODINGS: &str = "awq holds int4 in channels or groups";

/// The output, of eight, whose code is nibble `i` of a word.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Of 16 words of each row, and of 16 stripes: the eight words whose nibbles are turned, beside those of the other stripes.
type Eights = [[Line; 8]; TILE];

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

pub(super) fn write(layout: &Layout, block: &Rows<'_>, columns: usize, parts: &mut [&mut [u8]]) {
    let groups = columns / layout.coding.group(columns);
    let count = block.scales.len() / groups;
    to_stripes(block.packed.as_chunks::<4>().0, columns / 8, parts[0].as_chunks_mut::<4>().0);
    match layout.coding {
        Coding::Int { symmetric: false, .. } => pack_zeros(&block.zeros, count, groups, parts[1]),
        _ => parts[1].fill(0x88),
    }
    dtype::from_f32(layout.dtype, &turned(&block.scales, count), parts[2]);
}

pub(super) fn read(
    layout: &Layout,
    parts: &[Strip<'_>],
    count: usize,
    columns: usize,
    mut packed: Vec<u8>,
) -> Rows<'static> {
    let groups = columns / layout.coding.group(columns);
    packed.resize(parts[0].nbytes(), 0);
    let (stripes, stride) = parts[0].matrix(columns);
    from_stripes(stripes, stride, columns / 8, packed.as_chunks_mut::<4>().0);
    Rows {
        packed: packed.into(),
        scales: turned(&widen(layout.dtype, &parts[2].together()), groups),
        zeros: unpack_zeros(&parts[1].together(), count, groups),
        ..Rows::default()
    }
}

/// Zero points `[count, groups]` to words `[groups, count / 8]`.
fn pack_zeros(zeros: &[u8], count: usize, groups: usize, words: &mut [u8]) {
    let word = |at: usize| {
        let (group, stripe) = (at / (count / 8), at % (count / 8));
        let zero = |nibble: usize| u32::from(zeros[(8 * stripe + ORDER[nibble]) * groups + group]);
        (0..8).fold(0, |word, nibble| word | zero(nibble) << (4 * nibble))
    };
    words.as_chunks_mut::<4>().0.iter_mut().enumerate().for_each(|(at, bytes)| *bytes = word(at).to_le_bytes());
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
fn turn_nibbles(words: &mut [Line; 8]) {
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
}

simd! {
    /// Rows of `width` words to columns: word `[8 w + c, j]` has column `8 w + c` of rows `8 j ..`.
    fn to_stripes(rows: &[[u8; 4]], width: usize, stripes: &mut [[u8; 4]]) {
        let count = rows.len() / width / 8;
        match [width.min(TILE), count.min(TILE)] {
            [TILE, TILE] => tiles_to_stripes(rows, [width, count], [TILE; 2], stripes),
            short => tiles_to_stripes(rows, [width, count], short, stripes),
        }
    }
}

simd! {
    /// What [`to_stripes`] did, undone, where columns begin `stride` words apart.
    fn from_stripes(stripes: &[[u8; 4]], stride: usize, width: usize, rows: &mut [[u8; 4]]) {
        let count = rows.len() / width / 8;
        match [width.min(TILE), count.min(TILE)] {
            [TILE, TILE] => tiles_from_stripes(stripes, stride, [width, count], [TILE; 2], rows),
            short => tiles_from_stripes(stripes, stride, [width, count], short, rows),
        }
    }
}

/// Tile by tile, of which `wide` words and `high` stripes are there. Called with constants, its copies have no lengths to look at.
#[inline(always)]
fn tiles_to_stripes(rows: &[[u8; 4]], [width, count]: [usize; 2], [wide, high]: [usize; 2], stripes: &mut [[u8; 4]]) {
    let (mut eights, mut tile) = (Eights::default(), Tile::default());
    for (first, left) in tiles(count, width) {
        for (nibble, output) in ORDER.into_iter().enumerate() {
            for (stripe, line) in tile.lines_mut().iter_mut().enumerate().take(high) {
                let row = 8 * (first + stripe) + output;
                load(&rows[row * width + left..][..wide], line);
            }
            tile.turn();
            eights.iter_mut().zip(tile.lines()).for_each(|(eight, line)| eight[nibble] = *line);
        }
        for (at, eight) in eights.iter_mut().enumerate().take(wide) {
            turn_nibbles(eight);
            for (column, line) in eight.iter().enumerate() {
                store(line, &mut stripes[(8 * (left + at) + column) * count + first..][..high]);
            }
        }
    }
}

/// The same, undone.
#[inline(always)]
fn tiles_from_stripes(
    stripes: &[[u8; 4]],
    stride: usize,
    [width, count]: [usize; 2],
    [wide, high]: [usize; 2],
    rows: &mut [[u8; 4]],
) {
    let (mut eights, mut tile) = (Eights::default(), Tile::default());
    for (left, first) in tiles(width, count) {
        for (at, eight) in eights.iter_mut().enumerate().take(wide) {
            for (column, line) in eight.iter_mut().enumerate() {
                load(&stripes[(8 * (left + at) + column) * stride + first..][..high], line);
            }
            turn_nibbles(eight);
        }
        for (nibble, output) in ORDER.into_iter().enumerate() {
            tile.lines_mut().iter_mut().zip(&eights).for_each(|(line, eight)| *line = eight[nibble]);
            tile.turn();
            for (stripe, line) in tile.lines().iter().enumerate().take(high) {
                let row = 8 * (first + stripe) + output;
                store(line, &mut rows[row * width + left..][..wide]);
            }
        }
    }
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
