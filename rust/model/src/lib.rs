//! Model folders: what goes into weight-space work, and how what comes out becomes a folder.
//!
//! | module | holds |
//! |---|---|
//! | [`folder`], [`reference`], `found` | an input model, local or on the Hub, what it may be called, where it is found |
//! | [`adapter`] | LoRA adapters on a model, computed as they are read |
//! | [`beside`] | the files beside the weights: tokenizer, configs, licence |
//! | [`card`] | the model card of a result |
//! | [`build`] | from a plan to a folder that appears whole: journal, resume, verification, report |
//! | [`report`] | what the work did to every tensor |

pub mod adapter;
mod announced;
pub mod beside;
pub mod build;
pub mod card;
pub mod folder;
mod found;
pub mod reference;
#[cfg(feature = "hub")]
mod remote;
pub mod report;

pub use folder::{ModelFolder, fetch};
