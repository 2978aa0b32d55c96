//! A checkpoint being written that a later run can go on with: bytes, then a journal of the tensors that are whole.
//!
//! Now and then the scheduler has the files synced; only then is a line added to the journal, with the tensors that were
//! whole before the sync began. So what the journal says is on the disk, whatever happens. Its first line describes the
//! work; a run that is described otherwise does not go on with it.

use crate::sink::Sink;
use crate::source::Meta;
use crate::stream::guard;
use crate::survey::Survey;
use polmrs_core::Result;
use polmrs_io::digest::Digest;
use polmrs_io::journal::Journal;
use polmrs_io::output::Output;
use polmrs_io::safetensors::{Layout, Writer};
use serde_json::{Value as Json, json};
use std::sync::Mutex;

/// What is known of an output tensor that is whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The BLAKE3 hash of its bytes, where digests were asked for.
    pub digest: Option<String>,
    /// What a [`Survey`] saw of it; null for a tensor that was copied.
    pub row: Option<Json>,
}

/// What is to be known of every tensor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Its BLAKE3 hash.
    pub digests: bool,
    /// What a [`Survey`] sees of it.
    pub survey: bool,
}

/// A checkpoint and its journal.
pub struct Durable {
    writer: Writer,
    journal: Journal,
    digests: Option<Vec<Digest>>,
    survey: Option<Survey>,
    records: Mutex<Vec<Option<Record>>>,
    done: Vec<bool>,
}

impl Durable {
    /// Begins the checkpoint in an output folder, or goes on with the one that is there; `work` describes what is done:
    /// everything that the bits depend on.
    ///
    /// # Errors
    /// [`Error::Exists`] if the folder holds work of another description; the message names what differs.
    pub fn begin(output: &Output, layout: Layout, outputs: &[Meta], work: &Json, wanted: Wanted) -> Result<Durable> {
        let mut records = vec![None; outputs.len()];
        let (writer, journal) = match Journal::take_up(output, work)? {
            Some((journal, lines)) => {
                for done in lines.iter().flat_map(|line| line["done"].as_array().into_iter().flatten()) {
                    if let Some((tensor, record)) = read(done, wanted).filter(|(tensor, _)| *tensor < records.len()) {
                        records[tensor] = Some(record);
                    }
                }
                let whole = (0..records.len()).filter(|tensor| records[*tensor].is_some());
                (Writer::reopen(output.folder(), layout, whole)?, journal)
            }
            None => {
                let writer = Writer::create(output.folder(), layout)?;
                output.sync()?;
                (writer, Journal::create(&output.journal(), work)?)
            }
        };
        Ok(Durable {
            writer,
            journal,
            digests: wanted.digests.then(|| outputs.iter().map(|meta| Digest::new(meta.nbytes())).collect()),
            survey: wanted.survey.then(|| Survey::new(outputs.len())),
            done: records.iter().map(Option::is_some).collect(),
            records: Mutex::new(records),
        })
    }

    /// Which output tensors an earlier run has written whole.
    pub fn done(&self) -> &[bool] {
        &self.done
    }

    /// The survey, if one was asked for.
    pub fn survey(&self) -> Option<&Survey> {
        self.survey.as_ref()
    }

    /// Whether a later run would find any tensor whole.
    pub fn has_progress(&self) -> bool {
        guard(&self.records).iter().any(Option::is_some)
    }

    /// Makes everything durable, and gives what is known of every tensor.
    pub fn finish(self) -> Result<Vec<Record>> {
        self.writer.finish()?;
        let records = self.records.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(records.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn record(&self, tensor: usize) -> Result<Record> {
        let digest = self.digests.as_ref().map(|digests| digests[tensor].finish()).transpose()?;
        let seen = |survey: &Survey| survey.row(tensor).map_or(Json::Null, |row| row.to_json());
        Ok(Record { digest, row: self.survey.as_ref().map(seen) })
    }
}

/// A tensor that is whole, from the journal; `None` if it lacks what is wanted, and so must be done again.
fn read(done: &Json, wanted: Wanted) -> Option<(usize, Record)> {
    let tensor = usize::try_from(done["tensor"].as_u64()?).ok()?;
    let record = Record { digest: done["blake3"].as_str().map(str::to_owned), row: done.get("survey").cloned() };
    let enough = (record.digest.is_some() || !wanted.digests) && (record.row.is_some() || !wanted.survey);
    enough.then_some((tensor, record))
}

impl Sink for Durable {
    fn write(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.writer.write(tensor, offset, bytes)?;
        if let Some(digests) = &self.digests {
            digests[tensor].add(offset, bytes);
        }
        Ok(())
    }

    fn sync(&self, whole: &[usize]) -> Result<()> {
        self.writer.sync()?;
        let mut lines = Vec::with_capacity(whole.len());
        for tensor in whole {
            let record = self.record(*tensor)?;
            let mut line = json!({"tensor": tensor});
            if let Some(digest) = &record.digest {
                line["blake3"] = digest.as_str().into();
            }
            if let Some(row) = &record.row {
                line["survey"] = row.clone();
            }
            lines.push(line);
            guard(&self.records)[*tensor] = Some(record);
        }
        if lines.is_empty() { Ok(()) } else { self.journal.append(&json!({"done": lines})) }
    }
}
