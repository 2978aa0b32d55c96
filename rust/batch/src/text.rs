//! Token rows straight from text, by the `tokenizer.json` of a model (feature `text`).
//!
//! Of the `tokenizers` crate only the encoder of one text is called, on our own pool: the crate's parallelism lives on a
//! pool that does not survive `fork`. What the file says about cutting and padding is not obeyed: nothing is cut.

use crate::parallel;
use crate::store::Writer;
use polmrs_core::{Ctl, Error, Result};
use std::path::Path;
use tokenizers::models::ModelWrapper;

/// Bytes of text that are tokenized before their rows are written.
const BATCH: u64 = 16 << 20;

/// What becomes of a text beside its own tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Add the special tokens of the tokenizer's template, `[CLS]` and `[SEP]` say.
    pub special_tokens: bool,
    /// A token of the vocabulary that ends every row.
    pub eos: Option<String>,
    /// The most tokens of a row; a longer one is an error. None: rows of any length.
    pub max_length: Option<usize>,
}

/// An open tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special_tokens: bool,
    eos: Option<i32>,
    max_length: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, or the one in a folder.
    ///
    /// # Errors
    /// [`Error::Usage`] for a `max_length` of 0; [`Error::NotFound`], [`Error::Io`]; [`Error::Config`] if it is no
    /// tokenizer, draws at random (BPE dropout), or does not know `eos`.
    pub fn open(path: &Path, settings: &Settings) -> Result<Tokenizer> {
        if settings.max_length == Some(0) {
            return Err(Error::Usage("max_length: 0 is not 1 or more".into()));
        }
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        let wrong = |what: String| Error::Config(format!("{}: {what}", file.display()));
        let bytes = std::fs::read(&file).map_err(Error::io(&file, "read"))?;
        let mut inner =
            tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| wrong(format!("not a tokenizer: {error}")))?;
        inner.with_truncation(None).map_err(|error| wrong(error.to_string()))?;
        inner.with_padding(None);
        if let ModelWrapper::BPE(model) = inner.get_model()
            && let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0)
        {
            return Err(wrong(format!("model.dropout: {dropout} is not 0; the same text must give the same tokens")));
        }
        let eos = match &settings.eos {
            Some(token) => {
                let id = inner.token_to_id(token);
                Some(narrow(id.ok_or_else(|| wrong(format!("eos: '{token}' is not in the vocabulary")))?)?)
            }
            None => None,
        };
        let max_length = settings.max_length.unwrap_or(usize::MAX);
        Ok(Tokenizer { inner, special_tokens: settings.special_tokens, eos, max_length })
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// [`Error::Config`] if there are more than `max_length`, or the model refuses the text.
    pub fn row(&self, text: &str) -> Result<Vec<i32>> {
        let encoded = self.inner.encode_fast(text, self.special_tokens);
        let encoded = encoded.map_err(|error| Error::Config(format!("cannot be tokenized: {error}")))?;
        let ids = encoded.get_ids().iter().map(|id| narrow(*id));
        let row: Vec<i32> = ids.chain(self.eos.map(Ok)).collect::<Result<_>>()?;
        if row.len() > self.max_length {
            let (have, most) = (row.len(), self.max_length);
            return Err(Error::Config(format!("{have} tokens, more than max_length, {most}; nothing is cut")));
        }
        Ok(row)
    }
}

fn narrow(id: u32) -> Result<i32> {
    i32::try_from(id).map_err(|_| Error::Config(format!("token id {id} is not below 2^31")))
}

/// `row(i)` for every `i < n`, in parallel: flat ids and offsets. The first error in the order of rows is the answer.
pub fn rows(
    n: usize,
    ctl: &Ctl,
    row: impl Fn(usize) -> Result<Vec<i32>> + Sync + Send,
) -> Result<(Vec<i32>, Vec<i64>)> {
    let mut ids = Vec::new();
    let mut offsets = Vec::with_capacity(n + 1);
    offsets.push(0);
    for row in parallel::bands(n, ctl, row)? {
        ids.extend(row?);
        offsets.push(ids.len() as i64);
    }
    Ok((ids, offsets))
}

/// Writes the same rows to a store, a bounded number of bytes at a time; `size(i)` bytes of text become row `i`.
pub fn write(
    writer: &mut Writer,
    n: usize,
    size: impl Fn(usize) -> u64,
    row: impl Fn(usize) -> Result<Vec<i32>> + Sync + Send,
    ctl: &Ctl,
) -> Result<()> {
    let mut first = 0;
    while first < n {
        let (mut end, mut bytes) = (first, 0);
        while end < n && bytes < BATCH {
            bytes += size(end);
            end += 1;
        }
        let (ids, offsets) = rows(end - first, ctl, |i| row(first + i))?;
        writer.push_rows(&ids, &offsets, None)?;
        ctl.advance(bytes);
        first = end;
    }
    Ok(())
}
