//! What a configuration says about a merge of adapters.

use crate::spec::{Base, Spec};
use polmrs_core::Result;
use polmrs_io::yaml::{Field, Fields};

/// How the factors of a merged adapter are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Factors {
    /// The key `combination_type`.
    pub combination: Option<Combination>,
    /// The key `svd_rank`.
    pub rank: Option<usize>,
}

/// What factors are made of: peft's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination {
    /// The nearest product of a given rank, by singular values.
    Svd,
    /// The adapters' own factors, one after the other.
    Cat,
}

impl Combination {
    /// As a configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Combination::Svd => "svd",
            Combination::Cat => "cat",
        }
    }
}

impl Factors {
    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<Factors> {
        let combination = fields.optional("combination_type", |field| match field.as_text()?.as_ref() {
            "svd" => Ok(Combination::Svd),
            "cat" => Ok(Combination::Cat),
            other => Err(field.error(format_args!("'{other}' is not one of svd, cat"))),
        })?;
        let rank = fields.optional("svd_rank", |field: &Field<'_>| match field.as_count()? {
            0 => Err(field.error("0 is not a rank of 1 or more")),
            rank if combination == Some(Combination::Cat) => {
                Err(field.error(format_args!("{rank}: is for 'combination_type: svd'; cat keeps the sum of the ranks")))
            }
            rank => Ok(rank),
        })?;
        Ok(Factors { combination, rank })
    }
}

/// What stands for the base where it is zero: no name of a model.
pub(super) const ZERO: &str = "\0zero";

/// Whether a method may have zero for its base: not one that goes from the base to one other model.
pub(super) fn has_zero_base(spec: &Spec) -> bool {
    spec.base == Base::Required && spec.models.1 > 1
}
