//! Every merge method: one small file each, or a row of a family.

mod arcee_fusion;
mod custom;
mod delta;
mod expo;
mod fisher;
mod karcher;
mod linear;
mod metagpt;
mod model_stock;
mod multislerp;
mod nearswap;
mod nuslerp;
mod passthrough;
mod ram;
mod regmean;
mod sce;
mod slerp;
mod span;
mod task_vector;

use crate::spec::Method;
use polmrs_core::{Error, Result, error::did_you_mean};

/// Every method of this build.
pub static METHODS: [&dyn Method; 24] = [
    &linear::Linear,
    &slerp::SLERP,
    &nuslerp::NUSLERP,
    &multislerp::MULTISLERP,
    &karcher::KARCHER,
    &model_stock::MODEL_STOCK,
    &task_vector::TASK_ARITHMETIC,
    &task_vector::TIES,
    &task_vector::DARE_TIES,
    &task_vector::DARE_LINEAR,
    &task_vector::BREADCRUMBS,
    &task_vector::BREADCRUMBS_TIES,
    &task_vector::DELLA,
    &task_vector::DELLA_LINEAR,
    &expo::ExPO,
    &metagpt::METAGPT,
    &sce::Sce,
    &nearswap::NearSwap,
    &arcee_fusion::ArceeFusion,
    &ram::RAM,
    &ram::RAMPLUS_TL,
    &fisher::Fisher,
    &regmean::RegMean,
    &passthrough::Passthrough,
];

/// The method with this name in a configuration.
pub fn find(name: &str) -> Result<&'static dyn Method> {
    METHODS.into_iter().chain([&custom::Custom as &dyn Method]).find(|method| method.spec().name == name).ok_or_else(
        || {
            let names: Vec<&str> = METHODS.iter().map(|method| method.spec().name).collect();
            let hint = did_you_mean(name, names.iter().copied());
            Error::Config(format!("'{name}' is not one of {}{hint}", names.join(", ")))
        },
    )
}
