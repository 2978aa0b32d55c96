//! Quantization: what one group of weights becomes, and back, as functions on slices; then whole checkpoints of it.
//!
//! | module | holds |
//! |---|---|
//! | [`bits`] | codes of 1 to 8 bits as a dense stream of bits |
//! | [`int`] | integer grids: round to nearest, symmetric or with a zero point, clipped or not |
//! | [`hqq`] | the half-quadratic search for a zero point |
//! | [`fp8`] | FP8 E4M3 with a scale |
//! | [`fp4`] | E2M1 elements: MXFP4 and NVFP4 |
//! | [`codebook`] | nearest entries of a sorted table: NF4, and the 8-bit dynamic map of double quantization |
//! | `table` | 4-bit codes back to the values of a table |
//! | [`matrix`] | all of them on whole matrices, on all threads |
//! | [`format`] | which tensors a checkpoint of each file format holds for them |
//! | [`check`](mod@check) | what a loader would trip over |
//! | [`source`], `stripes` | a quantized checkpoint as a source of dense weights, and those read last |
//! | [`scheme`], [`method`] | what weights become, and how codes are found, as rows of data |
//! | [`select`] | which tensors become what, by names and rules |
//! | [`coder`], `compat` | blocks of rows through scheme and method; llm-compressor's arithmetic |
//! | `shared`, `encoder`, `moments` | what blocks have in common; a block into its tensors; what that does to a layer's output |
//! | [`program`], [`run`](mod@run) | a checkpoint as a plan, and into a folder |
//!
//! A *group* is what shares a scale: a whole tensor, a row (channel), or equal pieces of a row. Every function works on
//! whole groups that lie one after the other; each group by itself, so the result does not depend on how they are cut
//! between threads. Inputs are finite: whoever reads a checkpoint refuses NaN and infinities.

pub mod bits;
pub mod check;
pub mod codebook;
pub mod coder;
mod compat;
mod encoder;
pub mod format;
pub mod fp4;
pub mod fp8;
mod group;
pub mod hqq;
pub mod int;
pub mod matrix;
pub mod method;
mod moments;
pub mod program;
mod row;
pub mod run;
pub mod scheme;
pub mod select;
mod shared;
pub mod source;
mod stripes;
mod table;
