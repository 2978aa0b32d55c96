//! Layouts: which tensors a checkpoint of each format holds for one quantized weight, byte for byte, and back.
//!
//! | module | format | loaded by |
//! |---|---|---|
//! | [`compressed_tensors`] | `pack-quantized`, `int-quantized`, `float-quantized`, `nvfp4-pack-quantized`, `mxfp4-pack-quantized` | transformers, vLLM |
//! | [`gptq`] | `gptq`, `gptq_v2` | gptqmodel, transformers, vLLM |
//! | [`awq`] | `awq` (GEMM) | gptqmodel, transformers, vLLM |
//! | [`bnb`] | NF4, LLM.int8(); FP4, read alone | bitsandbytes, transformers |
//! | [`fp8`] | FP8 in blocks | transformers, vLLM, SGLang |
//!
//! Nothing here reads or writes files. A weight `[rows, columns]` goes through in blocks of whole rows: the codecs make
//! [`Rows`] of a block, [`Layout::write`] makes each tensor's [`Part`] of it, and [`Tensor::runs`] says which bytes of the
//! tensor those are. Shapes come from [`Layout::tensors`], so a plan needs headers alone.

pub mod awq;
pub mod bnb;
mod coding;
pub mod compressed_tensors;
pub mod fp8;
pub mod gptq;
mod held;
mod tensor;
#[cfg(test)]
mod tests;
mod words;

pub use coding::{Coding, Group, Rows};
pub use held::{Held, Stated, Stored};
pub use tensor::{Part, Strip, Tensor};

use crate::codebook::Table;
use polmrs_core::{Dtype, Error, Result, dtype, pool};
use rayon::prelude::*;
use serde_json::Value;
use std::borrow::Cow;
use std::mem::take;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// That of llm-compressor.
    CompressedTensors,
    /// The first one, whose zero points are stored less one.
    Gptq,
    /// The second one.
    GptqV2,
    /// AWQ's GEMM layout.
    Awq,
    /// That of bitsandbytes.
    Bnb,
    /// DeepSeek's FP8 in blocks.
    Fp8,
}

/// How one weight is coded and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The file format.
    pub format: Format,
    /// What the codes mean.
    pub coding: Coding,
    /// The type that scales are stored in; for bitsandbytes, whose scales are f32, the weight's, which it names.
    pub dtype: Dtype,
    /// The runtime rounds activations too, token by token, to 8 bits (`w8a8`, `fp8`).
    pub activations: bool,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 6] =
        [Format::CompressedTensors, Format::Gptq, Format::GptqV2, Format::Awq, Format::Bnb, Format::Fp8];

    /// Its name in `--format`.
    pub const fn name(self) -> &'static str {
        match self {
            Format::CompressedTensors => "compressed-tensors",
            Format::Gptq => "gptq",
            Format::GptqV2 => "gptq_v2",
            Format::Awq => "awq",
            Format::Bnb => "bnb",
            Format::Fp8 => "fp8",
        }
    }

    /// The [`Layout::dtype`] of a weight of this type. Codes are computed with scales as they are stored.
    pub const fn dtype(self, weight: Dtype) -> Dtype {
        match (self, weight) {
            (Format::Gptq | Format::GptqV2 | Format::Awq, _) => Dtype::F16,
            (Format::Fp8, _) => Dtype::F32,
            (Format::CompressedTensors, Dtype::F64) => Dtype::F32,
            _ => weight,
        }
    }

    /// The format with this name.
    pub fn from_name(name: &str) -> Result<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Format::ALL.into_iter().map(Format::name).collect();
            Error::Config(format!("format: '{name}' is not one of {}", known.join(", ")))
        })
    }
}

/// Elements of a block of whole tensors in memory, and the rows that it has at least: two cache lines of AWQ's words.
const BLOCK: usize = 1 << 18;
const ROWS: usize = 256;

/// What every format holds, for messages.
const CODINGS: [&str; 5] = [compressed_tensors::CODINGS, gptq::CODINGS, awq::CODINGS, bnb::CODINGS, fp8::CODINGS];

impl Layout {
    /// The tensors that a weight of this shape becomes.
    ///
    /// # Errors
    /// The format cannot hold the coding or the shape, or a group does not divide the columns.
    pub fn tensors(&self, rows: usize, columns: usize) -> Result<Vec<Tensor>> {
        self.coding.check(columns)?;
        match self.format {
            Format::CompressedTensors => compressed_tensors::tensors(self, rows, columns),
            Format::Gptq | Format::GptqV2 => gptq::tensors(self, rows, columns),
            Format::Awq => awq::tensors(self, rows, columns),
            Format::Bnb => bnb::tensors(self, rows, columns),
            Format::Fp8 => fp8::tensors(self, rows, columns),
        }
    }

    /// Whether the format can be written with this coding, and not only read.
    ///
    /// # Errors
    /// [`Error::Config`] says why not.
    pub fn writable(&self) -> Result<()> {
        match (self.format, self.coding) {
            (Format::Gptq, Coding::Int { symmetric: false, .. }) => Err(Error::Config(
                "gptq: a zero point of 0 would carry into its neighbour in its readers; use gptq_v2, or a symmetric grid".into(),
            )),
            (_, Coding::Codebook { table: Table::Fp4, .. }) => {
                Err(Error::Config(format!("{}: {} is read, and not written", self.format.name(), self.coding)))
            }
            _ => Ok(()),
        }
    }

    /// A block of rows is a multiple of so many, but for the last.
    pub fn grain(&self, columns: usize) -> usize {
        match (self.format, self.coding) {
            (Format::CompressedTensors, Coding::Int { symmetric: false, .. }) => 32,
            (Format::CompressedTensors, _) => 1,
            (Format::Gptq | Format::GptqV2, _) => 32,
            (Format::Awq, _) => 8,
            (Format::Bnb, _) => bnb::grain(self, columns),
            (Format::Fp8, Coding::Fp8 { group: Group::Block { rows, .. } }) => rows,
            (Format::Fp8, _) => 1,
        }
    }

    /// A block's part of each tensor, in the order and of the size of the [`tensors`](Layout::tensors) of its rows alone. One of
    /// [`Part::Whole`] is left alone.
    pub fn write(&self, block: &Rows<'_>, columns: usize, parts: &mut [&mut [u8]]) {
        match self.format {
            Format::CompressedTensors => compressed_tensors::write(self, block, columns, parts),
            Format::Gptq | Format::GptqV2 => gptq::write(self, block, columns, parts),
            Format::Awq => awq::write(self, block, columns, parts),
            Format::Bnb => bnb::write(self, block, parts),
            Format::Fp8 => fp8::write(self, block, parts),
        }
    }

    /// The bytes of a tensor of [`Part::Whole`]; `global` is the [`Rows::global`] of the weight's blocks.
    pub fn whole(&self, suffix: &str, rows: usize, columns: usize, global: f32) -> Vec<u8> {
        match self.format {
            Format::CompressedTensors => compressed_tensors::whole(self, suffix, rows, columns, global),
            Format::Gptq | Format::GptqV2 => gptq::whole(self, columns),
            Format::Awq => Vec::new(),
            Format::Bnb => bnb::whole(self, suffix, rows, columns, global),
            Format::Fp8 => fp8::whole(self, global),
        }
    }

    /// The block of `count` rows whose parts (whole tensors, where they are [`Part::Whole`]) these are.
    ///
    /// # Errors
    /// A tensor holds what no writer would have stored.
    pub fn read<'a>(&self, parts: &[Strip<'a>], count: usize, columns: usize) -> Result<Rows<'a>> {
        self.read_into(parts, count, columns, Vec::new())
    }

    /// The same, with a buffer for packed codes that are not stored as rows are.
    fn read_into<'a>(&self, parts: &[Strip<'a>], count: usize, columns: usize, packed: Vec<u8>) -> Result<Rows<'a>> {
        self.check(parts.iter().map(Strip::nbytes), count, columns)?;
        match self.format {
            Format::CompressedTensors => Ok(compressed_tensors::read(self, parts, count, columns, packed)),
            Format::Gptq | Format::GptqV2 => gptq::read(self, parts, count, columns, packed),
            Format::Awq => Ok(awq::read(self, parts, count, columns, packed)),
            Format::Bnb => bnb::read(self, parts),
            Format::Fp8 => Ok(fp8::read(self, parts, count)),
        }
    }

    /// Refuses parts that are not as many, or as long, as those of so many rows.
    fn check(&self, parts: impl ExactSizeIterator<Item = usize>, count: usize, columns: usize) -> Result<Vec<Tensor>> {
        let tensors = self.tensors(count, columns)?;
        if tensors.len() != parts.len() {
            return Err(Error::Internal(format!("{} parts of {} tensors", parts.len(), tensors.len())));
        }
        for (tensor, found) in tensors.iter().zip(parts).filter(|(tensor, _)| !bnb::is_state(tensor.suffix)) {
            if tensor.nbytes() != found {
                let (suffix, wanted) = (tensor.suffix, tensor.nbytes());
                return Err(Error::Checkpoint(format!("{suffix}: {count} rows are {wanted} bytes, not {found}")));
            }
        }
        Ok(tensors)
    }

    /// What whole tensors stand for, into `rows * columns` elements: in blocks of rows that stay in the cache, on all threads.
    ///
    /// # Errors
    /// As [`read`](Layout::read).
    pub fn decode(&self, wholes: &[&[u8]], rows: usize, columns: usize, out: &mut [f32]) -> Result<()> {
        let tensors = self.check(wholes.iter().map(|whole| whole.len()), rows, columns)?;
        let each = (BLOCK / columns).max(ROWS).next_multiple_of(self.grain(columns));
        let block = |packed: &mut Vec<u8>, (at, out): (usize, &mut [f32])| {
            let (first, count) = (at * each, out.len() / columns);
            let strips = tensors.iter().zip(wholes).map(|(tensor, whole)| match tensor.part {
                Part::Whole => Strip::of(whole),
                _ => tensor.strip(whole, first..first + count),
            });
            let parts: Vec<Strip<'_>> = strips.collect();
            let rows = self.read_into(&parts, count, columns, take(packed))?;
            self.coding.decode(&rows, columns, out)?;
            if let Cow::Owned(buffer) = rows.packed {
                *packed = buffer;
            }
            Ok(())
        };
        pool::shared()?.install(|| out.par_chunks_mut(each * columns).enumerate().try_for_each_init(Vec::new, block))
    }

    /// All tensors of a weight at once, [`write`](Layout::write) and [`whole`](Layout::whole) on one block, into memory of the size
    /// of its [`tensors`](Layout::tensors); whether or not the layout is [`writable`](Layout::writable).
    ///
    /// # Errors
    /// As `tensors`, and the memory is of another size.
    pub fn write_all(&self, block: &Rows<'_>, rows: usize, columns: usize, parts: &mut [&mut [u8]]) -> Result<()> {
        let tensors = self.check(parts.iter().map(|part| part.len()), rows, columns)?;
        self.write(block, columns, parts);
        for (tensor, part) in tensors.iter().zip(parts).filter(|(tensor, _)| tensor.part == Part::Whole) {
            part.copy_from_slice(&self.whole(tensor.suffix, rows, columns, block.global));
        }
        Ok(())
    }

    /// The same in new memory.
    ///
    /// # Errors
    /// As [`tensors`](Layout::tensors).
    pub fn written(&self, block: &Rows<'_>, rows: usize, columns: usize) -> Result<Vec<(Tensor, Vec<u8>)>> {
        let tensors = self.tensors(rows, columns)?;
        let mut parts: Vec<Vec<u8>> = tensors.iter().map(|tensor| vec![0; tensor.nbytes()]).collect();
        self.write_all(block, rows, columns, &mut parts.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>())?;
        Ok(tensors.into_iter().zip(parts).collect())
    }

    fn unsupported(&self) -> Error {
        Error::Config(format!("{} does not hold {}; {}", self.format.name(), self.coding, CODINGS.join("; ")))
    }
}

/// `quantization_config` of a model's `config.json`.
///
/// The first layout is that of every linear layer that no later one names; later ones come with patterns (`re:` before a
/// regular expression, else a module's name). `ignore` names the modules that stay as they are, in the same way.
pub fn quantization_config(layouts: &[(Layout, Vec<String>)], ignore: &[String]) -> Result<Value> {
    let Some((first, _)) = layouts.first() else {
        return Err(Error::Internal("a quantized model without a layout".into()));
    };
    if matches!(first.format, Format::Awq | Format::Bnb | Format::Fp8)
        && layouts.iter().any(|(layout, _)| layout != first)
    {
        return Err(Error::Config(format!("{}: one coding for all layers; it has no rules", first.format.name())));
    }
    Ok(match first.format {
        Format::CompressedTensors => compressed_tensors::config(layouts, ignore),
        Format::Gptq | Format::GptqV2 => gptq::config(layouts, ignore),
        Format::Awq => awq::config(layouts, ignore),
        Format::Bnb => bnb::config(layouts, ignore),
        Format::Fp8 => fp8::config(layouts, ignore),
    })
}

/// Scales in the type that they are stored in.
fn narrow(dtype: Dtype, scales: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; scales.len() * dtype.size()];
    dtype::from_f32(dtype, scales, &mut bytes);
    bytes
}

fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let mut scales = vec![0.0; bytes.len() / dtype.size()];
    dtype::to_f32(dtype, bytes, &mut scales);
    scales
}
