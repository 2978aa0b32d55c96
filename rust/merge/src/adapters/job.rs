//! The jobs of one module: from the adapters' factors, or from the dense change that a method makes, to new factors.

use super::Lost;
use crate::config::Combination;
use crate::low_rank::{self, LowRank, Panel, nearest, of_product};
use polmrs_core::philox::Key;
use polmrs_core::{BLOCK, Dtype, Error, Result, dtype};
use polmrs_engine::source::Meta;
use polmrs_engine::{Block, Input, Job, Outputs, Stage, Target};
use polmrs_model::adapter::Adapter;
use polmrs_model::adapter::factors::Factors;
use polmrs_model::adapter::products::Module;
use polmrs_model::adapter::weights::{PREFIX, transposed};
use std::sync::PoisonError;

/// A module of the result.
#[derive(Clone)]
pub(super) struct Factored {
    pub(super) name: String,
    pub(super) module: Module,
    pub(super) rank: u64,
    pub(super) kind: Dtype,
    pub(super) lost: Lost,
}

/// How its factors come about.
pub(super) enum Way {
    /// From the change that the method makes of all changes.
    Dense { key: Key },
    /// From the adapters' own factors.
    Shares { shares: Vec<Share>, combination: Combination },
}

/// One adapter's share of a linear result.
#[derive(Clone, Copy)]
pub(super) struct Share {
    /// Which of the adapters, and where its tensors are in the plan.
    adapter: usize,
    source: usize,
    a: usize,
    b: usize,
    rank: u64,
    scale: f32,
    coefficient: f32,
}

impl Share {
    /// What the adapter of a number has of a module; its tensors are the plan's source `source`, `coefficient` is the method's.
    pub(super) fn of(adapter: (usize, &Adapter), module: &str, source: usize, coefficient: f32) -> Option<Share> {
        let (number, adapter) = adapter;
        let pair = adapter.pairs.get(module)?;
        let (scale, rank) = (adapter.config.scale(module), adapter.config.rank(module));
        Some(Share { adapter: number, source, a: pair.a?, b: pair.b?, rank, scale, coefficient })
    }

    /// What its product is multiplied by.
    fn whole(&self) -> f64 {
        f64::from(self.scale) * f64::from(self.coefficient)
    }
}

impl Factored {
    /// The tensors of the module, which are `first` and the next of the plan, and their job in place of the dense one.
    pub(super) fn job(self, dense: Job, way: Way, first: usize) -> Result<([Meta; 2], Job)> {
        let Module { inputs, outputs, embedding, .. } = self.module;
        let parts =
            if embedding { ["lora_embedding_A", "lora_embedding_B"] } else { ["lora_A.weight", "lora_B.weight"] };
        let named = |part: &str, shape: [u64; 2]| Meta {
            name: format!("{PREFIX}{}.{part}", self.name),
            dtype: self.kind,
            shape: shape.to_vec(),
        };
        let metas = [named(parts[0], [self.rank, inputs]), named(parts[1], [outputs, self.rank])];
        let target = |at: usize| Target { tensor: first + at, first: 0, len: metas[at].elements() };
        let targets = vec![target(0), target(1)];
        let job = match way {
            Way::Dense { key } => self.of_change(dense, key, targets)?,
            Way::Shares { shares, combination } => self.of_shares(&dense, shares, combination, targets),
        };
        Ok((metas, job))
    }

    fn of_change(self, mut job: Job, key: Key, outputs: Vec<Target>) -> Result<Job> {
        if !matches!(job.stages.last(), Some(Stage::Map { .. })) {
            return Err(Error::Internal(format!("'{}': a change that is no map", self.name)));
        }
        let [rows, columns] = self.module.shape();
        let workspace = low_rank::workspace(rows, columns, self.rank) + 4 * self.rank * (rows + columns);
        job.stages.push(Stage::fold(rows * columns, workspace, move |change, outputs| {
            self.check(change, f32::INFINITY)?;
            let found = nearest(change, columns as usize, self.rank as usize, key);
            self.lose(found.lost);
            if self.module.embedding {
                let (a, b) = (transposed(&found.left, rows as usize), transposed(&found.right, self.rank as usize));
                return self.put(&a, &b, outputs);
            }
            self.put(&found.right, &found.left, outputs)
        }));
        job.outputs = outputs;
        Ok(job)
    }

    fn of_shares(self, dense: &Job, shares: Vec<Share>, combination: Combination, outputs: Vec<Target>) -> Job {
        let Module { inputs: width, outputs: height, .. } = self.module;
        let inner = shares.iter().map(|share| share.rank).sum();
        let input = |share: &Share, tensor: usize, size: u64| Input {
            source: share.source,
            tensor,
            first: 0,
            len: size * share.rank,
            round: None,
        };
        let inputs = shares.iter().flat_map(|share| [input(share, share.a, width), input(share, share.b, height)]);
        // A survey sees the changes in the order in which a dense merge reads them.
        let order: Vec<usize> = dense.inputs.iter().map(|input| input.source).collect();
        let (name, inputs) = (dense.name.clone(), inputs.collect());
        let workspace = low_rank::workspace_of_product(height, width, inner, self.rank);
        let stage = Stage::encode_whole(workspace, move |block, outputs| {
            block.inputs.iter().try_for_each(|values| self.check(values, f32::INFINITY))?;
            if outputs.surveyed() {
                self.survey(block, &shares, &order, outputs);
            }
            let LowRank { left, right, lost } = match combination {
                Combination::Cat => self.side_by_side(block, &shares),
                Combination::Svd => self.nearest(block, &shares),
            };
            self.lose(lost);
            self.put(&right, &left, outputs)
        });
        Job { name, inputs, outputs, stages: vec![stage] }
    }

    /// All factors of all shares, zeros where there are fewer than the rank.
    fn side_by_side(&self, block: &Block<'_>, shares: &[Share]) -> LowRank {
        let rank = self.rank as usize;
        let (mut left, mut right) = (vec![0.0; rank * self.module.outputs as usize], Vec::new());
        let mut at = 0;
        for (share, factors) in shares.iter().zip(block.inputs.chunks(2)) {
            let own = share.rank as usize;
            for (to, from) in left.chunks_mut(rank).zip(factors[1].chunks(own)) {
                for (to, from) in to[at..].iter_mut().zip(from) {
                    *to = (f64::from(*from) * share.whole()) as f32;
                }
            }
            right.extend_from_slice(&factors[0]);
            at += own;
        }
        right.resize(rank * self.module.inputs as usize, 0.0);
        LowRank { left, right, lost: 0.0 }
    }

    fn nearest(&self, block: &Block<'_>, shares: &[Share]) -> LowRank {
        let (mut left, mut right) =
            (Panel::empty(self.module.outputs as usize), Panel::empty(self.module.inputs as usize));
        for (share, factors) in shares.iter().zip(block.inputs.chunks(2)) {
            left.extend_scaled(&factors[1], false, share.whole());
            right.extend_scaled(&factors[0], true, 1.0);
        }
        of_product(left, right, self.rank as usize, None)
    }

    /// Shows the survey the dense changes and their sum, some rows at a time.
    fn survey(&self, block: &Block<'_>, shares: &[Share], order: &[usize], outputs: &Outputs<'_>) {
        let columns = self.module.inputs as usize;
        let rows = (BLOCK / columns.max(1)).max(1);
        let factors: Vec<Factors> = shares
            .iter()
            .zip(block.inputs.chunks(2))
            .map(|(share, pair)| Factors {
                left: pair[1].clone(),
                right: pair[0].clone(),
                rank: share.rank as usize,
                columns,
            })
            .collect();
        let height = self.module.outputs as usize;
        for (piece, row) in (0..height).step_by(rows).enumerate() {
            let len = rows.min(height - row) * columns;
            let mut sum = vec![0.0; len];
            let mut change = |source: &usize| {
                let mut change = vec![0.0; len];
                if let Some(at) = shares.iter().position(|share| share.adapter == *source) {
                    factors[at].add((row * columns) as u64, &mut change, shares[at].scale);
                    sum.iter_mut().zip(&change).for_each(|(sum, x)| *sum += x * shares[at].coefficient);
                }
                change
            };
            let changes: Vec<Vec<f32>> = order.iter().map(&mut change).collect();
            outputs.compare_with(0, piece as u64, &changes, &sum);
        }
    }

    fn lose(&self, share: f64) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(self.name.clone(), share);
    }

    /// Refuses NaN, and what is beyond the largest number.
    fn check(&self, values: &[f32], largest: f32) -> Result<()> {
        match dtype::first_beyond(values, largest) {
            None => Ok(()),
            Some(at) => {
                let (name, value, kind) = (&self.name, values[at], self.kind.torch_name());
                Err(Error::NonFinite(format!("'{name}': a factor or a change is {value}, not finite in {kind}")))
            }
        }
    }

    fn put(&self, a: &[f32], b: &[f32], outputs: &mut Outputs<'_>) -> Result<()> {
        let mut bytes = Vec::new();
        for (at, values) in [a, b].into_iter().enumerate() {
            self.check(values, dtype::overflow(self.kind))?;
            bytes.resize(values.len() * self.kind.size(), 0);
            dtype::from_f32(self.kind, values, &mut bytes);
            outputs.put(at, 0, &bytes)?;
        }
        Ok(())
    }
}
