//! The scheduler: takes jobs in plan order, streams their blocks through their stages on all threads.
//!
//! A *pass* is one stage of one job in flight. Workers take the next block of the oldest pass that has one, or begin the
//! next job. Whoever finishes a pass's last block merges what was gathered and opens the job's next pass. A job that
//! reaches a group reduction waits, holding no memory, until the group's last job arrives. Results do not depend on who
//! took which block: blocks are cut by shape alone, and ordered sums carry their order with them.

use crate::encode::Outputs;
use crate::job::{Job, Reduce, Scope, Stage};
use crate::memory::{Shares, share_out, workers};
use crate::plan::{Plan, input_bytes, scratch_bytes};
use crate::sink::Sink;
use crate::source::Source;
use crate::stream::{Buffers, Free, Resident, Span, Stream, guard};
use crate::survey::Survey;
use polmrs_core::{Ctl, Error, Result, pool};
use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire},
};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How to run a plan.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Worker threads.
    pub threads: usize,
    /// Let NaN and infinities through instead of stopping at the first.
    pub allow_nonfinite: bool,
    /// The most bytes of buffers to hold at once; without it, a few blocks for each worker and 192 MiB.
    pub max_memory: Option<u64>,
    /// Output bytes between two flushes to disk: few, so that the last one is short and little is lost.
    pub sync_every: u64,
    /// Output tensors that the sink holds already; empty, if it holds none.
    pub done: &'a [bool],
    /// Looks at every block that is computed.
    pub survey: Option<&'a Survey>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { threads: 1, allow_nonfinite: false, max_memory: None, sync_every: 256 << 20, done: &[], survey: None }
    }
}

/// Runs every job of the plan. On an error or a cancellation, what was written stays in the sink, and is as durable
/// as the last sync made it.
pub fn run(sources: &[&dyn Source], plan: &Plan, sink: &dyn Sink, options: Options<'_>, ctl: &Ctl) -> Result<()> {
    plan.check(sources)?;
    let threads = workers(plan, options.threads, options.max_memory);
    let cost = plan.cost(sources, threads, options.max_memory)?;
    ctl.expect(cost.streamed_bytes);
    let scheduler = Scheduler {
        stream: Stream {
            sources,
            outputs: &plan.outputs,
            sink,
            allow_nonfinite: options.allow_nonfinite,
            survey: options.survey,
            free: Free::default(),
        },
        jobs: &plan.jobs,
        stages: stages_to_run(plan, options.done),
        members: members(&plan.jobs),
        shares: share_out(plan, threads, options.max_memory)?,
        ctl,
        sync_every: options.sync_every.max(1),
        written: AtomicU64::new(0),
        whole: Mutex::new(Whole { missing: missing(plan), tensors: Vec::new() }),
        queue: Mutex::new(Queue::default()),
        news: Condvar::new(),
    };
    pool::build(threads)?.broadcast(|_| scheduler.work());
    scheduler.lock().failed.take().map_or_else(|| ctl.check(), Err)?;
    scheduler.sync()
}

/// How many stages of each job must run: none of a job whose outputs are there, but for those up to the last group
/// reduction that another job waits for.
fn stages_to_run(plan: &Plan, done: &[bool]) -> Vec<usize> {
    let is_done =
        |job: &Job| !job.outputs.is_empty() && job.outputs.iter().all(|target| done.get(target.tensor) == Some(&true));
    let mut stages: Vec<usize> = plan.jobs.iter().map(|job| if is_done(job) { 0 } else { job.stages.len() }).collect();
    loop {
        let running = plan.jobs.iter().zip(&stages).flat_map(|(job, count)| &job.stages[..*count]);
        let needed: HashSet<u32> = running.filter_map(group).collect();
        let mut grown = false;
        for (job, count) in plan.jobs.iter().zip(&mut stages) {
            let last = job.stages.iter().rposition(|stage| group(stage).is_some_and(|group| needed.contains(&group)));
            if let Some(last) = last.filter(|last| *last >= *count) {
                (*count, grown) = (last + 1, true);
            }
        }
        if !grown {
            return stages;
        }
    }
}

fn group(stage: &Stage) -> Option<u32> {
    match stage {
        Stage::Reduce(Reduce { scope: Scope::Group(group), .. }) => Some(*group),
        _ => None,
    }
}

/// How many jobs write each output tensor.
fn missing(plan: &Plan) -> Vec<usize> {
    let mut missing = vec![0; plan.outputs.len()];
    plan.jobs.iter().flat_map(|job| &job.outputs).for_each(|target| missing[target.tensor] += 1);
    missing
}

/// How many jobs meet in each group.
fn members(jobs: &[Job]) -> HashMap<u32, usize> {
    let mut members = HashMap::new();
    for group in jobs.iter().flat_map(|job| &job.stages).filter_map(group) {
        *members.entry(group).or_insert(0) += 1;
    }
    members
}

type Gathered = Box<dyn Any + Send>;

/// One stage of one job in flight.
struct Pass<'a> {
    job: &'a Job,
    number: usize,
    stage: usize,
    units: u64,
    step: u64,
    unfinished: AtomicU64,
    gathered: Mutex<Vec<Gathered>>,
    resident: Option<Arc<Resident>>,
    /// What the resident bytes take of the budget.
    held: u64,
    /// What the map of a job that ends with a fold has computed so far.
    kept: Option<Kept>,
    /// What one worker needs for one block.
    need: u64,
    /// The bytes that an encoder's blocks have put.
    put: AtomicU64,
}

/// The result of a map, kept for a fold.
type Kept = Arc<Mutex<Vec<f32>>>;

/// What a pass leaves for the next one of its job.
#[derive(Default)]
struct Carried {
    resident: Option<Arc<Resident>>,
    held: u64,
    kept: Option<Kept>,
}

impl Pass<'_> {
    fn blocks(&self) -> u64 {
        self.units.div_ceil(self.step)
    }

    fn span(&self, index: u64) -> Span {
        let first = index * self.step;
        let count = self.step.min(self.units - first);
        Span { first, count, units: self.units, index, ordinal: ((self.number as u64) << 32) + index }
    }

    fn stage(&self) -> &Stage {
        &self.job.stages[self.stage]
    }
}

/// A job that waits for its group: its number and the stage that comes next.
type Parked = (usize, usize);

#[derive(Default)]
struct Queue<'a> {
    ready: VecDeque<(Arc<Pass<'a>>, u64)>,
    next_job: usize,
    alive: usize,
    held: u64,
    /// What the blocks in work need.
    working: u64,
    groups: HashMap<u32, (usize, Option<Gathered>, Vec<Parked>)>,
    failed: Option<Error>,
}

/// Output tensors on their way to the disk.
struct Whole {
    /// How many jobs have still to write each.
    missing: Vec<usize>,
    /// Those that are whole and wait for the next flush.
    tensors: Vec<usize>,
}

/// From here on, a worker gives a block's buffers back rather than keep them for the next block.
const LARGE: u64 = 32 << 20;

struct Scheduler<'a> {
    stream: Stream<'a>,
    jobs: &'a [Job],
    /// How many stages of each job run.
    stages: Vec<usize>,
    members: HashMap<u32, usize>,
    shares: Shares,
    ctl: &'a Ctl,
    sync_every: u64,
    written: AtomicU64,
    whole: Mutex<Whole>,
    queue: Mutex<Queue<'a>>,
    news: Condvar,
}

impl<'a> Scheduler<'a> {
    /// One worker: block after block until nothing is left, or something failed.
    fn work(&self) {
        let mut buffers = Buffers::default();
        while let Some((pass, block)) = self.next() {
            let worked = self.ctl.check().and_then(|()| self.block(&pass, block, &mut buffers));
            if pass.need >= LARGE {
                buffers = Buffers::default();
            }
            self.put_down(pass.need);
            let done = worked.and_then(|()| match pass.unfinished.fetch_sub(1, AcqRel) {
                1 => self.complete(&pass),
                _ => Ok(()),
            });
            if let Err(error) = done {
                self.fail(error, pass.job);
            }
        }
    }

    /// Stops all workers; the first error is the one to tell.
    fn fail(&self, error: Error, job: &Job) {
        self.lock().failed.get_or_insert(match error {
            Error::NonFinite(message) => Error::NonFinite(message), // names its tensor already
            other => other.within(&job.name),
        });
        self.news.notify_all();
    }

    /// The next block to work on; waits while only others can make one ready.
    fn next(&self) -> Option<(Arc<Pass<'a>>, u64)> {
        let mut queue = self.lock();
        loop {
            if queue.failed.is_some() {
                return None;
            }
            if let Some(at) = self.affordable(&queue) {
                let (pass, block) = &mut queue.ready[at];
                let taken = (Arc::clone(pass), *block);
                *block += 1;
                if *block == taken.0.blocks() {
                    queue.ready.remove(at);
                }
                if self.shares.working < u64::MAX {
                    queue.working += taken.0.need;
                }
                return Some(taken);
            }
            if !queue.ready.is_empty() {
                queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
            } else if queue.next_job < self.jobs.len() {
                let number = queue.next_job;
                queue.next_job += 1;
                let job = &self.jobs[number];
                self.ctl.advance(self.bytes_of(job) * (job.stages.len() - self.stages[number]) as u64);
                if self.stages[number] == 0 {
                    continue;
                }
                let opened = self.open(&mut queue, number, 0, Carried::default());
                if let Some(empty) = opened {
                    drop(queue);
                    if let Err(error) = self.complete(&empty) {
                        self.fail(error, empty.job);
                    }
                    queue = self.lock();
                }
            } else if queue.alive == 0 {
                self.news.notify_all();
                return None;
            } else {
                queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// The place of the first ready pass whose next block fits into the memory for blocks. With none in work, any does.
    fn affordable(&self, queue: &Queue<'a>) -> Option<usize> {
        let fits = |pass: &Pass<'a>| queue.working == 0 || pass.need <= self.shares.working - queue.working;
        queue.ready.iter().position(|(pass, _)| fits(pass))
    }

    /// Gives back what a block needed.
    fn put_down(&self, need: u64) {
        if self.shares.working < u64::MAX {
            self.lock().working -= need;
            self.news.notify_all();
        }
    }

    /// Puts a stage of a job among the ready passes; gives it back instead if it has no blocks.
    fn open(&self, queue: &mut Queue<'a>, number: usize, stage: usize, carried: Carried) -> Option<Arc<Pass<'a>>> {
        let job = &self.jobs[number];
        let (mut units, step) = job.cut(job.stages[stage].grain());
        if let Stage::Reduce(Reduce { when: Some(needed), .. }) = &job.stages[stage]
            && !needed()
        {
            units = 0;
            self.ctl.advance(self.bytes_of(job));
        }
        let Carried { mut resident, mut held, mut kept } = carried;
        if let (Stage::Map { .. }, Some(_)) = (&job.stages[stage], job.folded()) {
            kept = Some(Arc::default()); // filled from the first block on: a group opens all of its jobs at once
        }
        let blocks = units.div_ceil(step);
        if resident.is_none() && self.passes_from(job, stage) > 1 {
            let bytes = self.bytes_of(job);
            if queue.held + bytes <= self.shares.resident {
                queue.held += bytes;
                held = bytes;
                resident = Some(Arc::new(Resident::new(job.inputs.len(), blocks, &self.stream.free)));
            }
        }
        queue.alive += 1;
        let unfinished = AtomicU64::new(blocks);
        let need = scratch_bytes(job, &job.stages[stage]);
        let gathered = Mutex::default();
        let pass = Arc::new(Pass {
            job,
            number,
            stage,
            units,
            step,
            unfinished,
            gathered,
            resident,
            held,
            kept,
            need,
            put: AtomicU64::new(0),
        });
        if blocks == 0 {
            return Some(pass);
        }
        match job.stages[stage] {
            Stage::Fold { .. } => queue.ready.push_front((pass, 0)), // it frees what is kept before another map begins
            _ => queue.ready.push_back((pass, 0)),
        }
        self.news.notify_all();
        None
    }

    /// The bytes that one pass over a job reads.
    fn bytes_of(&self, job: &Job) -> u64 {
        job.inputs.iter().map(|input| input_bytes(self.stream.sources, input)).sum()
    }

    /// How many passes from this stage on cut the job alike and need no other job in between.
    fn passes_from(&self, job: &Job, stage: usize) -> usize {
        let cut = job.cut(job.stages[stage].grain());
        let mut count = 0;
        for stage in &job.stages[stage..] {
            if job.cut(stage.grain()) != cut {
                break;
            }
            count += 1;
            if matches!(stage, Stage::Reduce(Reduce { scope: Scope::Group(_), .. })) {
                break;
            }
        }
        count
    }

    /// Works on one block of a pass.
    fn block(&self, pass: &Pass<'a>, index: u64, buffers: &mut Buffers) -> Result<()> {
        let (job, span, resident) = (pass.job, pass.span(index), pass.resident.as_deref());
        let written = match pass.stage() {
            Stage::Copy => self.stream.copy(job, span, buffers)?,
            Stage::Reduce(reduce) => {
                let (block, _) = self.stream.read(job, pass.stage, span, resident, buffers)?;
                let earlier = guard(&pass.gathered).pop();
                let gathered = (reduce.fold)(earlier, &block)?;
                guard(&pass.gathered).push(gathered);
                0
            }
            Stage::Map { map, .. } => {
                let (block, outputs) = self.stream.read(job, pass.stage, span, resident, buffers)?;
                map(&block, outputs)?;
                match &pass.kept {
                    Some(kept) => self.stream.keep(job, span, kept, buffers)?,
                    None => self.stream.write(job, span, buffers)?,
                }
            }
            Stage::Encode { encode, .. } => {
                let (block, _) = self.stream.read(job, pass.stage, span, resident, buffers)?;
                let mut outputs = Outputs::new(&self.stream, job, &block);
                encode(&block, &mut outputs)?;
                pass.put.fetch_add(outputs.put, AcqRel);
                outputs.put
            }
            Stage::Fold { fold, .. } => {
                let whole = pass.kept.as_ref().map(|kept| std::mem::take(&mut *guard(kept))).unwrap_or_default();
                let block = self.stream.nothing(span, buffers);
                let mut outputs = Outputs::new(&self.stream, job, &block);
                fold(&whole, &mut outputs)?;
                pass.put.fetch_add(outputs.put, AcqRel);
                outputs.put
            }
        };
        let share = |len: u64| len * span.count / span.units;
        let read = job.inputs.iter().map(|input| share(input_bytes(self.stream.sources, input))).sum();
        self.ctl.advance(read);
        self.flush(written)
    }

    /// Counts written bytes and makes them durable now and then.
    fn flush(&self, bytes: u64) -> Result<()> {
        let before = self.written.fetch_add(bytes, AcqRel);
        if before / self.sync_every == (before + bytes) / self.sync_every { Ok(()) } else { self.sync() }
    }

    /// Makes what is written durable, and tells the sink which tensors are whole by now.
    fn sync(&self) -> Result<()> {
        let whole = std::mem::take(&mut guard(&self.whole).tensors);
        self.stream.sink.sync(&whole)
    }

    /// Notes that a job has written its outputs.
    fn wrote(&self, job: &Job) {
        let mut whole = guard(&self.whole);
        for target in &job.outputs {
            whole.missing[target.tensor] -= 1;
            if whole.missing[target.tensor] == 0 {
                whole.tensors.push(target.tensor);
            }
        }
    }

    /// Ends a pass whose blocks are all done, and opens what comes next.
    fn complete(&self, pass: &Arc<Pass<'a>>) -> Result<()> {
        let mut pass = Arc::clone(pass);
        loop {
            let mut keep = true;
            if let Stage::Reduce(reduce) = pass.stage() {
                let mut gathered: Option<Gathered> = None;
                for part in guard(&pass.gathered).drain(..) {
                    gathered = Some(match gathered {
                        None => part,
                        Some(whole) => (reduce.merge)(whole, part)?,
                    });
                }
                match reduce.scope {
                    Scope::Tensor => (reduce.finish)(gathered)?,
                    Scope::Group(group) => {
                        keep = false;
                        self.arrive(&pass, reduce, group, gathered)?;
                    }
                }
            }
            if let Stage::Encode { .. } | Stage::Fold { .. } = pass.stage() {
                self.refuse_gaps(&pass)?;
            }
            let mut queue = self.lock();
            queue.alive -= 1;
            let next = pass.stage + 1;
            if !keep || next == self.stages[pass.number] {
                queue.held -= pass.held;
                self.news.notify_all();
                drop(queue);
                if keep && next == pass.job.stages.len() {
                    self.wrote(pass.job);
                }
                return Ok(());
            }
            let same_cut = pass.job.cut(pass.job.stages[next].grain()) == pass.job.cut(pass.stage().grain());
            let (resident, held) = if same_cut {
                (pass.resident.clone(), pass.held)
            } else {
                queue.held -= pass.held;
                (None, 0)
            };
            let carried = Carried { resident, held, kept: pass.kept.clone() };
            match self.open(&mut queue, pass.number, next, carried) {
                None => return Ok(()),
                Some(empty) => pass = empty,
            }
        }
    }

    /// Refuses an encoder that did not put exactly the bytes of its outputs: zeros would stand for codes.
    fn refuse_gaps(&self, pass: &Pass<'a>) -> Result<()> {
        let size = |tensor: usize| self.stream.outputs[tensor].dtype.size() as u64;
        let wanted: u64 = pass.job.outputs.iter().map(|target| target.len * size(target.tensor)).sum();
        match pass.put.load(Acquire) {
            put if put == wanted => Ok(()),
            put => Err(Error::Internal(format!("{put} bytes were put of {wanted}"))),
        }
    }

    /// A job reaches its group; the last one finishes the reduction and releases all.
    fn arrive(&self, pass: &Pass<'a>, reduce: &Reduce, group: u32, gathered: Option<Gathered>) -> Result<()> {
        let mut queue = self.lock();
        let (arrived, mut whole, mut parked) = queue.groups.remove(&group).unwrap_or_default();
        whole = match (whole, gathered) {
            (Some(whole), Some(part)) => Some((reduce.merge)(whole, part)?),
            (whole, part) => whole.or(part),
        };
        if pass.stage + 1 < self.stages[pass.number] {
            parked.push((pass.number, pass.stage + 1));
        }
        if arrived + 1 < self.members[&group] {
            queue.groups.insert(group, (arrived + 1, whole, parked));
            return Ok(());
        }
        drop(queue);
        (reduce.finish)(whole)?;
        parked.sort_unstable();
        for (number, stage) in parked {
            let empty = self.open(&mut self.lock(), number, stage, Carried::default());
            if let Some(empty) = empty {
                self.complete(&empty)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queue<'a>> {
        guard(&self.queue)
    }
}
