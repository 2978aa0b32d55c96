//! Every merge method: one small file each, or a row of a family.

mod linear;
mod passthrough;
mod slerp;
mod task_vector;

use crate::spec::Method;
use polmrs_core::{Error, Result, error::did_you_mean};

/// Every method of this build.
pub static METHODS: [&dyn Method; 7] = [
    &linear::Linear,
    &slerp::Slerp,
    &task_vector::TASK_ARITHMETIC,
    &task_vector::TIES,
    &task_vector::DARE_TIES,
    &task_vector::DARE_LINEAR,
    &passthrough::Passthrough,
];

/// The method with this name in a configuration.
pub fn find(name: &str) -> Result<&'static dyn Method> {
    METHODS.into_iter().find(|method| method.spec().name == name).ok_or_else(|| {
        let names: Vec<&str> = METHODS.iter().map(|method| method.spec().name).collect();
        let hint = did_you_mean(name, names.iter().copied());
        Error::Config(format!("merge_method: '{name}' is not one of {}{hint}", names.join(", ")))
    })
}
