//! How much of the memory that a run may take goes to blocks in work, and how much to inputs kept between passes.

use crate::job::Job;
use crate::plan::{Plan, scratch_bytes};
use polmrs_core::{Error, Result};

/// Bytes of inputs kept between passes where no limit is set.
const RESIDENT: u64 = 192 << 20;

/// The two shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// For the inputs of jobs that make more than one pass, kept from the first to the last.
    pub(crate) resident: u64,
    /// For the blocks that workers have in hand; `u64::MAX` where nobody has to wait.
    pub(crate) working: u64,
}

/// Shares out `limit` bytes between `threads` workers. Blocks come first; where not every worker can have its largest
/// block at once, they take turns.
///
/// # Errors
/// [`Error::Usage`] names the job whose largest block does not fit alone.
pub(crate) fn share_out(plan: &Plan, threads: usize, limit: Option<u64>) -> Result<Shares> {
    let Some(limit) = limit else { return Ok(Shares { resident: RESIDENT, working: u64::MAX }) };
    let Some((job, most)) = hungriest(plan) else { return Ok(Shares { resident: limit, working: limit }) };
    if most > limit {
        let name = &job.name;
        return Err(Error::Usage(format!(
            "max-memory: {limit} bytes do not hold the workspace of '{name}', which needs {most}"
        )));
    }
    let working = most.saturating_mul(threads as u64);
    if working > limit {
        return Ok(Shares { resident: 0, working: limit });
    }
    Ok(Shares { resident: limit - working, working: u64::MAX })
}

/// How many workers there may be: all of them, but where maps are kept for folds only so many that each can have its
/// largest at once. What is kept cannot be put down in favour of another worker's.
pub(crate) fn workers(plan: &Plan, threads: usize, limit: Option<u64>) -> usize {
    let (Some(limit), Some((_, most))) = (limit, hungriest(plan)) else { return threads };
    let folds = plan.jobs.iter().any(|job| job.folded().is_some());
    if folds && most > 0 { threads.min((limit / most).max(1) as usize) } else { threads }
}

/// The job with the largest block, and the bytes that a worker needs for it, what is kept for a fold included.
pub(crate) fn hungriest(plan: &Plan) -> Option<(&Job, u64)> {
    let block = |job: &Job| job.stages.iter().map(|stage| scratch_bytes(job, stage)).max().unwrap_or(0);
    let need = |job: &Job| block(job) + 4 * job.folded().unwrap_or(0);
    plan.jobs.iter().map(|job| (job, need(job))).max_by_key(|(_, need)| *need)
}
