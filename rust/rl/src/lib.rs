//! Advantages, returns, KL estimators and whitening over ragged batches.
//!
//! Flat arrays and `cu_seqlens`; masks are bytes, 0 for a hole. All arithmetic is `f64`, rounded once on the way out.
//! Results do not depend on threads or on what stands in holes.
//!
//! | module | holds |
//! |---|---|
//! | [`gae`], [`returns`], [`vtrace`] | recurrences over time; [`holes`] says what a masked token means to them |
//! | [`group`], [`baselines`], [`passk`] | group-relative advantages over [`groups`] of samples |
//! | [`estimators`] | pass@k and maj@k |
//! | [`moments`], [`whiten`] | whitening, mergeable over ranks |
//! | [`kl`] | KL estimators and the KL-shaped reward |
//! | [`entropy`], [`pruning`] | the survey's adaptive entropy coefficient and trajectory pruning |
//! | [`ragged`], [`float`] | the checked view of a batch, and its element types |

pub mod baselines;
pub mod entropy;
pub mod estimators;
mod exp;
pub mod float;
pub mod gae;
pub mod group;
pub mod groups;
pub mod holes;
pub mod kl;
pub mod moments;
mod parallel;
pub mod passk;
pub mod pruning;
pub mod ragged;
pub mod returns;
mod simd;
mod sweep;
pub mod vtrace;
pub mod whiten;
