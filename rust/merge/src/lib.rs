//! Model merging on the engine: methods as rows of data, mergekit's configurations, whole output folders.
//!
//! | module | holds |
//! |---|---|
//! | [`config`], [`setting`] | a configuration, and what it says about each parameter of each tensor |
//! | [`extra`] | what a merge takes beside models: statistics files, a caller's function |
//! | [`spec`], [`params`] | what a method is, and the values of its parameters for one tensor |
//! | [`methods`] | every method, one small file each or a row of a family |
//! | [`program`], `outline` | a configuration and open models to a plan; where tensors belong, by their names |
//! | [`tokenizer`] | models with different vocabularies: tokens, rows, files |
//! | `adapters` | adapters merged into an adapter, without a model |
//! | `low_rank` | the nearest matrix of a rank, as factors |
//! | [`chain`] | a file of several documents, later ones on the results of earlier ones |
//! | [`run`](mod@run) | a merge into a folder |
//! | [`sweep`], [`trial`], [`score`] | several values of parameters, each merged and scored; the best is kept |
//! | [`soup`] | models averaged one by one, as long as a score does not fall |

mod adapters;
pub mod chain;
pub mod config;
mod drawn;
pub mod extra;
mod least_squares;
mod low_rank;
pub mod methods;
mod outline;
pub mod params;
pub mod program;
mod rank_draw;
mod ranking;
mod relayer;
pub mod run;
pub mod schema;
pub mod score;
mod select;
pub mod setting;
pub mod soup;
mod sparsify;
pub mod spec;
pub mod sweep;
pub mod tokenizer;
pub mod trial;
