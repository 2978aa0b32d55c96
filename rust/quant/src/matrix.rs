//! Whole matrices: row after row through the codecs, on all threads.
//!
//! An element that is NaN or infinite is an error; the outputs then hold nothing of use.
//!
//! A matrix comes as the bytes of f32, bf16, f16 or f64 elements; each row is widened once, into a buffer that stays in
//! the cache. Scales and packed codes are arrays that the caller made: `groups` scales and `packed` bytes for each row.

use crate::codebook::Table;
use crate::hqq::{self, Hqq};
use crate::int::{self, Int};
use crate::row::Work;
use crate::{bits, codebook, fp4, fp8, group};
use polmrs_core::{Dtype, Error, Result, dtype, pool};
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub use crate::row::Clip;

/// A matrix in memory.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its elements, row by row.
    pub bytes: &'a [u8],
    /// The length of a row.
    pub columns: usize,
}

/// A row on its way in, and what codecs need beside it.
#[derive(Default)]
struct Buffers {
    row: Vec<f32>,
    work: Work,
}

impl<'a> Matrix<'a> {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.bytes.len() / (self.columns * self.dtype.size()).max(1)
    }

    /// Works on every row, with the item of the same place in `outs`.
    fn each<T: Send>(
        &self,
        outs: impl IndexedParallelIterator<Item = T>,
        work: impl Fn(&mut Work, &[f32], T) + Sync + Send,
    ) -> Result<()> {
        self.pieces(self.columns, least_rows(self.columns), outs, work)
    }

    /// Works on every run of `piece` elements (the last may be shorter), with the item of the same place in `outs`.
    fn pieces<T: Send>(
        &self,
        piece: usize,
        at_once: usize,
        outs: impl IndexedParallelIterator<Item = T>,
        work: impl Fn(&mut Work, &[f32], T) + Sync + Send,
    ) -> Result<()> {
        let not_finite = AtomicUsize::new(usize::MAX);
        let pieces = self.bytes.par_chunks((piece * self.dtype.size()).max(1)).zip(outs).with_min_len(at_once);
        pool::shared()?.install(|| {
            pieces.enumerate().for_each_init(Buffers::default, |buffers, (at, (bytes, out))| {
                buffers.row.resize(bytes.len() / self.dtype.size(), 0.0);
                dtype::to_f32(self.dtype, bytes, &mut buffers.row);
                match dtype::first_beyond(&buffers.row, f32::INFINITY) {
                    None => work(&mut buffers.work, &buffers.row, out),
                    Some(offset) => drop(not_finite.fetch_min(at * piece + offset, Relaxed)),
                }
            });
        });
        match not_finite.into_inner() {
            usize::MAX => Ok(()),
            element => Err(Error::NonFinite(format!("weight: element {element} is not a finite number"))),
        }
    }

    /// Integer codes: for each row, a scale and a zero point for each `group` elements, and the packed codes.
    pub fn int(
        &self,
        kind: Int,
        group: usize,
        clip: Option<Clip>,
        scales: &mut [f32],
        zeros: &mut [u8],
        packed: &mut [u8],
    ) -> Result<()> {
        let (groups, width) = (self.columns / group, bits::packed_bytes(self.columns, kind.bits as usize));
        let outs = (scales.par_chunks_exact_mut(groups), zeros.par_chunks_exact_mut(groups));
        let outs = (outs, packed.par_chunks_exact_mut(width)).into_par_iter();
        self.each(outs, |work, row, ((scales, zeros), packed)| {
            work.int(kind, group, clip, row, (scales, zeros, packed))
        })
    }

    /// HQQ codes: for each row, a scale and a real zero point for each `group` elements, and the packed codes.
    pub fn hqq(
        &self,
        settings: Hqq,
        group: usize,
        scales: &mut [f32],
        zeros: &mut [f32],
        packed: &mut [u8],
    ) -> Result<()> {
        let (groups, width) = (self.columns / group, bits::packed_bytes(self.columns, settings.bits as usize));
        let outs = (scales.par_chunks_exact_mut(groups), zeros.par_chunks_exact_mut(groups));
        let outs = (outs, packed.par_chunks_exact_mut(width)).into_par_iter();
        self.each(outs, |work, row, ((scales, zeros), packed)| work.hqq(settings, group, row, scales, zeros, packed))
    }

    /// E4M3 bytes, and a scale for each `group` elements of a row.
    pub fn fp8(&self, group: usize, scale_dtype: Dtype, scales: &mut [f32], bytes: &mut [u8]) -> Result<()> {
        let outs = (scales.par_chunks_exact_mut(self.columns / group), bytes.par_chunks_exact_mut(self.columns));
        self.each(outs.into_par_iter(), |work, row, (scales, bytes)| work.fp8(group, scale_dtype, row, scales, bytes))
    }

    /// LLM.int8(): for each row its largest magnitude, and signed bytes.
    pub fn int8(&self, scales: &mut [f32], bytes: &mut [u8]) -> Result<()> {
        let outs = (scales, bytes.par_chunks_exact_mut(self.columns)).into_par_iter();
        self.each(outs, |_, row, (scale, bytes)| *scale = int::encode_int8_row(row, bytes))
    }

    /// MXFP4: for each row, an exponent for each 32 elements, and packed codes, the first in the low half.
    pub fn mxfp4(&self, exponents: &mut [u8], packed: &mut [u8]) -> Result<()> {
        let outs = (
            exponents.par_chunks_exact_mut(self.columns / fp4::MX_BLOCK),
            packed.par_chunks_exact_mut(self.columns / 2),
        );
        self.each(outs.into_par_iter(), |work, row, (exponents, packed)| work.mxfp4(row, exponents, packed))
    }

    /// NVFP4 under the tensor's scale `global`: for each row, an E4M3 scale for each 16 elements, and packed codes.
    pub fn nvfp4(&self, global: f32, scales: &mut [u8], packed: &mut [u8]) -> Result<()> {
        let outs =
            (scales.par_chunks_exact_mut(self.columns / fp4::NV_BLOCK), packed.par_chunks_exact_mut(self.columns / 2));
        self.each(outs.into_par_iter(), |work, row, (scales, packed)| work.nvfp4(global, row, scales, packed))
    }

    /// NF4 over all elements in one run: packed codes, the first in the high half, and the largest magnitude of each
    /// `block` elements; the last block may be shorter.
    pub fn nf4(&self, block: usize, scales: &mut [f32], packed: &mut [u8]) -> Result<()> {
        let piece = block * (1_usize << 14).div_ceil(block).next_multiple_of(2);
        let outs = (scales.par_chunks_mut(piece / block), packed.par_chunks_mut(piece / 2)).into_par_iter();
        self.pieces(piece, 1, outs, |work, run, (scales, packed)| work.nf4(block, run, scales, packed))
    }

    /// The largest magnitude of all.
    pub fn absmax(&self) -> Result<f32> {
        let rows = self.bytes.par_chunks_exact((self.columns * self.dtype.size()).max(1));
        Ok(pool::shared()?.install(|| {
            rows.map_init(Vec::new, |row, bytes| {
                row.resize(self.columns, 0.0);
                dtype::to_f32(self.dtype, bytes, row);
                group::absmax(row)
            })
            .reduce(|| 0.0, f32::max)
        }))
    }
}

/// Rows below which a thread is not worth waking.
fn least_rows(columns: usize) -> usize {
    (1_usize << 16).div_ceil(columns.max(1))
}

/// A matrix being written: f32 rows.
fn into_rows<T: Send>(
    out: &mut [f32],
    columns: usize,
    ins: impl IndexedParallelIterator<Item = T>,
    work: impl Fn(&mut Vec<u8>, T, &mut [f32]) + Sync + Send,
) -> Result<()> {
    let rows = out.par_chunks_exact_mut(columns.max(1)).zip(ins).with_min_len(least_rows(columns));
    pool::shared()?.install(|| rows.for_each_init(Vec::new, |codes, (row, item)| work(codes, item, row)));
    Ok(())
}

/// What integer codes with whole or real zero points stand for: `(q - zero) * scale`.
pub fn int_back(
    packed: &[u8],
    width: u32,
    group: usize,
    (scales, zeros): (&[f32], &[f32]),
    columns: usize,
    out: &mut [f32],
) -> Result<()> {
    let groups = columns / group;
    let ins = (
        packed.par_chunks_exact(bits::packed_bytes(columns, width as usize)),
        (scales.par_chunks_exact(groups), zeros.par_chunks_exact(groups)),
    );
    into_rows(out, columns, ins.into_par_iter(), |codes, (packed, (scales, zeros)), row| {
        codes.resize(row.len(), 0);
        bits::unpack(width as usize, packed, codes);
        hqq::scaled(codes, group, scales, zeros, row);
    })
}

/// What E4M3 bytes stand for.
pub fn fp8_back(bytes: &[u8], group: usize, scales: &[f32], columns: usize, out: &mut [f32]) -> Result<()> {
    let ins = (bytes.par_chunks_exact(columns), scales.par_chunks_exact(columns / group)).into_par_iter();
    into_rows(out, columns, ins, |_, (bytes, scales), row| fp8::decode(bytes, group, scales, row))
}

/// What E4M3 bytes stand for under a scale for each block of `high` rows and `wide` columns, counted from the first of both;
/// the last may be smaller.
pub fn fp8_blocks_back(
    bytes: &[u8],
    [high, wide]: [usize; 2],
    scales: &[f32],
    columns: usize,
    out: &mut [f32],
) -> Result<()> {
    let across = columns.div_ceil(wide);
    into_rows(out, columns, bytes.par_chunks_exact(columns).enumerate(), |_, (at, bytes), row| {
        fp8::decode(bytes, wide, &scales[at / high * across..][..across], row);
    })
}

/// What LLM.int8() rows stand for.
pub fn int8_back(bytes: &[u8], scales: &[f32], columns: usize, out: &mut [f32]) -> Result<()> {
    let ins = (bytes.par_chunks_exact(columns), scales).into_par_iter();
    into_rows(out, columns, ins, |_, (bytes, scale), row| int::decode_int8_row(bytes, *scale, row))
}

/// What MXFP4 stands for.
pub fn mxfp4_back(packed: &[u8], exponents: &[u8], columns: usize, out: &mut [f32]) -> Result<()> {
    let ins = (packed.par_chunks_exact(columns / 2), exponents.par_chunks_exact(columns / fp4::MX_BLOCK));
    into_rows(out, columns, ins.into_par_iter(), |_, (packed, exponents), row| fp4::decode_mx(packed, exponents, row))
}

/// What NVFP4 stands for.
pub fn nvfp4_back(packed: &[u8], global: f32, scales: &[u8], columns: usize, out: &mut [f32]) -> Result<()> {
    let ins = (packed.par_chunks_exact(columns / 2), scales.par_chunks_exact(columns / fp4::NV_BLOCK));
    into_rows(out, columns, ins.into_par_iter(), |_, (packed, scales), row| fp4::decode_nv(packed, global, scales, row))
}

/// What codes of a table stand for; `packed` and `scales` as [`Matrix::nf4`] made them.
pub fn codebook_back(table: Table, packed: &[u8], block: usize, scales: &[f32], out: &mut [f32]) -> Result<()> {
    let (bytes, count) = (out.len().div_ceil(2), out.len().div_ceil(block));
    if packed.len() < bytes || scales.len() < count {
        return Err(Error::Array(format!(
            "{}: {} codes in blocks of {block} take {bytes} bytes and {count} scales, not {} and {}",
            table.name(),
            out.len(),
            packed.len(),
            scales.len()
        )));
    }
    let blocks = (1_usize << 14).div_ceil(block);
    let ins = (packed.par_chunks(blocks * block / 2), scales.par_chunks(blocks)).into_par_iter();
    let pieces = out.par_chunks_mut(blocks * block).zip(ins);
    pool::shared()?.install(|| {
        pieces.for_each(|(out, (packed, scales))| codebook::decode(table, packed, block, scales, out));
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codebook::NF4;
    use crate::int::{Grid, Span};

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 % 1013) as f32 - 500.0) / 300.0).collect()
    }

    fn bytes(x: &[f32]) -> Vec<u8> {
        x.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// Rows, groups and threads change nothing: a matrix is its groups one after the other.
    #[test]
    fn a_matrix_is_its_rows() {
        let (rows, columns, group) = (300, 192, 64);
        let x = values(rows * columns);
        let bytes = bytes(&x);
        let matrix = Matrix { dtype: Dtype::F32, bytes: &bytes, columns };
        let kind = Int { bits: 3, span: Span::Affine, scale_dtype: Dtype::F16 };
        let groups = rows * columns / group;
        let (mut scales, mut zeros) = (vec![0.0; groups], vec![0; groups]);
        let mut packed = vec![0; rows * bits::packed_bytes(columns, 3)];
        matrix.int(kind, group, None, &mut scales, &mut zeros, &mut packed).unwrap();

        let mut grids = vec![Grid::default(); groups];
        kind.fit(&x, group, &mut grids);
        assert_eq!(scales, grids.iter().map(|grid| grid.scale).collect::<Vec<_>>());
        let mut codes = vec![0; x.len()];
        kind.encode(&x, group, &grids, &mut codes);
        let mut plain = vec![0.0; x.len()];
        kind.decode(&codes, group, &grids, &mut plain);

        let zeros: Vec<f32> = zeros.into_iter().map(f32::from).collect();
        let mut back = vec![0.0; x.len()];
        int_back(&packed, 3, group, (&scales, &zeros), columns, &mut back).unwrap();
        assert_eq!(back, plain);
    }

    #[test]
    fn nf4_comes_back_in_pieces() {
        for count in [64 * 700 + 12, 13, 64, 1] {
            let x = values(count);
            let bytes = bytes(&x);
            let matrix = Matrix { dtype: Dtype::F32, bytes: &bytes, columns: count };
            let (mut scales, mut packed) = (vec![0.0; count.div_ceil(64)], vec![0; count.div_ceil(2)]);
            matrix.nf4(64, &mut scales, &mut packed).unwrap();
            let code = |at: usize| usize::from((packed[at / 2] >> (4 - at % 2 * 4)) & 15);
            let plain: Vec<f32> = (0..count).map(|at| NF4[code(at)] * scales[at / 64]).collect();
            let mut back = vec![0.0; count];
            codebook_back(Table::Nf4, &packed, 64, &scales, &mut back).unwrap();
            assert_eq!(back, plain);
        }
    }

    #[test]
    fn the_first_element_that_is_not_finite_is_named() {
        let mut x = values(40_000);
        (x[33_333], x[39_999]) = (f32::NEG_INFINITY, f32::NAN);
        let bytes = bytes(&x);
        let matrix = Matrix { dtype: Dtype::F32, bytes: &bytes, columns: 400 };
        let error = matrix.fp8(400, Dtype::F32, &mut [0.0; 100], &mut [0; 40_000]).unwrap_err();
        assert_eq!(error.to_string(), "weight: element 33333 is not a finite number");
    }
}
