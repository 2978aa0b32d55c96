//! Layouts of file formats, on whole matrices in memory.

use crate::array::{Any, Bits, read, write};
use crate::call::quick;
use crate::error::to_py;
use crate::quant::float_type;
use numpy::PyArray1;
use polmrs_core::{Dtype, Error};
use polmrs_quant::codebook::Table;
use polmrs_quant::format::{Coding, Format, Group, Held, Layout, Rows, Stated, Stored, Tensor, quantization_config};
use pyo3::prelude::*;
use std::borrow::Cow;

/// A layout as Python names it.
#[derive(FromPyObject)]
pub(super) struct Spec {
    format: String,
    /// `int`, `fp8`, `mxfp4`, `nvfp4`, `nf4` or `int8`.
    kind: String,
    bits: u32,
    symmetric: bool,
    /// So many elements; 0 for a channel, -1 for the tensor.
    group: isize,
    nested: bool,
    dtype: String,
    activations: bool,
}

impl Spec {
    fn layout(&self, py: Python<'_>) -> PyResult<Layout> {
        let group = match self.group {
            0 => Group::Channel,
            size => usize::try_from(size).map_or(Group::Tensor, Group::Size),
        };
        let coding = match self.kind.as_str() {
            "int" => Coding::Int { bits: self.bits, symmetric: self.symmetric, group },
            "fp8" => Coding::Fp8 { group },
            "mxfp4" => Coding::Mxfp4,
            "nvfp4" => Coding::Nvfp4,
            "nf4" => Coding::Codebook { table: Table::Nf4, block: self.group.unsigned_abs(), nested: self.nested },
            _ => Coding::Int8,
        };
        let format = Format::from_name(&self.format).map_err(|error| to_py(py, &error))?;
        Ok(Layout { format, coding, dtype: float_type(py, &self.dtype)?, activations: self.activations })
    }
}

/// A tensor's suffix, its type's torch name, its shape and its bytes.
type Given<'py> = (String, String, Vec<u64>, Any<'py>);

/// The same on its way out.
type Written<'py> = (&'static str, &'static str, Vec<u64>, Bound<'py, PyArray1<u8>>);

/// Codes and scales (as `Rows` has them) in a layout: suffix, type, shape and bytes of each tensor.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "one array each")]
pub(super) fn to_format<'py>(
    py: Python<'py>,
    spec: Spec,
    shape: (usize, usize),
    packed: &Any<'py>,
    scales: Option<&Any<'py>>,
    bytes: Option<&Any<'py>>,
    zeros: Option<&Any<'py>>,
    global: f32,
) -> PyResult<Vec<Written<'py>>> {
    let (layout, (rows, columns)) = (spec.layout(py)?, shape);
    let u8s = |name, array: Option<&Any<'py>>| match array {
        Some(array) => Ok::<_, PyErr>(slice!(read::<u8>(name, array)?).to_vec()),
        None => Ok(Vec::new()),
    };
    let scales = match scales {
        Some(scales) => slice!(read::<f32>("scales", scales)?).to_vec(),
        None => Vec::new(),
    };
    let packed = read::<u8>("packed", packed)?;
    let packed = Cow::Borrowed(slice!(packed));
    let block =
        Rows { packed, scales, bytes: u8s("bytes", bytes)?, zeros: u8s("zeros", zeros)?, order: Vec::new(), global };
    let tensors = layout.writable().and_then(|()| layout.tensors(rows, columns)).map_err(|error| to_py(py, &error))?;
    // numpy asks for pages of 2 MB where an array is large.
    let arrays: Vec<_> = tensors.iter().map(|tensor| PyArray1::<u8>::zeros(py, tensor.nbytes(), false)).collect();
    {
        let borrowed = arrays.iter().map(|array| write::<u8>("tensors", array.as_any()));
        let mut borrowed = borrowed.collect::<PyResult<Vec<_>>>()?;
        let mut parts: Vec<&mut [u8]> = borrowed.iter_mut().map(|array| slice_mut!(array)).collect();
        quick(py, || layout.write_all(&block, rows, columns, &mut parts))?;
    }
    let entry = |(tensor, bytes): (Tensor, _)| (tensor.suffix, tensor.dtype.torch_name(), tensor.shape, bytes);
    Ok(tensors.into_iter().zip(arrays).map(entry).collect())
}

/// `quantization_config` of a model whose layers all have one layout, as JSON.
#[pyfunction]
pub(super) fn format_config(py: Python<'_>, spec: Spec, ignore: Vec<String>) -> PyResult<String> {
    let layouts = [(spec.layout(py)?, vec!["Linear".to_owned()])];
    let config = quantization_config(&layouts, &ignore).map_err(|error| to_py(py, &error))?;
    Ok(config.to_string())
}

/// The tensors that Python gave, with their bytes borrowed.
struct Borrowed<'py> {
    tensors: Vec<(String, Dtype, Vec<u64>, Bits<'py>)>,
}

impl<'py> Borrowed<'py> {
    fn new(py: Python<'py>, given: Vec<Given<'py>>) -> PyResult<Borrowed<'py>> {
        let borrow = |(suffix, dtype, shape, array): Given<'py>| {
            let Some(dtype) = Dtype::from_torch_name(&dtype) else {
                let message = format!("{suffix}: '{dtype}' is no type that a checkpoint holds");
                return Err(to_py(py, &Error::Array(message)));
            };
            let bits = Bits::borrow(&suffix, &array, dtype.size())?;
            Ok((suffix, dtype, shape, bits))
        };
        Ok(Borrowed { tensors: given.into_iter().map(borrow).collect::<PyResult<_>>()? })
    }

    fn find(&self, suffix: &str) -> polmrs_core::Result<&[u8]> {
        let found = self.tensors.iter().find(|(name, ..)| name == suffix);
        found.map(|(.., bits)| bits.bytes()).ok_or_else(|| Error::Checkpoint(format!("{suffix}: not there")))
    }

    fn stored(&self, format: &str, stated: Stated) -> polmrs_core::Result<Stored> {
        let tensors = self.tensors.iter().map(|(name, dtype, shape, _)| (name.as_str(), *dtype, &shape[..])).collect();
        Held { tensors, bytes: &|suffix| self.find(suffix).map(<[u8]>::to_vec) }
            .recognise(Format::from_name(format)?, stated)
    }
}

/// Rows and columns of the weight that tensors stand for.
#[pyfunction]
pub(super) fn format_shape<'py>(
    py: Python<'py>,
    format: &str,
    tensors: Vec<Given<'py>>,
    bits: Option<u32>,
    block: Option<[usize; 2]>,
) -> PyResult<(usize, usize)> {
    let stored =
        Borrowed::new(py, tensors)?.stored(format, Stated { bits, block }).map_err(|error| to_py(py, &error))?;
    Ok((stored.rows, stored.columns))
}

/// What tensors stand for.
#[pyfunction]
pub(super) fn from_format<'py>(
    py: Python<'py>,
    format: &str,
    tensors: Vec<Given<'py>>,
    bits: Option<u32>,
    block: Option<[usize; 2]>,
    out: &Any<'py>,
) -> PyResult<()> {
    let borrowed = Borrowed::new(py, tensors)?;
    let mut out = write::<f32>("out", out)?;
    let out = slice_mut!(out);
    let stored = borrowed.stored(format, Stated { bits, block }).map_err(|error| to_py(py, &error))?;
    let tensors = stored.layout.tensors(stored.rows, stored.columns);
    let wholes: polmrs_core::Result<Vec<&[u8]>> =
        tensors.and_then(|tensors| tensors.iter().map(|tensor| borrowed.find(tensor.suffix)).collect());
    let wholes = wholes.map_err(|error| to_py(py, &error))?;
    quick(py, || stored.layout.decode(&wholes, stored.rows, stored.columns, out))
}
