//! All jobs of one piece of work, known from headers alone, and what they will cost.

use crate::job::{Job, Stage};
use crate::memory::{hungriest, share_out, workers};
use crate::source::{Meta, Source};
use polmrs_core::{Error, Result};

/// What a program decided to do.
#[derive(Default)]
pub struct Plan {
    /// The output tensors, in the order in which they are laid out.
    pub outputs: Vec<Meta>,
    /// The work. Every output element is written by exactly one job.
    pub jobs: Vec<Job>,
    /// What a person should know before the work starts.
    pub notes: Vec<String>,
}

/// What a plan will cost, before it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of distinct input regions.
    pub input_bytes: u64,
    /// Bytes written.
    pub output_bytes: u64,
    /// The most passes that any job makes over its inputs.
    pub passes: usize,
    /// Bytes that go through stages in total: what progress counts.
    pub streamed_bytes: u64,
    /// An upper bound of the buffers held at once, in bytes.
    pub peak_memory: u64,
    /// What one worker needs for the largest block, in bytes: whole tensors, for a method that works on them.
    pub workspace: u64,
}

impl Plan {
    /// What running this plan on `threads` threads costs, within `limit` bytes of memory if that is set.
    ///
    /// # Errors
    /// [`Error::Usage`] if one job alone needs more memory than that.
    pub fn cost(&self, sources: &[&dyn Source], threads: usize, limit: Option<u64>) -> Result<Cost> {
        let threads = workers(self, threads, limit);
        let shares = share_out(self, threads, limit)?;
        let mut cost = Cost { output_bytes: self.outputs.iter().map(Meta::nbytes).sum(), ..Cost::default() };
        let mut resident = 0;
        for job in &self.jobs {
            let read: u64 = job.inputs.iter().map(|input| input_bytes(sources, input)).sum();
            cost.input_bytes += read;
            cost.passes = cost.passes.max(job.stages.len());
            cost.streamed_bytes += read * job.stages.len() as u64;
            if job.stages.len() > 1 {
                resident = resident.max(read);
            }
        }
        cost.workspace = hungriest(self).map_or(0, |(_, need)| need);
        let held = resident.saturating_mul(threads as u64 + 1).min(shares.resident);
        cost.peak_memory = cost.workspace.saturating_mul(threads as u64).min(shares.working) + held;
        Ok(cost)
    }

    /// The job with the largest block: what it is called, and the bytes that one worker needs for it.
    pub fn hungriest(&self) -> Option<(&str, u64)> {
        hungriest(self).map(|(job, need)| (job.name.as_str(), need))
    }

    /// Checks that the jobs' regions lie inside their tensors and that the outputs are covered exactly once.
    pub fn check(&self, sources: &[&dyn Source]) -> Result<()> {
        let mut written: Vec<Vec<(u64, u64)>> = vec![Vec::new(); self.outputs.len()];
        for job in &self.jobs {
            for input in &job.inputs {
                let meta = &sources[input.source].tensors()[input.tensor];
                if input.first.checked_add(input.len).is_none_or(|end| end > meta.elements()) {
                    return Err(Error::Internal(format!("job '{}' reads beyond '{}'", job.name, meta.name)));
                }
            }
            for target in &job.outputs {
                written[target.tensor].push((target.first, target.first + target.len));
            }
        }
        for (meta, mut regions) in self.outputs.iter().zip(written) {
            regions.sort_unstable();
            let mut end = 0;
            for (first, last) in regions {
                if first != end {
                    return Err(Error::Internal(format!("output '{}': element {end} is not written once", meta.name)));
                }
                end = last;
            }
            if end != meta.elements() {
                return Err(Error::Internal(format!("output '{}': element {end} is not written", meta.name)));
            }
        }
        Ok(())
    }
}

/// The bytes of one input region.
pub(crate) fn input_bytes(sources: &[&dyn Source], input: &crate::job::Input) -> u64 {
    input.len * sources[input.source].tensors()[input.tensor].dtype.size() as u64
}

/// The buffers that one worker needs for one block: raw bytes of one region, and `f32` for all of them. An encoder gets
/// as much again as it reads, for codes and what it packs, where it does not say what it needs.
pub(crate) fn scratch_bytes(job: &Job, stage: &Stage) -> u64 {
    let (units, step) = job.cut(stage.grain());
    let share = |len: u64| if units == 0 { 0 } else { len.div_ceil(units) * step.min(units) };
    let inputs: u64 = job.inputs.iter().map(|input| share(input.len)).sum();
    let outputs: u64 = job.outputs.iter().map(|target| share(target.len)).sum();
    let raw = job.inputs.iter().map(|input| share(input.len)).max().unwrap_or(0);
    let folded = job.folded().unwrap_or(0);
    let outputs = if folded > 0 { share(folded) } else { outputs };
    match stage {
        Stage::Copy => 16 * raw,
        Stage::Encode { workspace: Some(workspace), .. } => 4 * inputs + 8 * raw + workspace,
        Stage::Encode { .. } => 8 * inputs + 8 * raw,
        Stage::Fold { workspace, .. } => *workspace,
        Stage::Reduce(_) => 4 * inputs + 8 * raw,
        Stage::Map { .. } => 4 * (inputs + outputs) + 8 * raw,
    }
}
