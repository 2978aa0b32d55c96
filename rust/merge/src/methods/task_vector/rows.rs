//! The methods of the family: what each sparsifies by, whether it elects signs, and its defaults.

use super::{Sparsify, TaskVectors};
use crate::spec::{Base, Choices, Default, Param, Preset, Range, Scope, Spec, Value};

const WEIGHT: Param = Param::weight("Weight of the model's task vector.");
const LAMBDA: Param = Param::number("lambda", 1.0, Range::Finite, "Factor on the merged task vector.");
const INT8_MASK: Param = Param::ignored("int8_mask", Scope::Shared, "it changes the type of temporaries only");
const DENSITY: Param = Param {
    name: "density",
    scope: Scope::PerModel,
    default: Default::Is(Value::Number(1.0)),
    range: Range::Unit,
    doc: "Share of the task vector's elements that is kept.",
};

const GAMMA: Param = Param {
    name: "gamma",
    scope: Scope::PerModel,
    default: Default::Is(Value::Number(0.01)),
    range: Range::Unit,
    doc: "Share of the very largest elements that is dropped too.",
};
const EPSILON: Param = Param {
    name: "epsilon",
    scope: Scope::PerModel,
    default: Default::Is(Value::Number(0.15)),
    range: Range::Unit,
    doc: "How far the probability of keeping departs from the density, at the smallest and at the largest element.",
};

const fn normalize(default: bool) -> Param {
    Param::flag("normalize", default, "Divide by the sum of the weights that take part.")
}

/// mergekit's flag, for what is dropped by magnitude.
const RESCALE: Param = Param::choice(
    "rescale",
    "none",
    &Choices { names: &["l1", "none"], flags: Some(["none", "l1"]) },
    "What is kept is scaled to the L1 norm from before (true: l1, false: none).",
);
/// mergekit's flag, for what is dropped at random.
const RESCALE_DRAWN: Param = Param::choice(
    "rescale",
    "l1",
    &Choices { names: &["l1", "expected", "none"], flags: Some(["none", "l1"]) },
    "What is kept is scaled to the L1 norm from before, or divided by its probability of being kept (true: l1, false: none).",
);
const TRIM_SCOPE: Param = Param::choice(
    "trim_scope",
    "tensor",
    &Choices { names: &["tensor", "model"], flags: None },
    "Whether the density is that of each tensor, or of the whole model.",
);
const ZERO_SIGN: Param = Param::choice(
    "zero_sign",
    "positive",
    &Choices { names: &["positive", "majority"], flags: None },
    "The sign elected where the sum is 0: positive, or that of most sums of the whole model.",
);

/// 0.9 and more is what the paper drops of one model that is merged with nothing.
const DARE_PRESET: Option<Preset> = Some(Preset {
    values: &[("density", Value::Number(0.8)), ("rescale", Value::Choice("expected"))],
    source: "The values of the authors of arXiv:2311.03099 for merges of language models (README of yule-BUAA/MergeLM): drop rate 0.2, there before an average.",
});
const MAGPRUNE: &str = "The values of the authors of arXiv:2406.11617 in the README of declare-lab/della: drop rate 0.3, window 0.14 (twice `epsilon`), and for `della` a lambda of 1.1.";

pub(in crate::methods) static TASK_ARITHMETIC: TaskVectors = TaskVectors {
    spec: Spec {
        name: "task_arithmetic",
        class: "TaskArithmetic",
        id: "merge.task-arithmetic",
        in_ledger: true,
        paper: "arXiv:2212.04089",
        doc: "Weighted sum of task vectors on the base.",
        formula: r"\theta = \theta_0 + \lambda\sum_i w_i(\theta_i - \theta_0)",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[
            WEIGHT,
            normalize(false),
            LAMBDA,
            INT8_MASK,
            Param::ignored("density", Scope::PerModel, "nothing is dropped; use ties or dare_linear"),
            Param::ignored("rescale", Scope::Shared, "nothing is dropped, so nothing is rescaled"),
        ],
        preset: None,
    },
    sparsify: Sparsify::Nothing,
    consensus: false,
};

pub(in crate::methods) static TIES: TaskVectors = TaskVectors {
    spec: Spec {
        name: "ties",
        class: "TIES",
        id: "merge.ties",
        in_ledger: true,
        paper: "arXiv:2306.01708",
        doc: "Keep the largest elements of each task vector, elect a sign, average what agrees with it.",
        formula: r"\theta = \theta_0 + \lambda\frac{\sum_{i \in A} w_i d_i}{\sum_{i \in A} w_i},\quad A = \{i : \mathrm{sgn}(w_i d_i) = \mathrm{sgn}\textstyle\sum_j w_j d_j\}",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, TRIM_SCOPE, normalize(true), RESCALE, LAMBDA, ZERO_SIGN, INT8_MASK],
        preset: Some(Preset {
            values: &[
                ("density", Value::Number(0.2)),
                ("trim_scope", Value::Choice("model")),
                ("zero_sign", Value::Choice("majority")),
            ],
            source: "The values of arXiv:2306.01708 and of its authors' code, prateeky2806/ties-merging.",
        }),
    },
    sparsify: Sparsify::Largest,
    consensus: true,
};

pub(in crate::methods) static DARE_TIES: TaskVectors = TaskVectors {
    spec: Spec {
        name: "dare_ties",
        class: "DARETIES",
        id: "merge.dare",
        in_ledger: true,
        paper: "arXiv:2311.03099",
        doc: "Drop elements of each task vector at random, rescale, then merge as TIES does.",
        formula: r"d_i = m_i \odot (\theta_i - \theta_0)\,r_i,\quad m_i \sim \mathrm{Bernoulli}(density)",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, normalize(false), RESCALE_DRAWN, LAMBDA, ZERO_SIGN, INT8_MASK],
        preset: DARE_PRESET,
    },
    sparsify: Sparsify::AtRandom,
    consensus: true,
};

pub(in crate::methods) static DARE_LINEAR: TaskVectors = TaskVectors {
    spec: Spec {
        name: "dare_linear",
        class: "DARE",
        id: "merge.dare",
        in_ledger: true,
        paper: "arXiv:2311.03099",
        doc: "Drop elements of each task vector at random, rescale, then add them up.",
        formula: r"\theta = \theta_0 + \lambda\sum_i w_i\,r_i\,m_i \odot (\theta_i - \theta_0),\quad m_i \sim \mathrm{Bernoulli}(density)",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, normalize(false), RESCALE_DRAWN, LAMBDA, INT8_MASK],
        preset: DARE_PRESET,
    },
    sparsify: Sparsify::AtRandom,
    consensus: false,
};

pub(in crate::methods) static BREADCRUMBS: TaskVectors = TaskVectors {
    spec: Spec {
        name: "breadcrumbs",
        class: "Breadcrumbs",
        id: "merge.breadcrumbs",
        in_ledger: false,
        paper: "arXiv:2312.06795",
        doc: "Drop the smallest and the very largest elements of each task vector, then add them up.",
        formula: r"\theta = \theta_0 + \lambda\sum_i w_i\,m_i \odot (\theta_i - \theta_0),\quad m_i = [\gamma n \le \mathrm{rank} < (\gamma + density)\,n]",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, GAMMA, normalize(false), RESCALE, LAMBDA, INT8_MASK],
        preset: None,
    },
    sparsify: Sparsify::Band,
    consensus: false,
};

pub(in crate::methods) static BREADCRUMBS_TIES: TaskVectors = TaskVectors {
    spec: Spec {
        name: "breadcrumbs_ties",
        class: "BreadcrumbsTIES",
        id: "merge.breadcrumbs",
        in_ledger: false,
        paper: "arXiv:2312.06795",
        doc: "Drop the smallest and the very largest elements of each task vector, then merge as TIES does.",
        formula: r"d_i = m_i \odot (\theta_i - \theta_0),\quad m_i = [\gamma n \le \mathrm{rank} < (\gamma + density)\,n]",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, GAMMA, normalize(false), RESCALE, LAMBDA, ZERO_SIGN, INT8_MASK],
        preset: None,
    },
    sparsify: Sparsify::Band,
    consensus: true,
};

pub(in crate::methods) static DELLA: TaskVectors = TaskVectors {
    spec: Spec {
        name: "della",
        class: "DELLA",
        id: "merge.della",
        in_ledger: false,
        paper: "arXiv:2406.11617",
        doc: "Drop elements of each task vector at random, small ones more often, rescale, then merge as TIES does.",
        formula: r"m_i \sim \mathrm{Bernoulli}(density - \epsilon + 2\epsilon\,\mathrm{rank}/(columns - 1))",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, EPSILON, normalize(true), RESCALE_DRAWN, LAMBDA, ZERO_SIGN, INT8_MASK],
        preset: Some(Preset {
            values: &[
                ("density", Value::Number(0.7)),
                ("epsilon", Value::Number(0.07)),
                ("rescale", Value::Choice("expected")),
                ("lambda", Value::Number(1.1)),
            ],
            source: MAGPRUNE,
        }),
    },
    sparsify: Sparsify::ByRank,
    consensus: true,
};

pub(in crate::methods) static DELLA_LINEAR: TaskVectors = TaskVectors {
    spec: Spec {
        name: "della_linear",
        class: "DELLALinear",
        id: "merge.della",
        in_ledger: false,
        paper: "arXiv:2406.11617",
        doc: "Drop elements of each task vector at random, small ones more often, rescale, then add them up.",
        formula: r"m_i \sim \mathrm{Bernoulli}(density - \epsilon + 2\epsilon\,\mathrm{rank}/(columns - 1))",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, EPSILON, normalize(false), RESCALE_DRAWN, LAMBDA, INT8_MASK],
        preset: Some(Preset {
            values: &[
                ("density", Value::Number(0.7)),
                ("epsilon", Value::Number(0.07)),
                ("rescale", Value::Choice("expected")),
            ],
            source: MAGPRUNE,
        }),
    },
    sparsify: Sparsify::ByRank,
    consensus: false,
};
