//! ROUGE-L, near-duplicates and contamination, on lists of texts or rows of tokens.

use crate::array::{Any, ragged, read, word};
use crate::call::{long, quick};
use crate::error::to_py;
use numpy::{PyArray1, PyUntypedArrayMethods};
use polmrs_batch::clusters::{self, Search};
use polmrs_batch::contamination::Check;
use polmrs_batch::novel::novel as filter;
use polmrs_batch::parallel;
use polmrs_batch::porter;
use polmrs_batch::rouge::{Pattern, Score, Vocabulary};
use polmrs_batch::shingles::shingles;
use polmrs_batch::words::{Unit, hashes, token_hashes, words as words_of};
use polmrs_core::ragged::{Ragged, same_length};
use polmrs_core::{Ctl, Error, Result};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

/// Texts as Python holds them, not copied.
type Texts = Vec<PyBackedStr>;
/// Flat floats.
type Floats<'py> = Bound<'py, PyArray1<f64>>;
/// Flat integers of 64 bits.
type Longs<'py> = Bound<'py, PyArray1<i64>>;

/// The stem of a word.
#[pyfunction]
pub(crate) fn porter_stem(py: Python<'_>, word: &str) -> PyResult<String> {
    let word = word.to_lowercase();
    if word.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(porter::stem(&word));
    }
    Err(to_py(py, &Error::Usage(format!("word: '{word}' has more than ASCII letters and digits"))))
}

fn columns(py: Python<'_>, scores: Vec<Score>) -> (Floats<'_>, Floats<'_>, Floats<'_>) {
    let column = |of: fn(&Score) -> f64| PyArray1::from_vec(py, scores.iter().map(of).collect());
    (column(|score| score.precision), column(|score| score.recall), column(|score| score.fmeasure))
}

/// Scores of predictions and references, pair by pair.
#[pyfunction]
pub(crate) fn rouge_l<'py>(
    py: Python<'py>,
    predictions: Texts,
    references: Texts,
    stemmer: bool,
) -> PyResult<(Floats<'py>, Floats<'py>, Floats<'py>)> {
    let scores = long(py, None, |ctl| {
        same_length("references", references.len(), "predictions", predictions.len())?;
        let one = |i: usize| {
            let mut vocabulary = Vocabulary::default();
            let (a, b) = (vocabulary.number(&predictions[i], stemmer), vocabulary.number(&references[i], stemmer));
            let mut pattern = Pattern::new(vocabulary.len());
            pattern.set(&a);
            pattern.score(&b)
        };
        parallel::map(predictions.len(), ctl, one)
    })?;
    Ok(columns(py, scores))
}

/// Scores of one candidate, as the prediction, with every text of a pool.
#[pyfunction]
pub(crate) fn rouge_l_pool<'py>(
    py: Python<'py>,
    candidate: &str,
    pool: Texts,
    stemmer: bool,
) -> PyResult<(Floats<'py>, Floats<'py>, Floats<'py>)> {
    let scores = long(py, None, |ctl| {
        let mut vocabulary = Vocabulary::default();
        let texts: Vec<Vec<u32>> = std::iter::once(candidate)
            .chain(pool.iter().map(|text| &**text))
            .map(|text| vocabulary.number(text, stemmer))
            .collect();
        let mut pattern = Pattern::new(vocabulary.len());
        pattern.set(&texts[0]);
        let score = |text: &Vec<u32>| ctl.check().map(|()| pattern.score(text));
        texts[1..].iter().map(score).collect::<Result<Vec<Score>>>()
    })?;
    Ok(columns(py, scores))
}

/// The pool filter: partner and score of each candidate, and the pairs compared.
#[pyfunction]
#[pyo3(signature = (candidates, pool, threshold, stemmer, prune, progress))]
pub(crate) fn novel<'py>(
    py: Python<'py>,
    candidates: Texts,
    pool: Texts,
    threshold: f64,
    stemmer: bool,
    prune: bool,
    progress: Option<Any<'py>>,
) -> PyResult<(Longs<'py>, Floats<'py>, u64)> {
    let verdicts = long(py, progress.as_ref(), |ctl| filter(&pool, &candidates, threshold, stemmer, prune, ctl))?;
    Ok((PyArray1::from_vec(py, verdicts.partner), PyArray1::from_vec(py, verdicts.score), verdicts.compared))
}

/// What documents are made of.
enum Documents<'a> {
    Texts(Texts, Unit),
    Rows(&'a [i32], Ragged),
}

impl Documents<'_> {
    fn hashes(&self, ctl: &Ctl) -> Result<Vec<Vec<u64>>> {
        self.map(ctl, |hashes| hashes)
    }

    fn map<R: Send>(&self, ctl: &Ctl, of: impl Fn(Vec<u64>) -> R + Sync + Send) -> Result<Vec<R>> {
        match self {
            Documents::Texts(texts, unit) => parallel::map(texts.len(), ctl, |i| of(hashes(&texts[i], *unit))),
            Documents::Rows(ids, rows) => {
                parallel::map(rows.sequences(), ctl, |i| of(token_hashes(&ids[rows.range(i)])))
            }
        }
    }
}

/// Reads documents: a list of texts, or a pair of flat int32 ids and offsets.
macro_rules! documents {
    ($name:ident, $py:expr, $given:expr, $unit:expr) => {
        let pair = $given.extract::<(Any<'_>, Any<'_>)>();
        let ids = match &pair {
            Ok((ids, _)) => Some(read::<i32>("ids", ids)?),
            Err(_) => None,
        };
        let $name = match (&pair, &ids) {
            (Ok((_, offsets)), Some(ids)) => Documents::Rows(slice!(ids), ragged(offsets, ids.len(), "ids")?),
            _ => Documents::Texts($given.extract::<Texts>()?, unit_of($py, $unit)?),
        };
    };
}

fn unit_of(py: Python<'_>, value: &str) -> PyResult<Unit> {
    word(py, "unit", value, &[("word", Unit::Word), ("char", Unit::Char)])
}

/// How near-duplicates are searched: the method, its functions, its recall, its seed.
type Asked<'a> = (&'a str, usize, f64, u64);

fn search_of(py: Python<'_>, (method, functions, recall, seed): Asked<'_>) -> PyResult<Search> {
    let minhash = Search::MinHash { functions, recall, seed };
    word(py, "method", method, &[("minhash", minhash), ("exact", Search::Exact)])
}

/// Clusters of near-duplicates: the first of each document's cluster, the Jaccard index with it, clusters, wordless.
#[pyfunction]
#[pyo3(signature = (documents, unit, n, threshold, search))]
pub(crate) fn near_duplicates<'py>(
    py: Python<'py>,
    documents: &Any<'py>,
    unit: &str,
    n: usize,
    threshold: f64,
    search: (String, usize, f64, u64),
) -> PyResult<(Longs<'py>, Floats<'py>, usize, usize)> {
    let search = search_of(py, (&search.0, search.1, search.2, search.3))?;
    documents!(source, py, documents, unit);
    let found = long(py, None, |ctl| {
        let sets = source.map(ctl, |words| shingles(&words, n))?;
        clusters::clusters(&sets, threshold, search, ctl)
    })?;
    let (first, jaccard) = (PyArray1::from_vec(py, found.first), PyArray1::from_vec(py, found.jaccard));
    Ok((first, jaccard, found.clusters, found.wordless))
}

/// Pairs of near-duplicates: earlier, later, Jaccard index.
#[pyfunction]
#[pyo3(signature = (documents, unit, n, threshold, search))]
pub(crate) fn near_pairs<'py>(
    py: Python<'py>,
    documents: &Any<'py>,
    unit: &str,
    n: usize,
    threshold: f64,
    search: (String, usize, f64, u64),
) -> PyResult<(Longs<'py>, Longs<'py>, Floats<'py>)> {
    let search = search_of(py, (&search.0, search.1, search.2, search.3))?;
    documents!(source, py, documents, unit);
    let found = long(py, None, |ctl| {
        let sets = source.map(ctl, |words| shingles(&words, n))?;
        clusters::pairs(&sets, threshold, search, ctl)
    })?;
    Ok((
        PyArray1::from_vec(py, found.iter().map(|pair| i64::from(pair.a)).collect()),
        PyArray1::from_vec(py, found.iter().map(|pair| i64::from(pair.b)).collect()),
        PyArray1::from_vec(py, found.iter().map(|pair| pair.jaccard).collect()),
    ))
}

/// A match: training document, test item, first word in each, words.
type Matched = (usize, usize, usize, usize, usize);

/// What a training set shares with test items: matches, items skipped, n-grams passed over.
#[pyfunction]
#[pyo3(signature = (train, tests, unit, n, least, common))]
pub(crate) fn contamination<'py>(
    py: Python<'py>,
    train: &Any<'py>,
    tests: &Any<'py>,
    unit: &str,
    n: usize,
    least: usize,
    common: Option<usize>,
) -> PyResult<(Vec<Matched>, Vec<usize>, usize)> {
    documents!(train, py, train, unit);
    documents!(tests, py, tests, unit);
    let check = Check { n, least, common };
    let found = long(py, None, |ctl| check.run(&train.hashes(ctl)?, &tests.hashes(ctl)?, ctl))?;
    let matches = found.matches.iter().map(|m| (m.train, m.test, m.train_word, m.test_word, m.words)).collect();
    Ok((matches, found.skipped, found.passed_over))
}

/// The words of a text: begin and end of each, in characters.
#[pyfunction]
pub(crate) fn words(py: Python<'_>, text: &str, unit: &str) -> PyResult<Vec<(usize, usize)>> {
    let unit = unit_of(py, unit)?;
    quick(py, || {
        let mut places = Vec::new();
        let (mut byte, mut character) = (0, 0);
        for word in words_of(text, unit) {
            character += text[byte..word.at.start].chars().count();
            let length = text[word.at.clone()].chars().count();
            places.push((character, character + length));
            (byte, character) = (word.at.end, character + length);
        }
        Ok(places)
    })
}
