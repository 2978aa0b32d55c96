//! What blocks have in common before any is coded: NVFP4's scale of a tensor and those fused with it, and the mean of NF4
//! scales.

use crate::coder::Coder;
use crate::format::Coding;
use crate::fp4::nv_global;
use crate::group::absmax;
use crate::scheme::Scheme;
use crate::select;
use polmrs_core::reduce::Ordered;
use polmrs_engine::job::Accumulate;
use polmrs_engine::source::Meta;
use polmrs_engine::{Grain, Later, Scope, Stage};
use std::collections::HashMap;

/// What weights have in common before any block is coded, and what tensors share it.
pub(crate) struct Shared {
    leaders: Vec<usize>,
    /// How many tensors each leader leads to one NVFP4 scale, itself counted.
    members: HashMap<usize, usize>,
    found: HashMap<usize, Later<f32>>,
}

struct Largest(f32);

impl Accumulate for Largest {
    fn merge(&mut self, other: Self) {
        self.0 = self.0.max(other.0);
    }
}

impl Shared {
    pub(crate) fn new(tensors: &[Meta], schemes: &[Option<Scheme>]) -> Shared {
        let leaders = select::fused(tensors);
        let mut members = HashMap::new();
        for (leader, scheme) in leaders.iter().zip(schemes) {
            if scheme.is_some_and(|scheme| scheme.coding == Coding::Nvfp4) {
                *members.entry(*leader).or_insert(0) += 1;
            }
        }
        Shared { leaders, members, found: HashMap::new() }
    }

    /// Adds the stage that finds what a weight's blocks have in common, if its coding has such.
    pub(crate) fn common(
        &mut self,
        coder: &Coder,
        at: usize,
        grain: Grain,
        stages: &mut Vec<Stage>,
    ) -> Option<Later<f32>> {
        match coder.coding {
            Coding::Nvfp4 => Some(self.nvfp4(at, grain, stages)),
            Coding::Codebook { block, nested: true, .. } => Some(mean_scale(block, grain, stages)),
            _ => None,
        }
    }

    /// NVFP4's scale: from the largest magnitude of a tensor and those that share it.
    fn nvfp4(&mut self, at: usize, grain: Grain, stages: &mut Vec<Stage>) -> Later<f32> {
        let leader = self.leaders[at];
        let later = self.found.entry(leader).or_default().clone();
        let alone = self.members.get(&leader).is_none_or(|count| *count == 1);
        let scope = if alone { Scope::Tensor } else { Scope::Group(leader as u32) };
        let found = later.clone();
        stages.push(Stage::reduce(
            grain,
            scope,
            || Largest(0.0),
            |largest, block| {
                largest.0 = largest.0.max(absmax(block.input(0)));
                Ok(())
            },
            move |largest| {
                found.set(nv_global(largest.0));
                Ok(())
            },
        ));
        later
    }
}

/// The mean of NF4 scales, which double quantization takes off. The strips of `grain` hold whole blocks.
fn mean_scale(block: usize, grain: Grain, stages: &mut Vec<Stage>) -> Later<f32> {
    let later = Later::<f32>::default();
    let found = later.clone();
    stages.push(Stage::reduce(
        grain,
        Scope::Tensor,
        Ordered::<2>::default,
        move |sums, part| {
            let scales = part.input(0).chunks(block).map(|x| f64::from(absmax(x)));
            let (sum, count) = scales.fold((0.0, 0.0), |(sum, count), scale| (sum + scale, count + 1.0));
            sums.push(part.ordinal, [sum, count]);
            Ok(())
        },
        move |sums| {
            let [sum, count] = sums.total();
            found.set((sum / count) as f32);
            Ok(())
        },
    ));
    later
}
