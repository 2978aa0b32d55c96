//! What a merge method is: a row of data about it, and the stages it gives one tensor.
//!
//! The row is the only definition of a method's parameters: the configuration reader checks against it, `polmrs methods`
//! and the documentation print it, and the Python classes are generated from it.

use crate::extra::Function;
use crate::params::Params;
use polmrs_core::Result;
use polmrs_engine::Stage;
use polmrs_io::stats::Kind;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A merge method.
pub trait Method: Sync {
    /// Everything there is to know about it without running it.
    fn spec(&self) -> &Spec;

    /// What it reads of every model's statistics file, if anything.
    fn statistic(&self) -> Option<Kind> {
        None
    }

    /// Whether every element of the result is the same sum of that element of the models, each times a factor that depends
    /// on the parameters alone.
    fn is_linear(&self) -> bool {
        false
    }

    /// The stages that compute one tensor. Inputs: the base first where the method has one, then the models in order, then
    /// the statistic of each model where the tensor has it.
    fn stages(&self, tensor: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>>;
}

/// The tensor that stages are made for.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    /// The output tensor's name: part of the key of its random numbers.
    pub name: &'a str,
    /// Its number of elements.
    pub elements: u64,
    /// The size of its last dimension; a vector is one row.
    pub columns: u64,
    /// All of its sizes, rows first.
    pub shape: &'a [u64],
    /// Whether input 0 is a base.
    pub has_base: bool,
    /// Whether the inputs have each model's statistic.
    pub measured: bool,
    /// The caller's own function, for the method that calls one.
    pub function: Option<&'a Function>,
    /// What the tensors of the merge share.
    pub whole_model: &'a WholeModel,
    /// The seed of the whole merge.
    pub seed: u64,
}

impl Tensor<'_> {
    /// Its number of rows.
    pub fn rows(&self) -> u64 {
        self.elements.checked_div(self.columns).unwrap_or(0)
    }

    /// The size of its first dimension; 1 for a scalar.
    pub fn leading(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }
}

/// Handles that all tensors of one merge share, by type: where a method leaves what it finds over the whole model.
#[derive(Debug, Default)]
pub struct WholeModel(Mutex<HashMap<TypeId, Box<dyn Any + Send>>>);

impl WholeModel {
    /// Whether a method looks at the whole model.
    pub fn is_used(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// A clone of the one handle of this type, such as a [`Later`](polmrs_engine::Later).
    pub fn share<T: Clone + std::default::Default + Send + 'static>(&self) -> T {
        let mut handles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = handles.entry(TypeId::of::<T>()).or_insert_with(|| Box::new(T::default()));
        handle.downcast_ref::<T>().cloned().unwrap_or_default()
    }
}

/// The row of a method.
#[derive(Debug)]
pub struct Spec {
    /// The name in a configuration, which is mergekit's where mergekit has the method.
    pub name: &'static str,
    /// The Python class.
    pub class: &'static str,
    /// The row of the ledger that it makes true.
    pub id: &'static str,
    /// Whether the ledger has that row; other ids are extra.
    pub in_ledger: bool,
    /// The paper's identifier, or `-`.
    pub paper: &'static str,
    /// What it does, in one sentence.
    pub doc: &'static str,
    /// The formula, in TeX.
    pub formula: &'static str,
    /// The part that a base model plays.
    pub base: Base,
    /// The least number of models (without the base, where there is one), and the most.
    pub models: (usize, usize),
    /// Its parameters.
    pub params: &'static [Param],
    /// What its authors set otherwise than the defaults, where that is known.
    pub preset: Option<Preset>,
}

/// The values that a method's authors use.
#[derive(Debug)]
pub struct Preset {
    /// Parameters and what they are set to.
    pub values: &'static [(&'static str, Value)],
    /// Where that is written, as a sentence.
    pub source: &'static str,
}

/// The part that a base model plays in a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Task vectors are differences to it.
    Required,
    /// With one, the method works on task vectors; without, on the models themselves.
    Optional,
    /// It is a model like the others.
    Ignored,
}

/// Where a parameter may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Once for all models.
    Shared,
    /// For each model.
    PerModel,
}

/// A parameter's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A real number.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// One of the names that the parameter lists.
    Choice(&'static str),
    /// Any text: the path of a file.
    Text(Arc<str>),
}

/// What holds where a parameter is not given.
#[derive(Clone, Debug, PartialEq)]
pub enum Default {
    /// This value.
    Is(Value),
    /// It must be given in a configuration file; the Python class has this default if any.
    Required(Option<f64>),
    /// Nothing; the parameter is accepted because mergekit documents it, and has no effect.
    Ignored(&'static str),
}

/// The values a number or a choice may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Every finite number.
    Finite,
    /// 0 to 1, both included.
    Unit,
    /// A whole number, 0 or more.
    Count,
    /// One of these names.
    OneOf(&'static Choices),
    /// Text.
    Text,
}

/// The names of a choice.
#[derive(Debug, PartialEq, Eq)]
pub struct Choices {
    /// All of them.
    pub names: &'static [&'static str],
    /// What no and yes mean, where mergekit has a flag.
    pub flags: Option<[&'static str; 2]>,
}

impl Choices {
    /// The choice that a text or a flag names.
    pub fn named(&self, text: &str) -> Option<&'static str> {
        self.names.iter().find(|name| **name == text).copied()
    }
}

impl Range {
    /// How a message writes it.
    pub fn text(self) -> String {
        match self {
            Range::Finite => "a finite number".into(),
            Range::Unit => "in [0, 1]".into(),
            Range::Count => "a whole number, 0 or more".into(),
            Range::OneOf(choices) => choices.names.join(", "),
            Range::Text => "text".into(),
        }
    }

    /// Whether `x` lies in it.
    pub fn contains(self, x: f64) -> bool {
        match self {
            Range::Finite => x.is_finite(),
            Range::Unit => (0.0..=1.0).contains(&x),
            Range::Count => x >= 0.0 && x.fract() == 0.0 && x <= 1e9,
            Range::OneOf(_) | Range::Text => false,
        }
    }
}

/// One parameter of a method.
#[derive(Debug)]
pub struct Param {
    /// Its name in a configuration.
    pub name: &'static str,
    /// Where it may be given.
    pub scope: Scope,
    /// What holds where it is not.
    pub default: Default,
    /// The values it may take, if it is a number or a choice.
    pub range: Range,
    /// One sentence.
    pub doc: &'static str,
}

impl Param {
    /// Whether it changes anything.
    pub fn has_effect(&self) -> bool {
        !matches!(self.default, Default::Ignored(_))
    }

    /// A per-model number that a configuration must give.
    pub const fn weight(doc: &'static str) -> Param {
        Param {
            name: "weight",
            scope: Scope::PerModel,
            default: Default::Required(Some(1.0)),
            range: Range::Finite,
            doc,
        }
    }

    /// A model's statistics file.
    pub const STATISTICS: Param = Param {
        name: "statistics",
        scope: Scope::PerModel,
        default: Default::Required(None),
        range: Range::Text,
        doc: "The model's statistics file (stats.safetensors).",
    };

    /// A per-model number with a default.
    pub const fn each(name: &'static str, default: f64, doc: &'static str) -> Param {
        Param { name, scope: Scope::PerModel, default: Default::Is(Value::Number(default)), range: Range::Finite, doc }
    }

    /// A shared number with a default.
    pub const fn number(name: &'static str, default: f64, range: Range, doc: &'static str) -> Param {
        Param { name, scope: Scope::Shared, default: Default::Is(Value::Number(default)), range, doc }
    }

    /// A shared yes or no with a default.
    pub const fn flag(name: &'static str, default: bool, doc: &'static str) -> Param {
        let default = Default::Is(Value::Flag(default));
        Param { name, scope: Scope::Shared, default, range: Range::Finite, doc }
    }

    /// A shared choice with a default.
    pub const fn choice(
        name: &'static str,
        default: &'static str,
        choices: &'static Choices,
        doc: &'static str,
    ) -> Param {
        let default = Default::Is(Value::Choice(default));
        Param { name, scope: Scope::Shared, default, range: Range::OneOf(choices), doc }
    }

    /// A parameter that mergekit documents and that changes nothing.
    pub const fn ignored(name: &'static str, scope: Scope, why: &'static str) -> Param {
        Param { name, scope, default: Default::Ignored(why), range: Range::Finite, doc: why }
    }
}
