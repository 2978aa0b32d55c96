//! Blocks in and out: reading regions into `f32`, keeping small jobs' bytes between passes, writing results.

use crate::job::{Block, Input, Job, Spare, Stage};
use crate::sink::Sink;
use crate::source::{Meta, Source};
use crate::survey::Survey;
use polmrs_core::{Dtype, Error, Result, dtype};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// One worker's buffers, reused from block to block.
#[derive(Default)]
pub(crate) struct Buffers {
    raw: Vec<u8>,
    other: Vec<u8>,
    inputs: Vec<Vec<f32>>,
    outputs: Vec<Vec<f32>>,
    spare: Spare,
}

/// The bytes of a job's inputs, kept from its first pass for the following ones.
pub(crate) struct Resident {
    blocks: Vec<OnceLock<Vec<u8>>>,
    per_input: u64,
    free: Free,
}

/// Buffers of jobs that are done, for the next ones: fresh memory costs a page fault for every 4 KiB.
pub(crate) type Free = Arc<Mutex<Vec<Vec<u8>>>>;

impl Resident {
    pub(crate) fn new(inputs: usize, blocks: u64, free: &Free) -> Resident {
        let count = inputs as u64 * blocks;
        let blocks_of_all = (0..count).map(|_| OnceLock::new()).collect();
        Resident { blocks: blocks_of_all, per_input: blocks, free: Arc::clone(free) }
    }

    fn slot(&self, input: usize, block: u64) -> &OnceLock<Vec<u8>> {
        &self.blocks[(input as u64 * self.per_input + block) as usize]
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        guard(&self.free).extend(self.blocks.drain(..).filter_map(OnceLock::into_inner));
    }
}

/// Where one block lies: units `first .. first + count` of `units`.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) units: u64,
    pub(crate) index: u64,
    pub(crate) ordinal: u64,
}

impl Span {
    /// The elements of a region of `len` elements that belong to this block.
    fn elements(&self, len: u64) -> (u64, usize) {
        let per_unit = len / self.units;
        (self.first * per_unit, (self.count * per_unit) as usize)
    }
}

/// What workers need to move blocks.
pub(crate) struct Stream<'a> {
    pub(crate) sources: &'a [&'a dyn Source],
    pub(crate) outputs: &'a [Meta],
    pub(crate) sink: &'a dyn Sink,
    pub(crate) allow_nonfinite: bool,
    pub(crate) survey: Option<&'a Survey>,
    pub(crate) free: Free,
}

impl Stream<'_> {
    /// Reads the block of every input, as `f32`, for one of the job's stages.
    pub(crate) fn read<'s>(
        &self,
        job: &Job,
        stage: usize,
        span: Span,
        resident: Option<&Resident>,
        buffers: &'s mut Buffers,
    ) -> Result<(Block<'s>, &'s mut [Vec<f32>])> {
        let Buffers { raw, inputs, outputs, spare, .. } = buffers;
        inputs.resize_with(job.inputs.len(), Vec::new);
        for (at, (input, values)) in job.inputs.iter().zip(inputs.iter_mut()).enumerate() {
            let meta = &self.sources[input.source].tensors()[input.tensor];
            let (first, len) = span.elements(input.len);
            values.resize(len, 0.0);
            let slot = resident.map(|resident| resident.slot(at, span.index));
            if let Some(bytes) = slot.and_then(OnceLock::get) {
                dtype::to_f32(meta.dtype, bytes, values);
            } else {
                let mut kept = slot.map(|_| guard(&self.free).pop().unwrap_or_default());
                let bytes = kept.as_mut().unwrap_or(raw);
                bytes.resize(len * meta.dtype.size(), 0);
                self.sources[input.source].read(input.tensor, input.first + first, bytes)?;
                dtype::to_f32(meta.dtype, bytes, values);
                if let (Some(slot), Some(bytes)) = (slot, kept) {
                    slot.get_or_init(|| bytes);
                }
            }
            if let Some(narrow) = input.round {
                raw.resize(len * narrow.size(), 0);
                dtype::from_f32(narrow, values, raw);
                dtype::to_f32(narrow, raw, values);
            }
            if stage == 0 && !self.allow_nonfinite {
                self.refuse_nonfinite(input, meta, input.first + first, values)?;
            }
        }
        let mapped = match (&job.stages[stage], job.folded()) {
            (Stage::Map { .. }, Some(len)) => vec![len],
            (Stage::Map { .. }, None) => job.outputs.iter().map(|target| target.len).collect(),
            _ => Vec::new(),
        };
        outputs.resize_with(mapped.len(), Vec::new);
        for (len, values) in mapped.into_iter().zip(outputs.iter_mut()) {
            values.resize(span.elements(len).1, 0.0);
        }
        let encoded = matches!(job.stages.last(), Some(Stage::Encode { .. } | Stage::Fold { .. }));
        let output = job.outputs.first().filter(|_| !encoded).map(|target| target.len);
        let leading = output.or(job.inputs.first().map(|input| input.len));
        let element = leading.map_or(0, |len| span.elements(len).0);
        let block = Block { first: span.first, element, index: span.index, ordinal: span.ordinal, inputs, spare };
        Ok((block, outputs))
    }

    /// Rounds and writes what a map computed; gives the number of bytes.
    pub(crate) fn write(&self, job: &Job, span: Span, buffers: &mut Buffers) -> Result<u64> {
        let Buffers { raw, inputs, outputs, .. } = buffers;
        let mut written = 0;
        for (target, values) in job.outputs.iter().zip(outputs.iter_mut()) {
            let meta = &self.outputs[target.tensor];
            let first = target.first + span.elements(target.len).0;
            if !self.allow_nonfinite
                && let Some(at) = dtype::first_beyond(values, dtype::overflow(meta.dtype))
            {
                let (name, element, value, to) = (&meta.name, first + at as u64, values[at], meta.dtype.torch_name());
                return Err(Error::NonFinite(format!(
                    "result '{name}': element {element} is {value}, not finite in {to}"
                )));
            }
            raw.resize(values.len() * meta.dtype.size(), 0);
            dtype::from_f32(meta.dtype, values, raw);
            self.sink.write(target.tensor, first * meta.dtype.size() as u64, raw)?;
            written += raw.len() as u64;
            if let Some(survey) = self.survey {
                dtype::to_f32(meta.dtype, raw, values);
                survey.look(target.tensor, span.ordinal, inputs, values);
            }
        }
        Ok(written)
    }

    /// Keeps what a map computed for the fold that follows, and shows it to the survey; gives the number of bytes written.
    pub(crate) fn keep(&self, job: &Job, span: Span, kept: &Mutex<Vec<f32>>, buffers: &mut Buffers) -> Result<u64> {
        let Buffers { inputs, outputs, .. } = buffers;
        let ([target, ..], [values]) = (job.outputs.as_slice(), outputs.as_slice()) else {
            return Err(Error::Internal("a fold takes the one result of a map, and has an output".into()));
        };
        let (first, name) = (span.elements(job.folded().unwrap_or(0)).0 as usize, &job.name);
        if !self.allow_nonfinite
            && let Some(at) = dtype::first_beyond(values, f32::INFINITY)
        {
            let (element, value) = (first + at, values[at]);
            return Err(Error::NonFinite(format!("result '{name}': element {element} is {value}, not finite")));
        }
        {
            let mut kept = guard(kept);
            kept.resize(job.folded().unwrap_or(0) as usize, 0.0);
            kept[first..first + values.len()].copy_from_slice(values);
        }
        if let Some(survey) = self.survey {
            survey.look(target.tensor, span.ordinal, inputs, values);
        }
        Ok(0)
    }

    /// A block without inputs.
    pub(crate) fn nothing<'s>(&self, span: Span, buffers: &'s mut Buffers) -> Block<'s> {
        let Buffers { inputs, spare, .. } = buffers;
        inputs.clear();
        Block { first: span.first, element: 0, index: span.index, ordinal: span.ordinal, inputs, spare }
    }

    /// Copies the block of the first input, after checking that the other inputs hold the same bytes; gives their number.
    pub(crate) fn copy(&self, job: &Job, span: Span, buffers: &mut Buffers) -> Result<u64> {
        let Buffers { raw, other, .. } = buffers;
        let ([input, others @ ..], [target]) = (job.inputs.as_slice(), job.outputs.as_slice()) else {
            return Err(Error::Internal("a copy has one output and at least one input".into()));
        };
        let size = self.dtype(input).size();
        raw.resize(span.count as usize * size, 0);
        self.sources[input.source].read(input.tensor, input.first + span.first, raw)?;
        for rival in others {
            other.resize(raw.len(), 0);
            self.sources[rival.source].read(rival.tensor, rival.first + span.first, other)?;
            if raw != other {
                let (a, b) = (self.sources[input.source].label(), self.sources[rival.source].label());
                let kind = self.dtype(input).name();
                return Err(Error::Checkpoint(format!("{a} and {b} hold different values; {kind} is not averaged")));
            }
        }
        self.sink.write(target.tensor, (target.first + span.first) * size as u64, raw)?;
        Ok(raw.len() as u64)
    }

    fn dtype(&self, input: &Input) -> Dtype {
        self.sources[input.source].tensors()[input.tensor].dtype
    }

    fn refuse_nonfinite(&self, input: &Input, meta: &Meta, first: u64, values: &[f32]) -> Result<()> {
        match dtype::first_beyond(values, f32::INFINITY) {
            None => Ok(()),
            Some(at) => Err(Error::NonFinite(format!(
                "{}: '{}': element {} is {}, not a finite number",
                self.sources[input.source].label(),
                meta.name,
                first + at as u64,
                values[at]
            ))),
        }
    }
}

/// A lock that outlives a panic elsewhere: what it guards is left consistent between statements.
pub(crate) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
