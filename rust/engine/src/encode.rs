//! Where an encoder puts its bytes: any of its outputs, anywhere in them, each byte once.
//!
//! A file's layout may have the codes of 32 rows in one word, or rows as columns, so a block's bytes need not lie
//! together. What the blocks of a job put is counted, and less or more than its outputs hold is an error.

use crate::job::{Block, Job};
use crate::stream::Stream;
use polmrs_core::{Error, Result};

/// The outputs of a job, for one block.
pub struct Outputs<'a> {
    stream: &'a Stream<'a>,
    job: &'a Job,
    ordinal: u64,
    inputs: &'a [Vec<f32>],
    /// The bytes that were put.
    pub(crate) put: u64,
}

impl<'a> Outputs<'a> {
    pub(crate) fn new(stream: &'a Stream<'a>, job: &'a Job, block: &Block<'a>) -> Outputs<'a> {
        Outputs { stream, job, ordinal: block.ordinal, inputs: block.inputs, put: 0 }
    }

    /// Puts bytes at byte `offset` of the job's region of one output; `output` is its place among the job's outputs.
    ///
    /// # Errors
    /// [`Error::Internal`] if they do not lie in it.
    pub fn put(&mut self, output: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let target = &self.job.outputs[output];
        let meta = &self.stream.outputs[target.tensor];
        let (size, len) = (meta.dtype.size() as u64, bytes.len() as u64);
        if offset.checked_add(len).is_none_or(|end| end > target.len * size) {
            let name = &meta.name;
            return Err(Error::Internal(format!("'{name}': {len} bytes at {offset} lie outside the job's region")));
        }
        self.put += len;
        self.stream.sink.write(target.tensor, target.first * size + offset, bytes)
    }

    /// Whether [`compare`](Outputs::compare) is listened to: whether decoding what was put is worth the time.
    pub fn surveyed(&self) -> bool {
        self.stream.survey.is_some()
    }

    /// Shows the survey `values` beside inputs that the caller has made, of which the first is the reference; `piece` numbers
    /// the calls of a block.
    pub fn compare_with(&self, output: usize, piece: u64, inputs: &[Vec<f32>], values: &[f32]) {
        if let Some(survey) = self.stream.survey {
            survey.look(self.job.outputs[output].tensor, self.ordinal + piece, inputs, values);
        }
    }

    /// Shows the survey what the bytes of this block stand for, element by element of the first input; it keeps the
    /// comparison under one output's name.
    pub fn compare(&self, output: usize, values: &[f32]) {
        if let Some(survey) = self.stream.survey {
            survey.look(self.job.outputs[output].tensor, self.ordinal, self.inputs, values);
        }
    }

    /// Gives the survey this block's share of the squared error of a layer's output, and of the squared output, beside the
    /// comparison that it keeps under one output's name.
    pub fn weigh(&self, output: usize, squares: [f64; 2]) {
        if let Some(survey) = self.stream.survey {
            survey.weigh(self.job.outputs[output].tensor, self.ordinal, squares);
        }
    }
}
