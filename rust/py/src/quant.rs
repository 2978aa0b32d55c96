//! `polmrs._core.quant`: the codecs of `polmrs-quant` on whole matrices. Outputs are arrays that Python made.

use crate::array::{Any, Bits, read, write};
use crate::call::quick;
use crate::error::to_py;
use polmrs_core::{Dtype, Error};
use polmrs_quant::codebook::Table;
use polmrs_quant::hqq::Hqq;
use polmrs_quant::int::{Int, Span};
use polmrs_quant::matrix::{self, Clip, Matrix};
use polmrs_quant::{bits, codebook, fp4};
use pyo3::prelude::*;

/// Quantization codecs.
#[pymodule]
pub(crate) mod quant {
    #[pymodule_export]
    use super::folder::{check_folder, plan_folder, quantize_folder};
    #[pymodule_export]
    use super::format::{format_config, format_shape, from_format, to_format};
    #[pymodule_export]
    use super::{
        decode_fp8, decode_int, decode_int8, decode_mxfp4, decode_nf4, decode_nvfp4, encode_fp8, encode_hqq,
        encode_int, encode_int8, encode_mxfp4, encode_nf4, encode_nvfp4, nest, pack, unnest, unpack,
    };
}

mod folder;
mod format;

/// A weight matrix: its element type's torch name, its elements as bits, and the length of a row.
type Weight<'py> = (String, Any<'py>, usize);

pub(crate) fn float_type(py: Python<'_>, name: &str) -> PyResult<Dtype> {
    Dtype::from_torch_name(name)
        .filter(|dtype| dtype.is_float())
        .ok_or_else(|| to_py(py, &Error::Array(format!("dtype: '{name}' is not a floating-point type"))))
}

/// Borrows a weight and works on it with the GIL released.
fn on<T: Send>(
    (dtype, array, columns): &Weight<'_>,
    work: impl FnOnce(Matrix<'_>) -> polmrs_core::Result<T> + Send,
) -> PyResult<T> {
    let py = array.py();
    let dtype = float_type(py, dtype)?;
    let borrowed = Bits::borrow("weight", array, dtype.size())?;
    let matrix = Matrix { dtype, bytes: borrowed.bytes(), columns: *columns };
    quick(py, || work(matrix))
}

#[pyfunction]
fn pack(codes: &Any<'_>, columns: usize, width: usize, out: &Any<'_>) -> PyResult<()> {
    let (codes, mut out) = (read::<u8>("codes", codes)?, write::<u8>("out", out)?);
    let rows = slice!(codes).chunks_exact(columns);
    rows.zip(slice_mut!(out).chunks_exact_mut(bits::packed_bytes(columns, width)))
        .for_each(|(codes, out)| bits::pack(width, codes, out));
    Ok(())
}

#[pyfunction]
fn unpack(packed: &Any<'_>, columns: usize, width: usize, out: &Any<'_>) -> PyResult<()> {
    let (packed, mut out) = (read::<u8>("packed", packed)?, write::<u8>("out", out)?);
    let rows = slice!(packed).chunks_exact(bits::packed_bytes(columns, width));
    rows.zip(slice_mut!(out).chunks_exact_mut(columns)).for_each(|(packed, out)| bits::unpack(width, packed, out));
    Ok(())
}

#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "one array each")]
fn encode_int(
    py: Python<'_>,
    weight: Weight<'_>,
    width: u32,
    span: &str,
    group: usize,
    scale_dtype: &str,
    clip: Option<(u32, f32)>,
    scales: &Any<'_>,
    zeros: &Any<'_>,
    packed: &Any<'_>,
) -> PyResult<()> {
    let span = match span {
        "absmax" => Span::Absmax,
        "full" => Span::Full,
        _ => Span::Affine,
    };
    let kind = Int { bits: width, span, scale_dtype: float_type(py, scale_dtype)? };
    let clip = clip.map(|(steps, shrink)| Clip { steps, shrink });
    let (mut scales, mut zeros) = (write::<f32>("scales", scales)?, write::<u8>("zeros", zeros)?);
    let mut packed = write::<u8>("packed", packed)?;
    let (scales, zeros, packed) = (slice_mut!(scales), slice_mut!(zeros), slice_mut!(packed));
    on(&weight, |matrix| matrix.int(kind, group, clip, scales, zeros, packed))
}

#[pyfunction]
fn encode_hqq(
    weight: Weight<'_>,
    width: u32,
    group: usize,
    search: (f32, f32, f32, u32),
    scales: &Any<'_>,
    zeros: &Any<'_>,
    packed: &Any<'_>,
) -> PyResult<()> {
    let (norm, beta, kappa, steps) = search;
    let settings = Hqq { norm, beta, kappa, steps, ..Hqq::new(width) };
    let (mut scales, mut zeros) = (write::<f32>("scales", scales)?, write::<f32>("zeros", zeros)?);
    let mut packed = write::<u8>("packed", packed)?;
    let (scales, zeros, packed) = (slice_mut!(scales), slice_mut!(zeros), slice_mut!(packed));
    on(&weight, |matrix| matrix.hqq(settings, group, scales, zeros, packed))
}

#[pyfunction]
fn decode_int(
    packed: &Any<'_>,
    width: u32,
    group: usize,
    scales: &Any<'_>,
    zeros: &Any<'_>,
    columns: usize,
    out: &Any<'_>,
) -> PyResult<()> {
    let py = out.py();
    let (packed, mut out) = (read::<u8>("packed", packed)?, write::<f32>("out", out)?);
    let (scales, zeros) = (read::<f32>("scales", scales)?, read::<f32>("zeros", zeros)?);
    let (packed, scales, zeros, out) = (slice!(packed), slice!(scales), slice!(zeros), slice_mut!(out));
    quick(py, || matrix::int_back(packed, width, group, (scales, zeros), columns, out))
}

#[pyfunction]
fn encode_fp8(
    py: Python<'_>,
    weight: Weight<'_>,
    group: usize,
    scale_dtype: &str,
    scales: &Any<'_>,
    bytes: &Any<'_>,
) -> PyResult<()> {
    let scale_dtype = float_type(py, scale_dtype)?;
    let (mut scales, mut bytes) = (write::<f32>("scales", scales)?, write::<u8>("bytes", bytes)?);
    let (scales, bytes) = (slice_mut!(scales), slice_mut!(bytes));
    on(&weight, |matrix| matrix.fp8(group, scale_dtype, scales, bytes))
}

#[pyfunction]
fn decode_fp8(
    py: Python<'_>,
    bytes: &Any<'_>,
    group: usize,
    scales: &Any<'_>,
    columns: usize,
    out: &Any<'_>,
) -> PyResult<()> {
    let (bytes, scales, mut out) =
        (read::<u8>("bytes", bytes)?, read::<f32>("scales", scales)?, write::<f32>("out", out)?);
    let (bytes, scales, out) = (slice!(bytes), slice!(scales), slice_mut!(out));
    quick(py, || matrix::fp8_back(bytes, group, scales, columns, out))
}

#[pyfunction]
fn encode_mxfp4(weight: Weight<'_>, exponents: &Any<'_>, packed: &Any<'_>) -> PyResult<()> {
    let (mut exponents, mut packed) = (write::<u8>("exponents", exponents)?, write::<u8>("packed", packed)?);
    let (exponents, packed) = (slice_mut!(exponents), slice_mut!(packed));
    on(&weight, |matrix| matrix.mxfp4(exponents, packed))
}

#[pyfunction]
fn decode_mxfp4(py: Python<'_>, packed: &Any<'_>, exponents: &Any<'_>, columns: usize, out: &Any<'_>) -> PyResult<()> {
    let (packed, exponents, mut out) =
        (read::<u8>("packed", packed)?, read::<u8>("exponents", exponents)?, write::<f32>("out", out)?);
    let (packed, exponents, out) = (slice!(packed), slice!(exponents), slice_mut!(out));
    quick(py, || matrix::mxfp4_back(packed, exponents, columns, out))
}

/// Gives the scale of the whole tensor, which is `given` or comes from its largest magnitude.
#[pyfunction]
fn encode_nvfp4(weight: Weight<'_>, given: Option<f32>, scales: &Any<'_>, packed: &Any<'_>) -> PyResult<f32> {
    let (mut scales, mut packed) = (write::<u8>("scales", scales)?, write::<u8>("packed", packed)?);
    let (scales, packed) = (slice_mut!(scales), slice_mut!(packed));
    on(&weight, |matrix| {
        let global = match given {
            Some(global) => global,
            None => fp4::nv_global(matrix.absmax()?),
        };
        matrix.nvfp4(global, scales, packed)?;
        Ok(global)
    })
}

#[pyfunction]
fn decode_nvfp4(
    py: Python<'_>,
    packed: &Any<'_>,
    global: f32,
    scales: &Any<'_>,
    columns: usize,
    out: &Any<'_>,
) -> PyResult<()> {
    let (packed, scales, mut out) =
        (read::<u8>("packed", packed)?, read::<u8>("scales", scales)?, write::<f32>("out", out)?);
    let (packed, scales, out) = (slice!(packed), slice!(scales), slice_mut!(out));
    quick(py, || matrix::nvfp4_back(packed, global, scales, columns, out))
}

#[pyfunction]
fn encode_nf4(weight: Weight<'_>, block: usize, scales: &Any<'_>, packed: &Any<'_>) -> PyResult<()> {
    let (mut scales, mut packed) = (write::<f32>("scales", scales)?, write::<u8>("packed", packed)?);
    let (scales, packed) = (slice_mut!(scales), slice_mut!(packed));
    on(&weight, |matrix| matrix.nf4(block, scales, packed))
}

#[pyfunction]
fn decode_nf4(py: Python<'_>, packed: &Any<'_>, block: usize, scales: &Any<'_>, out: &Any<'_>) -> PyResult<()> {
    let (packed, scales, mut out) =
        (read::<u8>("packed", packed)?, read::<f32>("scales", scales)?, write::<f32>("out", out)?);
    let (packed, scales, out) = (slice!(packed), slice!(scales), slice_mut!(out));
    quick(py, || matrix::codebook_back(Table::Nf4, packed, block, scales, out))
}

#[pyfunction]
fn encode_int8(weight: Weight<'_>, scales: &Any<'_>, packed: &Any<'_>) -> PyResult<()> {
    let (mut scales, mut packed) = (write::<f32>("scales", scales)?, write::<u8>("packed", packed)?);
    let (scales, packed) = (slice_mut!(scales), slice_mut!(packed));
    on(&weight, |matrix| matrix.int8(scales, packed))
}

#[pyfunction]
fn decode_int8(py: Python<'_>, packed: &Any<'_>, scales: &Any<'_>, columns: usize, out: &Any<'_>) -> PyResult<()> {
    let (packed, scales, mut out) =
        (read::<u8>("packed", packed)?, read::<f32>("scales", scales)?, write::<f32>("out", out)?);
    let (packed, scales, out) = (slice!(packed), slice!(scales), slice_mut!(out));
    quick(py, || matrix::int8_back(packed, scales, columns, out))
}

/// Fills `codes` and `nested`; gives the mean.
#[pyfunction]
fn nest(scales: &Any<'_>, codes: &Any<'_>, nested: &Any<'_>) -> PyResult<f32> {
    let (scales, mut codes, mut out) =
        (read::<f32>("scales", scales)?, write::<u8>("codes", codes)?, write::<f32>("nested", nested)?);
    let made = codebook::nest(slice!(scales));
    slice_mut!(codes).copy_from_slice(&made.codes);
    slice_mut!(out).copy_from_slice(&made.scales);
    Ok(made.offset)
}

#[pyfunction]
fn unnest(codes: &Any<'_>, nested: &Any<'_>, offset: f32, scales: &Any<'_>) -> PyResult<()> {
    let (codes, nested, mut out) =
        (read::<u8>("codes", codes)?, read::<f32>("nested", nested)?, write::<f32>("scales", scales)?);
    let nested = codebook::Nested { codes: slice!(codes).to_vec(), scales: slice!(nested).to_vec(), offset };
    slice_mut!(out).copy_from_slice(&codebook::unnest(&nested));
    Ok(())
}
