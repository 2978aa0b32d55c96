//! Documents from a file: JSON Lines, text with one document a line, or a token store. Held in memory, or mapped.

use super::write_whole;
use crate::args::data::Format;
use polmrs_batch::parallel;
use polmrs_batch::store::{Store, Writer};
#[cfg(feature = "text")]
use polmrs_batch::text::{self, Tokenizer};
use polmrs_batch::words::{self, Unit};
use polmrs_core::{Ctl, Error, Result};
use serde_json::Value as Json;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An open input.
pub(super) struct Input {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Lines { bytes: Vec<u8>, lines: Vec<Line>, json: bool },
    Tokens(Store),
}

/// A line that is not blank.
struct Line {
    number: usize,
    at: Range<usize>, // with the line break
}

impl Input {
    /// Opens a file; its format follows from its first bytes and its name, unless it is given.
    pub(super) fn open(path: &Path, format: Option<Format>) -> Result<Input> {
        let format = match format {
            Some(format) => format,
            None => guess(path)?,
        };
        let kind = match format {
            Format::Tokens => Kind::Tokens(Store::open(path)?),
            Format::Jsonl | Format::Text => {
                let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
                let mut lines = Vec::new();
                let mut start = 0;
                for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
                    if !line.trim_ascii().is_empty() {
                        lines.push(Line { number: number + 1, at: start..start + line.len() });
                    }
                    start += line.len();
                }
                Kind::Lines { bytes, lines, json: format == Format::Jsonl }
            }
        };
        Ok(Input { path: path.to_path_buf(), kind })
    }

    /// How many documents there are.
    pub(super) fn len(&self) -> usize {
        match &self.kind {
            Kind::Lines { lines, .. } => lines.len(),
            Kind::Tokens(store) => store.layout().rows,
        }
    }

    /// Where a document stands: its line from 1, or its row from 0.
    pub(super) fn place(&self, document: usize) -> usize {
        match &self.kind {
            Kind::Lines { lines, .. } => lines[document].number,
            Kind::Tokens(_) => document,
        }
    }

    /// What [`Input::place`] counts.
    pub(super) fn places(&self) -> &'static str {
        match &self.kind {
            Kind::Lines { .. } => "line",
            Kind::Tokens(_) => "row",
        }
    }

    /// The name of the file, as it was given.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Every document as text.
    pub(super) fn texts(&self, field: &str, ctl: &Ctl) -> Result<Vec<String>> {
        if let Kind::Tokens(_) = self.kind {
            return Err(Error::Usage(format!("{}: token rows are no text", self.path.display())));
        }
        self.map(ctl, |document| self.text(document, field))
    }

    /// Every document as hashes of its words, or of its tokens.
    pub(super) fn hashes(&self, field: &str, unit: Unit, ctl: &Ctl) -> Result<Vec<Vec<u64>>> {
        self.map(ctl, |document| match &self.kind {
            Kind::Tokens(store) => Ok(words::token_hashes(store.row(document))),
            Kind::Lines { .. } => Ok(words::hashes(&self.text(document, field)?, unit)),
        })
    }

    /// The tokens of every document: rows of a store, or arrays in a field.
    pub(super) fn lengths(&self, field: &str, ctl: &Ctl) -> Result<Vec<i64>> {
        self.map(ctl, |document| match &self.kind {
            Kind::Tokens(store) => Ok(store.offsets()[document + 1] - store.offsets()[document]),
            Kind::Lines { json: true, .. } => match find(&self.json(document)?, field) {
                Some(Json::Array(ids)) => Ok(ids.len() as i64),
                other => Err(self.wrong(document, &unfit(field, other, "an array of token ids"))),
            },
            Kind::Lines { .. } => {
                Err(Error::Usage(format!("{}: text has no tokens; give a token store or JSON Lines", self.name())))
            }
        })
    }

    /// Every document as a row of tokens, in order, to a store.
    #[cfg(feature = "text")]
    pub(super) fn tokenize(&self, field: &str, by: &Tokenizer, writer: &mut Writer, ctl: &Ctl) -> Result<()> {
        if let Kind::Tokens(_) = self.kind {
            return Err(Error::Usage(format!("{}: token rows are no text", self.path.display())));
        }
        let row = |document: usize| {
            let place = format!("{}:{}", self.path.display(), self.place(document));
            by.row(&self.text(document, field)?).map_err(|error| error.within(&place))
        };
        ctl.expect((0..self.len()).map(|document| self.size(document)).sum());
        text::write(writer, self.len(), |document| self.size(document), row, ctl)
    }

    /// The bytes of a document.
    fn size(&self, document: usize) -> u64 {
        match &self.kind {
            Kind::Lines { lines, .. } => lines[document].at.len() as u64,
            Kind::Tokens(store) => 4 * store.row(document).len() as u64,
        }
    }

    fn map<R: Send>(&self, ctl: &Ctl, of: impl Fn(usize) -> Result<R> + Sync + Send) -> Result<Vec<R>> {
        ctl.expect(ctl.progress().1 + (0..self.len()).map(|document| self.size(document)).sum::<u64>());
        let found = parallel::map(self.len(), ctl, |document| {
            let found = of(document);
            ctl.advance(self.size(document));
            found
        })?;
        found.into_iter().collect() // the first fault in the order of lines
    }

    fn text(&self, document: usize, field: &str) -> Result<String> {
        let Kind::Lines { json, .. } = &self.kind else { return Ok(String::new()) };
        if !json {
            let text = std::str::from_utf8(self.line(document)).map_err(|_| self.wrong(document, "not UTF-8"))?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        match find(&self.json(document)?, field) {
            Some(Json::String(text)) => Ok(text.clone()),
            other => Err(self.wrong(document, &unfit(field, other, "a string"))),
        }
    }

    fn json(&self, document: usize) -> Result<Json> {
        serde_json::from_slice(self.line(document)).map_err(|error| self.wrong(document, &format!("not JSON: {error}")))
    }

    fn line(&self, document: usize) -> &[u8] {
        match &self.kind {
            Kind::Lines { bytes, lines, .. } => &bytes[lines[document].at.clone()],
            Kind::Tokens(_) => &[],
        }
    }

    /// An error that names file and line.
    fn wrong(&self, document: usize, what: &str) -> Error {
        Error::Config(format!("{}:{}: {what}", self.path.display(), self.place(document)))
    }

    /// Writes the documents of these numbers, as they stand, to a file that appears whole.
    pub(super) fn keep(&self, kept: &[usize], out: &Path, overwrite: bool) -> Result<()> {
        match &self.kind {
            Kind::Lines { .. } => {
                let mut parts: Vec<&[u8]> = Vec::with_capacity(kept.len() + 1);
                for document in kept {
                    if parts.last().is_some_and(|line| !line.ends_with(b"\n")) {
                        parts.push(b"\n");
                    }
                    parts.push(self.line(*document));
                }
                write_whole(out, &parts, overwrite)
            }
            Kind::Tokens(store) => {
                let mut writer = Writer::create(out, store.mask().is_some(), overwrite)?;
                for row in kept {
                    let (start, end) = (store.offsets()[*row] as usize, store.offsets()[*row + 1] as usize);
                    let mask = store.mask().map(|mask| &mask[start..end]);
                    writer.push_rows(&store.ids()[start..end], &[0, (end - start) as i64], mask)?;
                }
                writer.finish().map(drop)
            }
        }
    }
}

fn guess(path: &Path) -> Result<Format> {
    use std::io::Read;
    let mut first = Vec::new();
    let file = std::fs::File::open(path).map_err(Error::io(path, "open"))?;
    file.take(8).read_to_end(&mut first).map_err(Error::io(path, "read"))?;
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    Ok(match (first.as_slice(), end) {
        (b"polmrsTK", _) => Format::Tokens,
        (_, "jsonl" | "ndjson" | "json") => Format::Jsonl,
        _ => Format::Text,
    })
}

/// The value under `a.b.c`; a key with dots of its own goes first.
fn find<'a>(row: &'a Json, field: &str) -> Option<&'a Json> {
    row.get(field).or_else(|| field.split('.').try_fold(row, |at, key| at.get(key)))
}

fn unfit(field: &str, found: Option<&Json>, wanted: &str) -> String {
    let kind = match found {
        None => return format!("no field '{field}'"),
        Some(Json::Null) => "null",
        Some(Json::Bool(_)) => "a boolean",
        Some(Json::Number(_)) => "a number",
        Some(Json::String(_)) => "a string",
        Some(Json::Array(_)) => "an array",
        Some(Json::Object(_)) => "an object",
    };
    format!("field '{field}' is {kind}, not {wanted}")
}
