//! `polmrs._core.search`: the indexes of `polmrs-search`, shared by readers and a writer.

use crate::array::{Any, Bits, read, word};
use crate::call::{long, quick};
use crate::error::to_py;
use numpy::{PyArray1, PyArrayDyn};
use polmrs_core::{Ctl, Dtype, Error, dtype};
use polmrs_search::filter::Filter;
use polmrs_search::ids::Ids;
use polmrs_search::index::{self, Hits, Kind, Query, Settings};
use polmrs_search::metric::Metric;
use polmrs_search::shared::Shared;
use pyo3::prelude::*;
use pyo3::types::PyList;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::path::PathBuf;

/// Indexes of vectors and of words.
#[pymodule]
pub(crate) mod search {
    #[pymodule_export]
    use super::Index;
    #[pymodule_export]
    use crate::bm25::{Bm25, split};
}

/// Ids, scores, and where each query's hits begin and end.
pub(crate) type Found<'py> = (Any<'py>, Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<i64>>);

/// Vectors, row after row, and which ids have one.
type Stored<'py> = (Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<bool>>);

/// Bytes of queries from which a search runs on a thread of its own, where Ctrl-C is heard.
const MANY: usize = 4 << 20;

/// An index of vectors.
#[pyclass(frozen)]
pub(crate) struct Index(Shared<index::Index>);

#[pymethods]
impl Index {
    /// `kind` is JSON.
    #[new]
    #[pyo3(signature = (dim, metric, storage, kind))]
    fn new(py: Python<'_>, dim: usize, metric: &str, storage: &str, kind: &str) -> PyResult<Index> {
        let metric = word(py, "metric", metric, &Metric::NAMES)?;
        let storage = word(py, "storage", storage, &STORAGES)?;
        let made = quick(py, || {
            let kind = Kind::from_json(from_json("kind", kind)?)?;
            index::Index::new(Settings { dim, metric, kind, storage })
        });
        Ok(Index(Shared::new(made?)))
    }

    /// Opens a file.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf, mapped: bool, verify: bool) -> PyResult<Index> {
        Ok(Index(Shared::new(long(py, None, |ctl| index::Index::open(&path, mapped, verify, ctl))?)))
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let attach = |index: &mut index::Index, extent| {
            index.attach(&path, extent);
            Ok(())
        };
        long(py, None, |ctl| self.0.change_and_prepare(index::Index::tidy, |index| index.write(&path, ctl), attach))
    }

    fn sync(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        quick(py, || self.0.prepare(index::Index::append, |index, appended| Ok(index.advance(appended))))
    }

    /// Dimension, metric, storage, and kind as JSON.
    fn settings(&self, py: Python<'_>) -> (usize, &'static str, &'static str, String) {
        let settings = py.detach(|| self.0.read().settings());
        let metric = Metric::NAMES.iter().find(|(_, metric)| *metric == settings.metric).map_or("", |(name, _)| name);
        (settings.dim, metric, settings.storage.torch_name(), serde_json::json!(settings.kind).to_string())
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.read().len())
    }

    fn bytes(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.read().bytes())
    }

    /// `metadata` is JSON, a list of objects; `progress(done, total)` counts bytes.
    #[pyo3(signature = (ids, dtype, vectors, metadata, progress))]
    fn add(
        &self,
        py: Python<'_>,
        ids: &Any<'_>,
        dtype: &str,
        vectors: &Any<'_>,
        metadata: Option<&str>,
        progress: Option<&Any<'_>>,
    ) -> PyResult<()> {
        let ids = ids_of(ids)?;
        let vectors = Floats::borrow("vectors", dtype, vectors)?;
        let (dtype, bytes) = vectors.parts();
        let work = |ctl: &Ctl| {
            let metadata = metadata.map_or(Ok(Vec::new()), |text| from_json("metadata", text))?;
            let vectors = wide(dtype, bytes);
            self.0.prepare(
                |index| index.prepare(&ids, &vectors, &metadata, ctl),
                |index, addition| index.commit(addition, ctl),
            )
        };
        let most = if matches!(py.detach(|| self.0.read().settings()).kind, Kind::Hnsw(_) | Kind::Ivf(_)) {
            MANY / 64
        } else {
            MANY
        };
        if bytes.len() >= most || progress.is_some() {
            long(py, progress, work)
        } else {
            quick(py, || work(&Ctl::new()))
        }
    }

    fn delete(&self, py: Python<'_>, ids: &Any<'_>) -> PyResult<usize> {
        let ids = ids_of(ids)?;
        quick(py, || self.0.change(|index| index.delete(&ids)))
    }

    fn delete_where(&self, py: Python<'_>, filter: &str) -> PyResult<usize> {
        quick(py, || {
            let filter = Filter::parse(&from_json("filter", filter)?)?;
            self.0.change(|index| index.delete_where(&filter))
        })
    }

    /// As JSON, a list of an object or null for each id.
    fn metadata(&self, py: Python<'_>, ids: &Any<'_>) -> PyResult<String> {
        let ids = ids_of(ids)?;
        quick(py, || Ok(Json::from_iter(self.0.read().metadata(&ids)?).to_string()))
    }

    /// The stored vectors of those ids that are there, and which those are.
    fn vectors<'py>(&self, py: Python<'py>, ids: &Any<'_>) -> PyResult<Stored<'py>> {
        let ids = ids_of(ids)?;
        let (vectors, there) = quick(py, || {
            let found = self.0.read().vectors(&ids)?;
            let there = found.iter().map(Option::is_some).collect();
            Ok((found.into_iter().flatten().flatten().collect::<Vec<f32>>(), there))
        })?;
        Ok((PyArray1::from_vec(py, vectors), PyArray1::from_vec(py, there)))
    }

    /// `bounds` are the least score, the effort, and whether full vectors are scored.
    #[pyo3(signature = (dtype, queries, k, filter, bounds))]
    fn search<'py>(
        &self,
        py: Python<'py>,
        dtype: &str,
        queries: &Any<'_>,
        k: usize,
        filter: Option<&str>,
        bounds: (Option<f32>, Option<usize>, bool),
    ) -> PyResult<Found<'py>> {
        let queries = Floats::borrow("queries", dtype, queries)?;
        let (dtype, bytes) = queries.parts();
        let (min_score, effort, rescore) = bounds;
        let work = |ctl: &Ctl| {
            let filter = filter.map(|text| Filter::parse(&from_json("filter", text)?)).transpose()?;
            let vectors = wide(dtype, bytes);
            self.0.read().search(
                Query { vectors: &vectors, k, filter: filter.as_ref(), min_score, effort, estimate: !rescore },
                ctl,
            )
        };
        let hits = if bytes.len() >= MANY { long(py, None, work)? } else { quick(py, || work(&Ctl::new()))? };
        found(py, hits)
    }
}

/// Hits as Python sees them.
pub(crate) fn found(py: Python<'_>, hits: Hits) -> PyResult<Found<'_>> {
    let ids = match hits.ids {
        Ids::Numbers(ids) => PyArray1::from_vec(py, ids).into_any(),
        Ids::Texts(ids) => PyList::new(py, ids.iter().map(|id| &**id))?.into_any(),
    };
    Ok((ids, PyArray1::from_vec(py, hits.scores), PyArray1::from_vec(py, hits.offsets)))
}

const STORAGES: [(&str, Dtype); 3] = [("float32", Dtype::F32), ("float16", Dtype::F16), ("bfloat16", Dtype::BF16)];

/// What Python wrote as JSON.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::Usage(format!("{name}: {error}")))
}

/// An int64 array, or a list of strings.
pub(crate) fn ids_of(ids: &Any<'_>) -> PyResult<Ids> {
    if ids.cast::<PyArrayDyn<i64>>().is_ok() {
        return Ok(Ids::Numbers(slice!(read::<i64>("ids", ids)?).to_vec()));
    }
    let texts: Vec<String> = ids.extract()?;
    Ok(Ids::Texts(texts.into_iter().map(String::into_boxed_str).collect()))
}

/// Borrowed floating-point numbers of any type.
struct Floats<'py> {
    dtype: Dtype,
    bits: Bits<'py>,
}

impl<'py> Floats<'py> {
    fn borrow(name: &str, dtype: &str, array: &Any<'py>) -> PyResult<Floats<'py>> {
        let known = Dtype::from_torch_name(dtype).filter(|dtype| dtype.is_float());
        let dtype = known.ok_or_else(|| {
            let rule = "expected an array of a floating-point type";
            to_py(array.py(), &Error::Array(format!("{name}: {rule}, got {dtype}")))
        })?;
        Ok(Floats { dtype, bits: Bits::borrow(name, array, dtype.size())? })
    }

    /// The type, and the elements.
    fn parts(&self) -> (Dtype, &[u8]) {
        (self.dtype, self.bits.bytes())
    }
}

/// Numbers in f32; what is f32 already is not copied.
fn wide(dtype: Dtype, bytes: &[u8]) -> Cow<'_, [f32]> {
    if dtype == Dtype::F32 {
        return Cow::Borrowed(bytemuck::cast_slice(bytes)); // the bytes of four-byte elements, so aligned
    }
    let mut wide = vec![0.0; bytes.len() / dtype.size()];
    dtype::to_f32(dtype, bytes, &mut wide);
    Cow::Owned(wide)
}
