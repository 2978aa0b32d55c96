//! Blocks of whole rows through a scheme's codec and method: from f32 to what a layout is written from.

use crate::compat::Rounding;
use crate::format::{Coding, Group, Rows};
use crate::hqq::{self, Hqq, Real};
use crate::int::{Int, Span, encode_int8_row};
use crate::method::Search;
use crate::row::Work;
use crate::{bits, fp8};
use polmrs_core::{Dtype, Error, Result};
use std::borrow::Cow;

/// How the rows of one weight are coded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coder {
    /// What codes mean.
    pub coding: Coding,
    /// How they are found.
    pub search: Search,
    /// The type that scales are stored in.
    pub scale_dtype: Dtype,
    /// The type that each step of the arithmetic is rounded to: F32, or the weights' own for llm-compressor's codes.
    pub arithmetic: Dtype,
}

impl Coder {
    /// Refuses what does not go together.
    ///
    /// # Errors
    /// [`Error::Usage`] says which coding the method or the arithmetic needs.
    pub fn check(&self) -> Result<()> {
        let Coder { coding, search, arithmetic, .. } = self;
        let integers = matches!(coding, Coding::Int { .. });
        let refuse = |what: &str| Err(Error::Usage(format!("{what}, not {coding}")));
        match search {
            Search::Zero(_) if !matches!(coding, Coding::Int { symmetric: false, .. }) => {
                refuse("method: hqq finds zero points, for integers with asym")
            }
            Search::Clipped(_) if !integers => refuse("method: mse finds ranges of integers"),
            Search::Range if *arithmetic != Dtype::F32 && !integers && !matches!(coding, Coding::Fp8 { .. }) => {
                refuse("compat: is for integers and fp8")
            }
            Search::Zero(_) | Search::Clipped(_) if *arithmetic != Dtype::F32 => {
                Err(Error::Usage("compat: llm-compressor's codes are those of the method rtn".into()))
            }
            _ => Ok(()),
        }
    }

    /// The codes of whole rows, of a coding that is [`writable`](crate::format::Layout::writable); `global` is what the tensor has
    /// in common (see [`Rows::global`]).
    pub fn encode(&self, x: &[f32], columns: usize, global: f32) -> Rows<'static> {
        let (count, scales) = (x.len() / columns, self.scales(x.len(), columns));
        let scaled = !matches!(self.coding, Coding::Mxfp4 | Coding::Nvfp4);
        let mut packed = vec![0; count * self.packed_bytes(columns)];
        let mut rows = Rows {
            packed: Cow::default(),
            scales: vec![0.0; if scaled { scales } else { 0 }],
            bytes: vec![0; if scaled { 0 } else { scales }],
            zeros: vec![0; if let Coding::Int { .. } = self.coding { scales } else { 0 }],
            order: Vec::new(),
            global,
        };
        let (mut work, mut rounding) = (Work::default(), Rounding::new(self.arithmetic));
        if let Coding::Codebook { block, .. } = self.coding {
            packed.resize(x.len().div_ceil(2), 0);
            work.nf4(block, x, &mut rows.scales, &mut packed);
            return Rows { packed: packed.into(), ..rows };
        }
        if let Coding::Fp8 { group: Group::Block { rows: high, columns: wide } } = self.coding {
            let blocks = x.chunks(high * columns).zip(packed.chunks_mut(high * columns));
            for ((x, packed), scales) in blocks.zip(rows.scales.chunks_exact_mut(columns.div_ceil(wide))) {
                fp8::fit_block(x, columns, wide, self.scale_dtype, scales);
                let each = x.chunks_exact(columns).zip(packed.chunks_exact_mut(columns));
                each.for_each(|(x, packed)| fp8::encode(x, wide, scales, packed));
            }
            return Rows { packed: packed.into(), ..rows };
        }
        let (group, groups) = (self.coding.group(columns), scales / count.max(1));
        let each = packed.chunks_exact_mut(self.packed_bytes(columns));
        for (at, (x, packed)) in x.chunks_exact(columns).zip(each).enumerate() {
            let here = at * groups..(at + 1) * groups;
            match self.coding {
                Coding::Int { bits, symmetric, .. } => {
                    let span = if symmetric { Span::Full } else { Span::Affine };
                    let kind = Int { bits, span, scale_dtype: self.scale_dtype };
                    let out = (&mut rows.scales[here.clone()], &mut rows.zeros[here], packed);
                    match self.search {
                        Search::Range if self.arithmetic != Dtype::F32 => {
                            work.int_as(&mut rounding, kind, group, x, out);
                        }
                        Search::Range => work.int(kind, group, None, x, out),
                        Search::Clipped(clip) => work.int(kind, group, Some(clip), x, out),
                        Search::Zero(hqq) => {
                            work.hqq_rounded(settings(hqq, bits), kind, group, x, out);
                        }
                    }
                }
                Coding::Fp8 { .. } if self.arithmetic != Dtype::F32 => {
                    rounding.fp8(x, group, &mut rows.scales[here], packed);
                }
                Coding::Fp8 { .. } => work.fp8(group, self.scale_dtype, x, &mut rows.scales[here], packed),
                Coding::Mxfp4 => work.mxfp4(x, &mut rows.bytes[here], packed),
                Coding::Nvfp4 => work.nvfp4(global, x, &mut rows.bytes[here], packed),
                Coding::Codebook { .. } => {}
                Coding::Int8 => rows.scales[at] = encode_int8_row(x, packed),
            }
        }
        if let Coding::Int { symmetric: true, .. } = self.coding {
            rows.zeros.clear();
        }
        Rows { packed: packed.into(), ..rows }
    }

    /// What whole rows would stand for if HQQ's zero points were stored as they are; nothing, for other methods.
    pub fn unrounded(&self, x: &[f32], columns: usize, out: &mut [f32]) -> bool {
        let (Coding::Int { bits, .. }, Search::Zero(hqq)) = (self.coding, self.search) else { return false };
        let group = self.coding.group(columns);
        let (mut grids, mut codes) = (vec![Real::default(); x.len() / group], vec![0; x.len()]);
        settings(hqq, bits).encode(x, group, &mut grids, &mut codes);
        hqq::decode(&codes, group, &grids, out);
        true
    }

    /// How many scales so many elements have.
    fn scales(&self, elements: usize, columns: usize) -> usize {
        match self.coding {
            Coding::Codebook { block, .. } => elements.div_ceil(block),
            Coding::Fp8 { group: Group::Block { rows, columns: wide } } => {
                (elements / columns).div_ceil(rows) * columns.div_ceil(wide)
            }
            coding => elements / coding.group(columns),
        }
    }

    /// The bytes of a row's codes (NF4's are counted through all rows).
    fn packed_bytes(&self, columns: usize) -> usize {
        match self.coding {
            Coding::Int { bits, .. } => bits::packed_bytes(columns, bits as usize),
            Coding::Fp8 { .. } | Coding::Int8 => columns,
            Coding::Mxfp4 | Coding::Nvfp4 | Coding::Codebook { .. } => columns / 2,
        }
    }
}

/// HQQ's settings for codes of so many bits.
fn settings(hqq: Hqq, bits: u32) -> Hqq {
    Hqq { bits, round_zero: bits == 4, ..hqq }
}
