//! Merging from Python: folders by configuration, and state dicts in memory.

use crate::array::{Bits, Exclusive};
use crate::call::long;
use crate::error::to_py;
use numpy::{Element, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use polmrs_core::{Dtype, Error, Result, pool};
use polmrs_engine::Options;
use polmrs_engine::sink::MemorySink;
use polmrs_engine::source::{MemorySource, Meta, Source};
use polmrs_io::yaml::{self, Node};
use polmrs_merge::chain::Chain;
use polmrs_merge::config::Config;
use polmrs_merge::extra::{Call, Extra, Function, FunctionExtent};
use polmrs_merge::program::{self, Opened};
use polmrs_merge::run::Settings;
use polmrs_model::build;
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// A tensor as it crosses: its name, its type's torch name, its elements as unsigned integers.
type Named<'py> = (String, String, Bound<'py, PyAny>);

/// Merging.
#[pymodule(submodule)]
pub(crate) mod merge {
    #[pymodule_export]
    use super::{merge_arrays, merge_folder, plan_folder};
    #[pymodule_export]
    use crate::soup::{greedy_recipe, soup_folder};
    #[pymodule_export]
    use crate::sweep::sweep_folder;
}

/// Merges model folders; gives the report as JSON.
#[pyfunction]
#[pyo3(signature = (
    config, origin, to, *, function, threads, shard_size, seed, overwrite, resume, sync_every, verify, report,
    max_memory, allow_nonfinite, progress,
))]
#[allow(clippy::too_many_arguments, reason = "one Python call, keywords only")]
fn merge_folder(
    py: Python<'_>,
    config: &str,
    origin: &str,
    to: PathBuf,
    function: Option<Custom>,
    threads: Option<usize>,
    shard_size: u64,
    seed: u64,
    overwrite: bool,
    resume: bool,
    sync_every: u64,
    verify: bool,
    report: bool,
    max_memory: Option<u64>,
    allow_nonfinite: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<String> {
    let (function, raised) = wrapped(function)?;
    let threads = if function.is_some() { Some(1) } else { threads };
    let done = long(py, progress.as_ref(), |ctl| {
        let planned = settings(threads, shard_size, seed, max_memory)?;
        let build = build::Settings { overwrite, resume, sync_every, verify, report, allow_nonfinite, ..planned.build };
        let settings = Settings { build, ..planned };
        let chain = Chain::new(&yaml::parse(config, origin)?, settings, function)?;
        Ok(chain.run(&to, ctl)?.to_string())
    });
    raised.instead_of(done)
}

/// Plans a merge of model folders from headers alone; gives the plan as JSON.
#[pyfunction]
#[pyo3(signature = (config, origin, *, function, threads, shard_size, seed, max_memory))]
#[allow(clippy::too_many_arguments, reason = "one Python call, keywords only")]
fn plan_folder(
    py: Python<'_>,
    config: &str,
    origin: &str,
    function: Option<Custom>,
    threads: Option<usize>,
    shard_size: u64,
    seed: u64,
    max_memory: Option<u64>,
) -> PyResult<String> {
    let (function, _) = wrapped(function)?;
    let threads = if function.is_some() { Some(1) } else { threads };
    long(py, None, |_| {
        // A model on the Hub may keep it waiting.
        let settings = settings(threads, shard_size, seed, max_memory)?;
        let chain = Chain::new(&yaml::parse(config, origin)?, settings, function)?;
        Ok(chain.describe()?.to_string())
    })
}

/// Merges state dicts, given in the order of the configuration's models.
#[pyfunction]
#[pyo3(signature = (config, models, *, function, threads, seed, max_memory, allow_nonfinite, progress))]
#[allow(clippy::too_many_arguments, reason = "one Python call, keywords only")]
fn merge_arrays<'py>(
    py: Python<'py>,
    config: &str,
    models: Vec<(String, Vec<Named<'py>>)>,
    function: Option<Custom>,
    threads: Option<usize>,
    seed: u64,
    max_memory: Option<u64>,
    allow_nonfinite: bool,
    progress: Option<Bound<'py, PyAny>>,
) -> PyResult<Vec<Named<'py>>> {
    let fail = |error: Error| to_py(py, &error);
    let mut borrowed = Vec::new();
    for (model, tensors) in &models {
        let mut arrays = Vec::new();
        for (name, dtype, array) in tensors {
            let dtype = known(dtype).map_err(fail)?;
            let bits = Bits::borrow(&format!("{model}['{name}']"), array, dtype.size())?;
            arrays.push((Meta { name: name.clone(), dtype, shape: bits.shape() }, bits));
        }
        borrowed.push((model, arrays));
    }
    let mut sources = Vec::new();
    for (model, arrays) in &borrowed {
        let slices = arrays.iter().map(|(meta, bits)| (meta.clone(), bits.bytes())).collect();
        sources.push(MemorySource::new(model.as_str(), slices).map_err(fail)?);
    }
    let (function, raised) = wrapped(function)?;
    let threads = if function.is_some() { Some(1) } else { threads };
    let mut extra = Extra::with(function);
    let plan = decode(config).and_then(|node| {
        let opened: Vec<Opened<'_>> = sources.iter().map(|source| Opened { source, tied: false }).collect();
        program::plan(&Config::decode(&node, false)?, &opened, seed, &mut extra)
    });
    let plan = plan.map_err(fail)?;
    let mut outputs = Vec::new();
    for meta in &plan.outputs {
        outputs.push(zeros(py, meta)?);
    }
    let mut exclusive = outputs.iter().map(|array| Exclusive::borrow("output", array)).collect::<PyResult<Vec<_>>>()?;
    let sink = MemorySink::new(exclusive.iter_mut().map(Exclusive::bytes).collect());
    let threads = threads.map_or_else(pool::default_threads, Ok).map_err(fail)?;
    let done = long(py, progress.as_ref(), |ctl| {
        let models = sources.iter().map(|source| source as &dyn Source);
        let sources: Vec<&dyn Source> = models.chain(extra.sources()).collect();
        let options = Options { threads, allow_nonfinite, max_memory, ..Options::default() };
        polmrs_engine::run(&sources, &plan, &sink, options, ctl)
    });
    raised.instead_of(done)?;
    drop(sink);
    drop(exclusive);
    let named = plan.outputs.iter().zip(outputs);
    Ok(named.map(|(meta, array)| (meta.name.clone(), meta.dtype.torch_name().into(), array)).collect())
}

/// A function of Python's, and how much of a tensor it sees: `elements`, `rows` or `tensor`.
type Custom = (String, Py<PyAny>);

/// The exception that a caller's function has raised.
#[derive(Clone, Default)]
pub(crate) struct Raised(Arc<Mutex<Option<PyErr>>>);

impl Raised {
    pub(crate) fn set(&self, error: PyErr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// The exception itself, in place of the error that it stopped the work with.
    pub(crate) fn instead_of<T>(&self, result: PyResult<T>) -> PyResult<T> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(raised) => Err(raised),
            None => result,
        }
    }
}

/// A caller's function as the engine calls it, and where its exceptions go.
fn wrapped(custom: Option<Custom>) -> PyResult<(Option<Function>, Raised)> {
    let raised = Raised::default();
    let Some((grain, function)) = custom else { return Ok((None, raised)) };
    let extent = match grain.as_str() {
        "rows" => FunctionExtent::Rows,
        "tensor" => FunctionExtent::Tensor,
        _ => FunctionExtent::Elements,
    };
    let slot = raised.clone();
    let compute = move |call: &Call<'_>, out: &mut [f32]| {
        Python::attach(|py| {
            called(py, &function, call, out).map_err(|error| {
                let note = format!("in polmrs.merge.Custom, at tensor '{}'", call.tensor);
                let noted = error.value(py).call_method1("add_note", (note,));
                slot.set(noted.map_or_else(|failed| failed, |_| error));
                Error::Internal("the caller's function raised an exception".into())
            })
        })
    };
    Ok((Some(Function { extent, compute: Arc::new(compute) }), raised))
}

/// Calls `function(name, base, models)` with fresh arrays, and takes over its result.
fn called(py: Python<'_>, function: &Py<PyAny>, call: &Call<'_>, out: &mut [f32]) -> PyResult<()> {
    let array = |values: &[f32]| {
        let array = PyArrayDyn::<f32>::zeros(py, call.shape.as_slice(), false);
        array.readwrite().as_slice_mut().map_err(PyErr::from)?.copy_from_slice(values);
        Ok::<_, PyErr>(array)
    };
    let base = call.base.map(array).transpose()?;
    let models = call.models.iter().map(|model| array(model)).collect::<PyResult<Vec<_>>>()?;
    let result = function.call1(py, (call.tensor, base, PyList::new(py, models)?))?;
    let numpy = py.import("numpy")?;
    let result = numpy.call_method1("ascontiguousarray", (result, "float32"))?;
    let result = result.cast::<PyArrayDyn<f32>>().map_err(PyErr::from)?;
    if result.shape() != call.shape.as_slice() {
        let (shape, wanted) = (result.shape(), &call.shape);
        let message = format!("custom: the function gave an array of shape {shape:?}, not {wanted:?}");
        return Err(to_py(py, &Error::Array(message)));
    }
    out.copy_from_slice(result.readonly().as_slice().map_err(PyErr::from)?);
    Ok(())
}

pub(crate) fn settings(
    threads: Option<usize>,
    shard_size: u64,
    seed: u64,
    max_memory: Option<u64>,
) -> Result<Settings> {
    let threads = threads.map_or_else(pool::default_threads, Ok)?;
    let build = build::Settings { threads, shard_size, max_memory, ..build::Settings::default() };
    Ok(Settings { build, seed, ..Settings::default() })
}

fn decode(config: &str) -> Result<Node> {
    yaml::parse_one(config, "merge")
}

pub(crate) fn known(name: &str) -> Result<Dtype> {
    Dtype::from_torch_name(name).ok_or_else(|| Error::Array(format!("dtype: '{name}' is not one that polmrs knows")))
}

/// A fresh array of zeros for an output tensor.
fn zeros<'py>(py: Python<'py>, meta: &Meta) -> PyResult<Bound<'py, PyAny>> {
    fn of<'py, T: Element>(py: Python<'py>, shape: &[usize]) -> Bound<'py, PyAny> {
        PyArrayDyn::<T>::zeros(py, shape, false).into_any()
    }
    let shape: Vec<usize> = meta.shape.iter().map(|size| *size as usize).collect();
    Ok(match meta.dtype.size() {
        1 => of::<u8>(py, &shape),
        2 => of::<u16>(py, &shape),
        4 => of::<u32>(py, &shape),
        _ => of::<u64>(py, &shape),
    })
}
