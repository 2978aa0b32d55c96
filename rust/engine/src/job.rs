//! What to do with tensors: jobs, their stages, and the blocks that flow through them.
//!
//! A job reads *regions* of source tensors and writes *regions* of output tensors, so stacking 128 experts into one
//! tensor is 128 jobs, and splitting a tensor is two. Its stages run in order. Each stage sees all the blocks of the
//! job; what a reduction finds, it leaves in a [`Later`] that the following stages read.

use crate::encode::Outputs;
use polmrs_core::{BLOCK, Dtype, Error, Result};
use std::any::Any;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

/// A contiguous run of elements of one source tensor.
#[derive(Clone, Debug)]
pub struct Input {
    /// Which source.
    pub source: usize,
    /// Which of its tensors.
    pub tensor: usize,
    /// The first element.
    pub first: u64,
    /// How many elements.
    pub len: u64,
    /// Values are rounded to this type after reading, where it is narrower than the source's.
    pub round: Option<Dtype>,
}

/// A contiguous run of elements of one output tensor.
#[derive(Clone, Debug)]
pub struct Target {
    /// Which output tensor of the plan.
    pub tensor: usize,
    /// The first element.
    pub first: u64,
    /// How many elements.
    pub len: u64,
}

/// How finely a stage may cut its job. A block holds whole units, 32,768 elements of them or a little less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Any element by itself.
    Elements,
    /// Whole rows; the job has this many, and each region holds an equal share of elements per row.
    Rows(u64),
    /// Whole rows, `at_once` of them in a block however long they are; the last block may hold fewer.
    Strips {
        /// The rows of the job.
        rows: u64,
        /// Those of a block.
        at_once: u64,
    },
    /// The whole job at once: the stage's workspace is all its regions.
    Whole,
}

/// Whose blocks a reduction gathers before the next stage may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Those of this job.
    Tensor,
    /// Those of all jobs with a reduction of the same group at this place: q, k and v of one layer, or the whole model.
    Group(u32),
}

/// A value that a reduction finds and later stages read.
#[derive(Debug)]
pub struct Later<T>(Arc<OnceLock<T>>);

impl<T> Default for Later<T> {
    fn default() -> Self {
        Later(Arc::new(OnceLock::new()))
    }
}

impl<T> Clone for Later<T> {
    fn clone(&self) -> Self {
        Later(Arc::clone(&self.0))
    }
}

impl<T> Later<T> {
    /// Leaves the value. The scheduler finishes a reduction once, so the first value stays.
    pub fn set(&self, value: T) {
        let _already_set = self.0.set(value);
    }

    /// The value, once its reduction has finished.
    pub fn get(&self) -> Result<&T> {
        self.0.get().ok_or_else(|| Error::Internal("a stage ran before the reduction it reads".into()))
    }
}

/// What a reduction gathers. Merging is commutative: order lives inside the value (see `core::reduce::Ordered`).
pub trait Accumulate: Send + 'static {
    /// Takes in what another thread gathered.
    fn merge(&mut self, other: Self);
}

impl<const N: usize> Accumulate for polmrs_core::reduce::Ordered<N> {
    fn merge(&mut self, other: Self) {
        self.append(other);
    }
}

impl<A: Accumulate> Accumulate for Vec<A> {
    fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.iter_mut().zip(other) {
            mine.merge(theirs);
        }
    }
}

/// One block of a job: the same units of every input.
pub struct Block<'a> {
    /// Its first unit within the job (an element, at grain `Elements`).
    pub first: u64,
    /// Its first element within the job's first output (its first input, where there is none, or where it is encoded).
    pub element: u64,
    /// Its place among the job's blocks, in tensor order.
    pub index: u64,
    /// Its place among the blocks of all jobs: what an ordered sum over a group is ordered by.
    pub ordinal: u64,
    /// The elements of every input, as `f32`.
    pub inputs: &'a [Vec<f32>],
    pub(crate) spare: &'a Spare,
}

impl Block<'_> {
    /// The elements of one input.
    pub fn input(&self, at: usize) -> &[f32] {
        &self.inputs[at]
    }

    /// A buffer of `len` elements of any value; it is used again once dropped.
    pub fn scratch(&self, len: usize) -> Scratch<'_> {
        let mut values = self.spare.borrow_mut().pop().unwrap_or_default();
        values.resize(len, 0.0);
        Scratch { values, spare: self.spare }
    }
}

/// One worker's buffers that nobody uses at the moment.
pub(crate) type Spare = RefCell<Vec<Vec<f32>>>;

/// A buffer lent by [`Block::scratch`].
pub struct Scratch<'a> {
    values: Vec<f32>,
    spare: &'a Spare,
}

impl Deref for Scratch<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Scratch<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.spare.borrow_mut().push(std::mem::take(&mut self.values));
    }
}

type Gathered = Box<dyn Any + Send>;
type Fold = Box<dyn Fn(Option<Gathered>, &Block<'_>) -> Result<Gathered> + Send + Sync>;
type Merge = Box<dyn Fn(Gathered, Gathered) -> Result<Gathered> + Send + Sync>;
type Finish = Box<dyn Fn(Option<Gathered>) -> Result<()> + Send + Sync>;
type When = Box<dyn Fn() -> bool + Send + Sync>;
type Encode = Box<dyn Fn(&Block<'_>, &mut Outputs<'_>) -> Result<()> + Send + Sync>;
type FoldWhole = Box<dyn Fn(&[f32], &mut Outputs<'_>) -> Result<()> + Send + Sync>;
type Map = Box<dyn Fn(&Block<'_>, &mut [Vec<f32>]) -> Result<()> + Send + Sync>;

/// One pass over a job's blocks.
pub enum Stage {
    /// Copies the bytes of the first input to the output, after checking that all inputs hold the same bytes.
    Copy,
    /// Looks at every block and leaves a value.
    Reduce(Reduce),
    /// Computes the outputs block by block.
    Map {
        /// How finely it may be cut.
        grain: Grain,
        /// Fills the outputs' elements of one block.
        map: Map,
    },
    /// Puts bytes into the outputs, block by block: codes, scales, what is no number of the output's type.
    Encode {
        /// How finely it may be cut. The outputs need hold no equal share for each row.
        grain: Grain,
        /// Puts the bytes that follow from one block; all blocks together put every byte of the outputs once.
        encode: Encode,
        /// The bytes that one call takes beside its inputs; as many as these, where it is not said.
        workspace: Option<u64>,
    },
    /// Puts bytes into the outputs from all that the map before it has computed, which is kept in memory for it: a
    /// factorisation of a result that nobody stores.
    Fold {
        /// The elements of the map's result; every input has as many.
        len: u64,
        /// The bytes that it takes beside those.
        workspace: u64,
        /// Puts every byte of the outputs once.
        fold: FoldWhole,
    },
}

/// A reduction, its types erased.
pub struct Reduce {
    pub(crate) grain: Grain,
    pub(crate) scope: Scope,
    pub(crate) fold: Fold,
    pub(crate) merge: Merge,
    pub(crate) finish: Finish,
    pub(crate) when: Option<When>,
}

impl Stage {
    /// A reduction over the blocks of one job: `fold` takes a block in, `finish` gets what all threads gathered.
    pub fn reduce<A: Accumulate>(
        grain: Grain,
        scope: Scope,
        fresh: impl Fn() -> A + Send + Sync + 'static,
        fold: impl Fn(&mut A, &Block<'_>) -> Result<()> + Send + Sync + 'static,
        finish: impl Fn(A) -> Result<()> + Send + Sync + 'static,
    ) -> Stage {
        fn open<A: Accumulate>(gathered: Gathered) -> Result<Box<A>> {
            gathered.downcast().map_err(|_| Error::Internal("jobs of one group gather different types".into()))
        }
        let fresh = Arc::new(fresh);
        let start = Arc::clone(&fresh);
        Stage::Reduce(Reduce {
            grain,
            scope,
            fold: Box::new(move |gathered, block| {
                let mut gathered = match gathered {
                    Some(gathered) => open::<A>(gathered)?,
                    None => Box::new(start()),
                };
                fold(&mut gathered, block)?;
                Ok(gathered)
            }),
            merge: Box::new(|mine, theirs| {
                let mut mine = open::<A>(mine)?;
                mine.merge(*open::<A>(theirs)?);
                Ok(mine)
            }),
            finish: Box::new(move |gathered| match gathered {
                Some(gathered) => finish(*open::<A>(gathered)?),
                None => finish(fresh()),
            }),
            when: None,
        })
    }

    /// The same reduction, seeing no block where `needed`, asked once the earlier stages have finished, says no.
    #[must_use]
    pub fn when(mut self, needed: impl Fn() -> bool + Send + Sync + 'static) -> Stage {
        if let Stage::Reduce(reduce) = &mut self {
            reduce.when = Some(Box::new(needed));
        }
        self
    }

    /// A computation of one output from the inputs, element by element.
    pub fn map(map: impl Fn(&Block<'_>, &mut [f32]) -> Result<()> + Send + Sync + 'static) -> Stage {
        Stage::map_at(Grain::Elements, map)
    }

    /// A computation of one output from the inputs, cut at a grain.
    pub fn map_at(grain: Grain, map: impl Fn(&Block<'_>, &mut [f32]) -> Result<()> + Send + Sync + 'static) -> Stage {
        Stage::Map { grain, map: Box::new(move |block, outputs| map(block, &mut outputs[0])) }
    }

    /// An encoder of the inputs, cut at a grain.
    pub fn encode(
        grain: Grain,
        encode: impl Fn(&Block<'_>, &mut Outputs<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Stage {
        Stage::Encode { grain, encode: Box::new(encode), workspace: None }
    }

    /// An encoder of all inputs at once, which takes `workspace` bytes beside them.
    pub fn encode_whole(
        workspace: u64,
        encode: impl Fn(&Block<'_>, &mut Outputs<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Stage {
        Stage::Encode { grain: Grain::Whole, encode: Box::new(encode), workspace: Some(workspace) }
    }

    /// What becomes of the `len` elements that the map before it computes.
    pub fn fold(
        len: u64,
        workspace: u64,
        fold: impl Fn(&[f32], &mut Outputs<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Stage {
        Stage::Fold { len, workspace, fold: Box::new(fold) }
    }

    /// Bytes that are known beforehand, for the one output of a job without inputs.
    pub fn constant(bytes: Vec<u8>) -> Stage {
        Stage::encode(Grain::Whole, move |_, outputs| outputs.put(0, 0, &bytes))
    }

    pub(crate) fn grain(&self) -> Grain {
        match self {
            Stage::Copy => Grain::Elements,
            Stage::Reduce(reduce) => reduce.grain,
            Stage::Map { grain, .. } | Stage::Encode { grain, .. } => *grain,
            Stage::Fold { .. } => Grain::Whole,
        }
    }
}

/// A piece of work that can be done by itself, or meets others only in a group reduction.
pub struct Job {
    /// What progress and errors call it: usually the output tensor's name.
    pub name: String,
    /// What it reads.
    pub inputs: Vec<Input>,
    /// What it writes.
    pub outputs: Vec<Target>,
    /// How, in order.
    pub stages: Vec<Stage>,
}

impl Job {
    /// The elements that its map computes for the fold that ends it; `None` where it ends otherwise.
    pub(crate) fn folded(&self) -> Option<u64> {
        match self.stages.last() {
            Some(Stage::Fold { len, .. }) => Some(*len),
            _ => None,
        }
    }

    /// The number of units of a stage, and how many of them make one block.
    pub(crate) fn cut(&self, grain: Grain) -> (u64, u64) {
        let inputs = self.inputs.iter().map(|input| input.len);
        let longest = match self.folded() {
            Some(len) => len,
            None => inputs.chain(self.outputs.iter().map(|target| target.len)).max().unwrap_or(0),
        };
        match grain {
            Grain::Elements => (longest, BLOCK as u64),
            Grain::Rows(0) => (0, 1),
            Grain::Strips { rows, at_once } => (rows, at_once.max(1)),
            Grain::Rows(rows) => (rows, (BLOCK as u64 / (longest / rows).max(1)).max(1)),
            Grain::Whole => (u64::from(longest > 0), 1),
        }
    }
}
