//! Weight-space work, streamed: merge, quantize, prune, convert, diff and statistics are all lists of [`Job`]s.
//!
//! Data flows one way: a [`Source`] gives tensors; a [`Plan`] says which regions of them each job reads, which regions
//! of the output it writes, and through which [`Stage`]s; [`run`](schedule::run) streams blocks of 32,768 elements
//! through the stages on all threads; a [`Sink`] takes the bytes. Memory is bounded by buffers, never by the model.
//!
//! | module | holds |
//! |---|---|
//! | [`source`] | where tensors come from: a checkpoint, arrays in memory |
//! | [`sink`] | where they go: a checkpoint being written, arrays in memory, nowhere |
//! | [`job`] | what to do: regions, stages, blocks, values that one stage leaves for the next |
//! | [`schedule`] | the scheduler |
//! | [`durable`] | a checkpoint with a journal: what a killed run had done, the next one goes on from |
//! | [`survey`] | what each job did to its tensor |
//! | [`mod@verify`] | reading a finished checkpoint back |
//! | [`measure`] | statistics and differences: jobs without output |
//! | [`plan`] | all jobs of one piece of work, and what they will cost |

pub mod durable;
mod encode;
pub mod job;
pub mod measure;
mod memory;
pub mod plan;
pub mod schedule;
pub mod sink;
pub mod source;
mod stream;
pub mod survey;
pub mod verify;

pub use durable::{Durable, Wanted};
pub use encode::Outputs;
pub use job::{Accumulate, Block, Grain, Input, Job, Later, Reduce, Scope, Scratch, Stage, Target};
pub use plan::{Cost, Plan};
pub use schedule::{Options, run};
pub use sink::Sink;
pub use source::{Meta, Source};
