//! `polmrs._core.search.Bm25`: an index of words, shared by readers and a writer.

use crate::array::{Any, word};
use crate::call::{long, quick};
use crate::search::{Found, found, from_json, ids_of};
use polmrs_core::Ctl;
use polmrs_search::bm25::{self, Formula, Query, Splitter, Texts, Variant};
use polmrs_search::filter::Filter;
use polmrs_search::shared::Shared;
use pyo3::prelude::*;
use serde_json::Value as Json;
use std::path::PathBuf;

/// An index of words.
#[pyclass(frozen)]
pub(crate) struct Bm25(Shared<bm25::Bm25>);

/// Variant, k1, b, delta, stopwords and note.
type Settings = (&'static str, f64, f64, f64, Vec<String>, String);

/// Texts from which a call runs on a thread of its own, where Ctrl-C is heard.
const MANY: usize = 1024;

#[pymethods]
impl Bm25 {
    #[new]
    fn new(
        py: Python<'_>,
        variant: &str,
        k1: f64,
        b: f64,
        delta: f64,
        stopwords: Vec<String>,
        note: String,
    ) -> PyResult<Bm25> {
        let formula = Formula { variant: word(py, "variant", variant, &Variant::NAMES)?, k1, b, delta };
        let stopwords = stopwords.into_iter().map(String::into_boxed_str).collect();
        Ok(Bm25(Shared::new(quick(py, || bm25::Bm25::new(formula, Splitter { stopwords }, note))?)))
    }

    /// Opens a file.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf, mapped: bool, verify: bool) -> PyResult<Bm25> {
        Ok(Bm25(Shared::new(long(py, None, |_| bm25::Bm25::open(&path, mapped, verify))?)))
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let tidy = |index: &mut bm25::Bm25| {
            index.tidy();
            Ok(())
        };
        let attach = |index: &mut bm25::Bm25, extent| {
            index.attach(&path, extent);
            Ok(())
        };
        long(py, None, |ctl| self.0.change_and_prepare(tidy, |index| index.write(&path, ctl), attach))
    }

    fn sync(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        quick(py, || self.0.prepare(bm25::Bm25::append, |index, appended| Ok(index.advance(appended))))
    }

    fn settings(&self, py: Python<'_>) -> Settings {
        py.detach(|| {
            let index = self.0.read();
            let Formula { variant, k1, b, delta } = index.formula();
            let name = Variant::NAMES.iter().find(|(_, known)| *known == variant).map_or("", |(name, _)| name);
            let stopwords = index.splitter().stopwords.iter().map(|word| word.to_string()).collect();
            (name, k1, b, delta, stopwords, index.note().to_owned())
        })
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.read().len())
    }

    /// `texts` are strings, or lists of words; `metadata` is JSON, a list of objects.
    #[pyo3(signature = (ids, texts, metadata))]
    fn add(&self, py: Python<'_>, ids: &Any<'_>, texts: &Any<'_>, metadata: Option<&str>) -> PyResult<()> {
        let (ids, texts) = (ids_of(ids)?, texts_of(texts)?);
        let work = |ctl: &Ctl| {
            let metadata = metadata.map_or(Ok(Vec::new()), |text| from_json("metadata", text))?;
            self.0.prepare(|index| index.prepare(&ids, &texts, &metadata, ctl), bm25::Bm25::commit)
        };
        if texts.len() >= MANY { long(py, None, work) } else { quick(py, || work(&Ctl::new())) }
    }

    fn delete(&self, py: Python<'_>, ids: &Any<'_>) -> PyResult<usize> {
        let ids = ids_of(ids)?;
        quick(py, || self.0.change(|index| index.delete(&ids)))
    }

    fn delete_where(&self, py: Python<'_>, filter: &str) -> PyResult<usize> {
        quick(py, || {
            let filter = Filter::parse(&from_json("filter", filter)?)?;
            Ok(self.0.change(|index| index.delete_where(&filter)))
        })
    }

    /// As JSON, a list of an object or null for each id.
    fn metadata(&self, py: Python<'_>, ids: &Any<'_>) -> PyResult<String> {
        let ids = ids_of(ids)?;
        quick(py, || Ok(Json::from_iter(self.0.read().metadata(&ids)?).to_string()))
    }

    #[pyo3(signature = (texts, k, filter, min_score))]
    fn search<'py>(
        &self,
        py: Python<'py>,
        texts: &Any<'_>,
        k: usize,
        filter: Option<&str>,
        min_score: Option<f32>,
    ) -> PyResult<Found<'py>> {
        let texts = texts_of(texts)?;
        let work = |ctl: &Ctl| {
            let filter = filter.map(|text| Filter::parse(&from_json("filter", text)?)).transpose()?;
            self.0.read().search(Query { texts: &texts, k, filter: filter.as_ref(), min_score }, ctl)
        };
        let hits = if texts.len() >= MANY { long(py, None, work)? } else { quick(py, || work(&Ctl::new()))? };
        found(py, hits)
    }

    /// Bytes, words, and different words.
    fn stats(&self, py: Python<'_>) -> (usize, u64, usize) {
        py.detach(|| {
            let index = self.0.read();
            let (words, different) = index.counts();
            (index.bytes(), words, different)
        })
    }
}

fn texts_of(texts: &Any<'_>) -> PyResult<Texts> {
    match texts.extract() {
        Ok(plain) => Ok(Texts::Plain(plain)),
        Err(_) => Ok(Texts::Split(texts.extract()?)),
    }
}

/// A text as words, as an index splits it.
#[pyfunction]
pub(crate) fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    Splitter::default().split(text, |word| words.push(word.to_owned()));
    words
}
