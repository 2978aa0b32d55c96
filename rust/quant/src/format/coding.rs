//! What codes mean, whatever file they are stored in.

use crate::codebook::Table;
use crate::matrix;
use polmrs_core::{Error, Result};
use std::borrow::Cow;
use std::fmt;

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// All elements.
    Tensor,
    /// A row: an output channel.
    Channel,
    /// So many neighbours within a row.
    Size(usize),
    /// So many neighbours of so many rows, counted from the first of both; the last may be fewer.
    Block {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
}

impl Group {
    /// The number of elements that share a scale within a row; where that may vary, the whole row.
    pub const fn size(self, columns: usize) -> usize {
        match self {
            Group::Size(size) => size,
            Group::Channel | Group::Tensor | Group::Block { .. } => columns,
        }
    }
}

/// How the elements of a weight are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// An integer grid, [`int`](crate::int).
    Int {
        /// 2 to 8.
        bits: u32,
        /// The zero point is the middle code; else each group has its own.
        symmetric: bool,
        /// What shares a scale.
        group: Group,
    },
    /// E4M3, [`fp8`](crate::fp8).
    Fp8 {
        /// What shares a scale.
        group: Group,
    },
    /// E2M1 under powers of two, [`fp4`](crate::fp4).
    Mxfp4,
    /// E2M1 under E4M3 scales under one f32, [`fp4`](crate::fp4).
    Nvfp4,
    /// NF4 or FP4, [`codebook`](crate::codebook).
    Codebook {
        /// The 16 values.
        table: Table,
        /// Elements that share a scale, counted through all rows; an even number.
        block: usize,
        /// Scales are quantized too.
        nested: bool,
    },
    /// LLM.int8()'s rows, [`encode_int8_row`](crate::int::encode_int8_row).
    Int8,
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, group) = match self {
            Coding::Int { bits, symmetric, group } => {
                (format!("int{bits} {}", if *symmetric { "symmetric" } else { "with zero points" }), Some(group))
            }
            Coding::Fp8 { group } => ("fp8".into(), Some(group)),
            Coding::Mxfp4 => ("mxfp4".into(), None),
            Coding::Nvfp4 => ("nvfp4".into(), None),
            Coding::Codebook { table, block, nested } => {
                (format!("{}{} in blocks of {block}", table.name(), if *nested { ", nested," } else { "" }), None)
            }
            Coding::Int8 => ("llm-int8".into(), None),
        };
        match group {
            Some(Group::Tensor) => write!(f, "{name}, one scale for the tensor"),
            Some(Group::Channel) => write!(f, "{name}, one scale for a channel"),
            Some(Group::Size(size)) => write!(f, "{name} in groups of {size}"),
            Some(Group::Block { rows, columns }) => write!(f, "{name} in blocks of {rows} x {columns}"),
            None => write!(f, "{name}"),
        }
    }
}

impl Coding {
    /// The number of elements of a row that share a scale; for blocks, which run through all rows or end in the middle, the
    /// whole row.
    pub const fn group(self, columns: usize) -> usize {
        match self {
            Coding::Int { group, .. } | Coding::Fp8 { group } => group.size(columns),
            Coding::Mxfp4 => crate::fp4::MX_BLOCK,
            Coding::Nvfp4 => crate::fp4::NV_BLOCK,
            Coding::Codebook { .. } | Coding::Int8 => columns,
        }
    }

    /// Bits of a code.
    pub const fn bits(self) -> u32 {
        match self {
            Coding::Int { bits, .. } => bits,
            Coding::Fp8 { .. } | Coding::Int8 => 8,
            Coding::Mxfp4 | Coding::Nvfp4 | Coding::Codebook { .. } => 4,
        }
    }

    /// Refuses a group that does not divide the columns.
    pub(crate) fn check(self, columns: usize) -> Result<()> {
        let group = self.group(columns);
        if group == 0 || columns == 0 || !columns.is_multiple_of(group) {
            let divides = [256, 128, 64, 32].into_iter().find(|size| columns.is_multiple_of(*size)).unwrap_or(columns);
            let rule = format!("{self}: {group} does not divide rows of {columns} elements; {divides} does");
            return Err(Error::Config(rule));
        }
        Ok(())
    }

    /// What a block of rows stands for, into `count * columns` elements.
    pub fn decode(self, rows: &Rows<'_>, columns: usize, out: &mut [f32]) -> Result<()> {
        let group = self.group(columns);
        match self {
            Coding::Int { bits, symmetric, .. } => {
                let zeros: Vec<f32> = if symmetric {
                    vec![f32::from(1_u8 << (bits - 1)); rows.scales.len()]
                } else {
                    rows.zeros.iter().map(|zero| f32::from(*zero)).collect()
                };
                matrix::int_back(&rows.packed, bits, group, (&rows.scales, &zeros), columns, out)?;
                scatter(&rows.order, columns, out);
                Ok(())
            }
            Coding::Fp8 { group: Group::Block { rows: high, columns: wide } } => {
                matrix::fp8_blocks_back(&rows.packed, [high, wide], &rows.scales, columns, out)
            }
            Coding::Fp8 { .. } => matrix::fp8_back(&rows.packed, group, &rows.scales, columns, out),
            Coding::Mxfp4 => matrix::mxfp4_back(&rows.packed, &rows.bytes, columns, out),
            Coding::Nvfp4 => matrix::nvfp4_back(&rows.packed, rows.global, &rows.bytes, columns, out),
            Coding::Codebook { table, block, .. } => {
                matrix::codebook_back(table, &rows.packed, block, &rows.scales, out)
            }
            Coding::Int8 => matrix::int8_back(&rows.packed, &rows.scales, columns, out),
        }
    }
}

/// Puts the elements of each row where they belong.
fn scatter(order: &[usize], columns: usize, out: &mut [f32]) {
    if order.is_empty() {
        return;
    }
    let mut gathered = vec![0.0; columns];
    for row in out.chunks_exact_mut(columns) {
        gathered.copy_from_slice(row);
        order.iter().zip(&gathered).for_each(|(column, x)| row[*column] = *x);
    }
}

/// A block of whole rows as the functions of [`matrix`] make them: what layouts are written from and read into.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows<'a> {
    /// Codes, packed as there.
    pub packed: Cow<'a, [u8]>,
    /// An f32 scale for each group of each row (also where one serves the whole tensor) or each block: integers and FP8. For
    /// NF4, FP4 and LLM.int8() the largest magnitude of each block or row.
    pub scales: Vec<f32>,
    /// A byte for each group: E8M0 exponents (MXFP4) or E4M3 scales (NVFP4).
    pub bytes: Vec<u8>,
    /// Zero points: integers that are not symmetric.
    pub zeros: Vec<u8>,
    /// Where it is not empty, the column that each element of a row is: groups of columns that are no neighbours.
    pub order: Vec<usize>,
    /// What the whole tensor has in common: NVFP4's or FP8's scale of it, the mean of nested scales.
    pub global: f32,
}

impl Rows<'_> {
    /// Gives each of `count` rows the scale that was read for all.
    pub(super) fn share_scale(&mut self, count: usize) {
        self.global = self.scales.first().copied().unwrap_or_default();
        self.scales = vec![self.global; count];
    }
}
