//! In which order documents are merged: each after those whose results it uses.

use super::earlier::uses;
use crate::config::Config;
use polmrs_core::{Error, Result};
use polmrs_io::yaml::Node;

/// The document that the file is for: the one without a name, or the last if all have names.
pub(crate) fn result(configs: &[Config]) -> Result<usize> {
    let nameless = configs.iter().position(|config| config.name.is_none());
    nameless.or(configs.len().checked_sub(1)).ok_or_else(|| Error::Config("the file is empty".into()))
}

/// The documents that the result needs, in an order in which each comes after those it uses.
pub(super) fn order(nodes: &[Node], configs: &[Config]) -> Result<Vec<usize>> {
    for (at, config) in configs.iter().enumerate() {
        if configs[..at].iter().any(|other| other.name == config.name) {
            let what = config.name.as_ref().map_or("a document without a name".into(), |name| format!("'{name}'"));
            return Err(nodes[at].root().error(format_args!("{what} is there twice")));
        }
    }
    let mut state = vec![Visit::New; configs.len()];
    let mut order = Vec::new();
    visit(result(configs)?, nodes, configs, &mut state, &mut order)?;
    match state.iter().position(|state| *state == Visit::New) {
        None => Ok(order),
        Some(unused) => Err(nodes[unused].root().error("the result does not use this document")),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Visit {
    New,
    Open,
    Done,
}

fn visit(at: usize, nodes: &[Node], configs: &[Config], state: &mut [Visit], order: &mut Vec<usize>) -> Result<()> {
    match state[at] {
        Visit::Done => return Ok(()),
        Visit::Open => return Err(nodes[at].root().error("uses its own result, directly or through other documents")),
        Visit::New => state[at] = Visit::Open,
    }
    let names: Vec<&str> = configs.iter().map(|config| config.name.as_deref().unwrap_or_default()).collect();
    for model in &configs[at].models {
        for used in uses(&model.reference, &names) {
            visit(used, nodes, configs, state, order)?;
        }
    }
    state[at] = Visit::Done;
    order.push(at);
    Ok(())
}
