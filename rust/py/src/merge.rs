//! Merging from Python: folders by configuration, and state dicts in memory.

use crate::array::{Bits, Exclusive};
use crate::call::{long, quick};
use crate::error::to_py;
use numpy::{Element, PyArrayDyn};
use polmrs_core::{Dtype, Error, Result, pool};
use polmrs_engine::Options;
use polmrs_engine::sink::MemorySink;
use polmrs_engine::source::{MemorySource, Meta, Source};
use polmrs_io::yaml::{self, Node};
use polmrs_merge::config::Config;
use polmrs_merge::program::{self, Opened};
use polmrs_merge::run::{Prepared, Settings};
use pyo3::prelude::*;
use std::path::PathBuf;

/// A tensor as it crosses: its name, its type's torch name, its elements as unsigned integers.
type Named<'py> = (String, String, Bound<'py, PyAny>);

/// Merging.
#[pymodule(submodule)]
pub(crate) mod merge {
    #[pymodule_export]
    use super::{merge_arrays, merge_folder, plan_folder};
}

/// Merges model folders; gives the report as JSON.
#[pyfunction]
#[pyo3(signature = (config, origin, to, *, threads, shard_size, seed, overwrite, allow_nonfinite, progress))]
#[allow(clippy::too_many_arguments, reason = "one Python call, keywords only")]
fn merge_folder(
    py: Python<'_>,
    config: &str,
    origin: &str,
    to: PathBuf,
    threads: Option<usize>,
    shard_size: u64,
    seed: u64,
    overwrite: bool,
    allow_nonfinite: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<String> {
    long(py, progress.as_ref(), |ctl| {
        let settings = Settings { overwrite, allow_nonfinite, ..settings(threads, shard_size, seed)? };
        let report = Prepared::new(&yaml::parse_one(config, origin)?, settings)?.run(&to, ctl)?;
        Ok(report.to_string())
    })
}

/// Plans a merge of model folders from headers alone; gives the plan as JSON.
#[pyfunction]
#[pyo3(signature = (config, origin, *, threads, shard_size, seed))]
fn plan_folder(
    py: Python<'_>,
    config: &str,
    origin: &str,
    threads: Option<usize>,
    shard_size: u64,
    seed: u64,
) -> PyResult<String> {
    quick(py, || {
        let settings = settings(threads, shard_size, seed)?;
        Ok(Prepared::new(&yaml::parse_one(config, origin)?, settings)?.describe().to_string())
    })
}

/// Merges state dicts, given in the order of the configuration's models.
#[pyfunction]
#[pyo3(signature = (config, models, *, threads, seed, allow_nonfinite, progress))]
fn merge_arrays<'py>(
    py: Python<'py>,
    config: &str,
    models: Vec<(String, Vec<Named<'py>>)>,
    threads: Option<usize>,
    seed: u64,
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
    let plan = decode(config).and_then(|node| {
        let opened: Vec<Opened<'_>> = sources.iter().map(|source| Opened { source, tied: false }).collect();
        program::plan(&Config::decode(&node, false)?, &opened, seed)
    });
    let plan = plan.map_err(fail)?;
    let mut outputs = Vec::new();
    for meta in &plan.outputs {
        outputs.push(zeros(py, meta)?);
    }
    let mut exclusive = outputs.iter().map(|array| Exclusive::borrow("output", array)).collect::<PyResult<Vec<_>>>()?;
    let sink = MemorySink::new(exclusive.iter_mut().map(Exclusive::bytes).collect());
    let threads = threads.map_or_else(pool::default_threads, Ok).map_err(fail)?;
    long(py, progress.as_ref(), |ctl| {
        let sources: Vec<&dyn Source> = sources.iter().map(|source| source as &dyn Source).collect();
        polmrs_engine::run(&sources, &plan, &sink, Options { threads, allow_nonfinite }, ctl)
    })?;
    drop(sink);
    drop(exclusive);
    let named = plan.outputs.iter().zip(outputs);
    Ok(named.map(|(meta, array)| (meta.name.clone(), meta.dtype.torch_name().into(), array)).collect())
}

fn settings(threads: Option<usize>, shard_size: u64, seed: u64) -> Result<Settings> {
    let threads = threads.map_or_else(pool::default_threads, Ok)?;
    Ok(Settings { threads, shard_size, seed, overwrite: false, allow_nonfinite: false, lenient: false })
}

fn decode(config: &str) -> Result<Node> {
    yaml::parse_one(config, "merge")
}

fn known(name: &str) -> Result<Dtype> {
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
