//! What a job did to its tensor, looked at while its blocks are at hand: how far the result moved from the first input,
//! which way, and whether the other inputs agreed.

use crate::stream::guard;
use polmrs_core::reduce::{Ordered, dot, dots_of_pair};
use serde_json::{Value as Json, json};
use std::sync::Mutex;

/// What was seen of one output tensor, as it was written (after rounding). Where it holds NaN or infinities, so do the
/// norms and the cosine.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The norm of the result less the reference, which is the first input: the base, where there is one.
    pub delta_norm: f64,
    /// That, over the norm of the reference; infinite where only the reference is zero.
    pub relative: f64,
    /// The cosine of the angle between result and reference; 1 where both are zero.
    pub cosine: f64,
    /// The share of elements that one of the other inputs moves up and another moves down.
    pub sign_conflict: f64,
    /// The share of elements that differ from the reference.
    pub kept: f64,
    /// How many elements are NaN or infinite.
    pub nonfinite: u64,
    /// For the weight of a layer whose inputs are known: the norm of what the result adds to the layer's output, over the norm
    /// of the output.
    pub output: Option<f64>,
}

impl Row {
    /// As JSON; what is no finite number is null.
    pub fn to_json(&self) -> Json {
        let mut row = json!({
            "delta_norm": self.delta_norm, "relative": self.relative, "cosine": self.cosine,
            "sign_conflict": self.sign_conflict, "kept": self.kept, "nonfinite": self.nonfinite,
        });
        if let Some(output) = self.output {
            row["output"] = output.into();
        }
        row
    }
}

/// What is being seen of all output tensors.
pub struct Survey {
    seen: Vec<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    sums: Ordered<4>,
    elements: u64,
    conflicts: u64,
    kept: u64,
    nonfinite: u64,
    outputs: Option<Ordered<2>>,
}

impl Survey {
    /// A survey of this many output tensors.
    pub fn new(outputs: usize) -> Survey {
        Survey { seen: (0..outputs).map(|_| Mutex::default()).collect() }
    }

    /// Looks at one block: its inputs, and what was written.
    pub(crate) fn look(&self, tensor: usize, ordinal: u64, inputs: &[Vec<f32>], written: &[f32]) {
        let [reference, others @ ..] = inputs else { return };
        let n = written.len();
        if n == 0 || inputs.iter().any(|input| input.len() != n) {
            return; // a job of another shape than its inputs has no reference
        }
        let delta: Vec<f32> = written.iter().zip(reference).map(|(x, reference)| x - reference).collect();
        let [xx, xr, rr] = dots_of_pair(written, reference);
        let count = |hits: &mut dyn Iterator<Item = bool>| hits.filter(|hit| *hit).count() as u64;
        let (mut up, mut down) = (vec![false; n], vec![false; n]);
        for other in others {
            for (((up, down), x), reference) in up.iter_mut().zip(&mut down).zip(other).zip(reference) {
                *up |= x > reference;
                *down |= x < reference;
            }
        }
        let conflicts = count(&mut up.iter().zip(&down).map(|(up, down)| *up & *down));
        let kept = count(&mut written.iter().zip(reference).map(|(x, reference)| x != reference));
        let nonfinite = count(&mut written.iter().map(|x| !x.is_finite()));
        let dd = dot(&delta, &delta);
        let mut seen = guard(&self.seen[tensor]);
        seen.sums.push(ordinal, [xx, xr, rr, dd]);
        seen.elements += n as u64;
        seen.conflicts += conflicts;
        seen.kept += kept;
        seen.nonfinite += nonfinite;
    }

    /// Takes a block's share of the squared error of a layer's output, and of the squared output.
    pub(crate) fn weigh(&self, tensor: usize, ordinal: u64, squares: [f64; 2]) {
        guard(&self.seen[tensor]).outputs.get_or_insert_default().push(ordinal, squares);
    }

    /// What was seen of a tensor; `None` for one that was copied, or has no reference.
    pub fn row(&self, tensor: usize) -> Option<Row> {
        let seen = guard(&self.seen[tensor]);
        if seen.elements == 0 {
            return None;
        }
        let [xx, xr, rr, dd] = seen.sums.clone().total();
        let share = |count: u64| count as f64 / seen.elements as f64;
        let output = seen.outputs.clone().map(Ordered::total);
        Some(Row {
            delta_norm: dd.sqrt(),
            relative: ratio(dd, rr),
            cosine: if xx * rr == 0.0 { f64::from(u8::from(xx == rr)) } else { xr / (xx * rr).sqrt() },
            sign_conflict: share(seen.conflicts),
            kept: share(seen.kept),
            nonfinite: seen.nonfinite,
            output: output.map(|[error, whole]| ratio(error.max(0.0), whole)),
        })
    }
}

/// The root of a squared error over a square; 0 where there is none.
fn ratio(error: f64, whole: f64) -> f64 {
    if error == 0.0 { 0.0 } else { (error / whole).sqrt() }
}
