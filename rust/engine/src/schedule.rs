//! The scheduler: takes jobs in plan order, streams their blocks through their stages on all threads.
//!
//! A *pass* is one stage of one job in flight. Workers take the next block of the oldest pass that has one, or begin the
//! next job. Whoever finishes a pass's last block merges what was gathered and opens the job's next pass. A job that
//! reaches a group reduction waits, holding no memory, until the group's last job arrives. Results do not depend on who
//! took which block: blocks are cut by shape alone, and ordered sums carry their order with them.

use crate::job::{Job, Reduce, Scope, Stage};
use crate::plan::{Plan, input_bytes};
use crate::sink::Sink;
use crate::source::Source;
use crate::stream::{Buffers, Free, Resident, Span, Stream, guard};
use polmrs_core::{Ctl, Error, Result, pool};
use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::AcqRel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of inputs kept between the passes of jobs that make more than one.
pub(crate) fn resident_budget() -> u64 {
    192 << 20
}

/// Output bytes between two flushes to disk, so that the last one is short.
const SYNC_EVERY: u64 = 256 << 20;

/// How to run a plan.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Worker threads.
    pub threads: usize,
    /// Let NaN and infinities through instead of stopping at the first.
    pub allow_nonfinite: bool,
}

/// Runs every job of the plan. On an error or a cancellation, what was written stays in the sink, unfinished.
pub fn run(sources: &[&dyn Source], plan: &Plan, sink: &dyn Sink, options: Options, ctl: &Ctl) -> Result<()> {
    plan.check(sources)?;
    ctl.expect(plan.cost(sources, options.threads).streamed_bytes);
    let scheduler = Scheduler {
        stream: Stream {
            sources,
            outputs: &plan.outputs,
            sink,
            allow_nonfinite: options.allow_nonfinite,
            free: Free::default(),
        },
        jobs: &plan.jobs,
        members: members(&plan.jobs),
        ctl,
        written: AtomicU64::new(0),
        queue: Mutex::new(Queue::default()),
        news: Condvar::new(),
    };
    pool::build(options.threads)?.broadcast(|_| scheduler.work());
    match scheduler.lock().failed.take() {
        Some(error) => Err(error),
        None => ctl.check(),
    }
}

/// How many jobs meet in each group.
fn members(jobs: &[Job]) -> HashMap<u32, usize> {
    let mut members = HashMap::new();
    for stage in jobs.iter().flat_map(|job| &job.stages) {
        if let Stage::Reduce(Reduce { scope: Scope::Group(group), .. }) = stage {
            *members.entry(*group).or_insert(0) += 1;
        }
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
    groups: HashMap<u32, (usize, Option<Gathered>, Vec<Parked>)>,
    failed: Option<Error>,
}

struct Scheduler<'a> {
    stream: Stream<'a>,
    jobs: &'a [Job],
    members: HashMap<u32, usize>,
    ctl: &'a Ctl,
    written: AtomicU64,
    queue: Mutex<Queue<'a>>,
    news: Condvar,
}

impl<'a> Scheduler<'a> {
    /// One worker: block after block until nothing is left, or something failed.
    fn work(&self) {
        let mut buffers = Buffers::default();
        while let Some((pass, block)) = self.next() {
            let done = self.ctl.check().and_then(|()| self.block(&pass, block, &mut buffers)).and_then(|()| match pass
                .unfinished
                .fetch_sub(1, AcqRel)
            {
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
            if let Some((pass, block)) = queue.ready.front_mut() {
                let taken = (Arc::clone(pass), *block);
                *block += 1;
                if *block == taken.0.blocks() {
                    queue.ready.pop_front();
                }
                return Some(taken);
            }
            if queue.next_job < self.jobs.len() {
                let number = queue.next_job;
                queue.next_job += 1;
                let opened = self.open(&mut queue, number, 0, None, 0);
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

    /// Puts a stage of a job among the ready passes; gives it back instead if it has no blocks.
    fn open(
        &self,
        queue: &mut Queue<'a>,
        number: usize,
        stage: usize,
        resident: Option<Arc<Resident>>,
        held: u64,
    ) -> Option<Arc<Pass<'a>>> {
        let job = &self.jobs[number];
        let (mut units, step) = job.cut(job.stages[stage].grain());
        if let Stage::Reduce(Reduce { when: Some(needed), .. }) = &job.stages[stage]
            && !needed()
        {
            units = 0;
            self.ctl.advance(self.bytes_of(job));
        }
        let (mut resident, mut held) = (resident, held);
        let blocks = units.div_ceil(step);
        if resident.is_none() && self.passes_from(job, stage) > 1 {
            let bytes = self.bytes_of(job);
            if queue.held + bytes <= resident_budget() {
                queue.held += bytes;
                held = bytes;
                resident = Some(Arc::new(Resident::new(job.inputs.len(), blocks, &self.stream.free)));
            }
        }
        queue.alive += 1;
        let unfinished = AtomicU64::new(blocks);
        let pass =
            Arc::new(Pass { job, number, stage, units, step, unfinished, gathered: Mutex::default(), resident, held });
        if blocks == 0 {
            return Some(pass);
        }
        queue.ready.push_back((pass, 0));
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
        let span = pass.span(index);
        match pass.stage() {
            Stage::Copy => self.stream.copy(pass.job, span, buffers)?,
            Stage::Reduce(reduce) => {
                let resident = pass.resident.as_deref();
                let (block, _) = self.stream.read(pass.job, span, resident, pass.stage == 0, buffers)?;
                let earlier = guard(&pass.gathered).pop();
                let gathered = (reduce.fold)(earlier, &block)?;
                guard(&pass.gathered).push(gathered);
            }
            Stage::Map { map, .. } => {
                let resident = pass.resident.as_deref();
                let (block, outputs) = self.stream.read(pass.job, span, resident, pass.stage == 0, buffers)?;
                map(&block, outputs)?;
                self.stream.write(pass.job, span, buffers)?;
            }
        }
        let share = |len: u64| len * span.count / span.units;
        let read = pass.job.inputs.iter().map(|input| share(input_bytes(self.stream.sources, input))).sum();
        self.ctl.advance(read);
        if !matches!(pass.stage(), Stage::Reduce(_)) {
            let size = |tensor: usize| self.stream.outputs[tensor].dtype.size() as u64;
            self.flush(pass.job.outputs.iter().map(|target| share(target.len) * size(target.tensor)).sum())?;
        }
        Ok(())
    }

    /// Counts written bytes and makes them durable every [`SYNC_EVERY`].
    fn flush(&self, bytes: u64) -> Result<()> {
        let before = self.written.fetch_add(bytes, AcqRel);
        if before / SYNC_EVERY == (before + bytes) / SYNC_EVERY { Ok(()) } else { self.stream.sink.sync() }
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
            let mut queue = self.lock();
            queue.alive -= 1;
            let next = pass.stage + 1;
            if !keep || next == pass.job.stages.len() {
                queue.held -= pass.held;
                self.news.notify_all();
                return Ok(());
            }
            let same_cut = pass.job.cut(pass.job.stages[next].grain()) == pass.job.cut(pass.stage().grain());
            let (resident, held) = if same_cut {
                (pass.resident.clone(), pass.held)
            } else {
                queue.held -= pass.held;
                (None, 0)
            };
            match self.open(&mut queue, pass.number, next, resident, held) {
                None => return Ok(()),
                Some(empty) => pass = empty,
            }
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
        if pass.stage + 1 < pass.job.stages.len() {
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
            let empty = self.open(&mut self.lock(), number, stage, None, 0);
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
