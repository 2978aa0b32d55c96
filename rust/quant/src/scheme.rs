//! Schemes: what the weights of a linear layer become, as rows of data.
//!
//! A row is the only definition of its scheme: the command line, the plan, the Python classes and their documentation
//! come from it. A [`Scheme`] is a row with its settings.

use crate::codebook::Table;
use crate::format::{Coding, Format, Group};
use polmrs_core::error::did_you_mean;
use polmrs_core::{Error, Result};
use std::fmt;

/// A scheme's row.
#[derive(Debug, PartialEq, Eq)]
pub struct Spec {
    /// The name on the command line.
    pub name: &'static str,
    /// The Python class.
    pub class: &'static str,
    /// The row of the ledger that it makes true.
    pub id: &'static str,
    /// What its codes mean by default.
    pub coding: Coding,
    /// Whether group and zero point are settings; else the scheme fixes them.
    pub free: bool,
    /// Whether a runtime quantizes activations too, token by token.
    pub activations: bool,
    /// What it is, in one sentence.
    pub doc: &'static str,
}

/// A scheme and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Its row.
    pub spec: &'static Spec,
    /// What its codes mean.
    pub coding: Coding,
}

const fn int(bits: u32, group: Group) -> Coding {
    Coding::Int { bits, symmetric: true, group }
}

const fn row(name: &'static str, class: &'static str, coding: Coding, doc: &'static str) -> Spec {
    Spec { name, class, id: "quant.absmax", coding, free: false, activations: false, doc }
}

/// All schemes.
pub const SCHEMES: &[Spec] = &[
    Spec {
        free: true,
        ..row("w8a16", "W8A16", int(8, Group::Channel), "Weights in 8-bit integers; activations as they are.")
    },
    Spec {
        free: true,
        ..row("w4a16", "W4A16", int(4, Group::Size(128)), "Weights in 4-bit integers; activations as they are.")
    },
    Spec {
        free: true,
        ..row("w3a16", "W3A16", int(3, Group::Size(128)), "Weights in 3-bit integers; activations as they are.")
    },
    Spec {
        free: true,
        ..row("w2a16", "W2A16", int(2, Group::Size(128)), "Weights in 2-bit integers; activations as they are.")
    },
    Spec {
        activations: true,
        ..row(
            "w8a8",
            "W8A8",
            int(8, Group::Channel),
            "Weights in 8-bit integers; a runtime rounds activations to 8 bits too, token by token.",
        )
    },
    Spec {
        activations: true,
        ..row(
            "fp8",
            "W8A8FP8",
            Coding::Fp8 { group: Group::Channel },
            "Weights in FP8 E4M3; a runtime rounds activations to FP8 too, token by token.",
        )
    },
    row(
        "fp8-block",
        "W8A8FP8Block",
        Coding::Fp8 { group: Group::Block { rows: 128, columns: 128 } },
        "Weights in FP8 E4M3 in blocks of 128 x 128 (DeepSeek-V3, arXiv:2412.19437); a runtime rounds activations to FP8 too.",
    ),
    row(
        "nvfp4",
        "NVFP4A16",
        Coding::Nvfp4,
        "Weights in FP4 E2M1 in blocks of 16, under one scale that q, k and v share, and gate and up.",
    ),
    row("mxfp4", "MXFP4A16", Coding::Mxfp4, "Weights in FP4 E2M1 in blocks of 32 that share a power of two."),
    row(
        "nf4",
        "NF4A16",
        Coding::Codebook { table: Table::Nf4, block: 64, nested: false },
        "Weights in the 16 values of NF4, in blocks of 64 counted through all rows (QLoRA, arXiv:2305.14314).",
    ),
    row(
        "llm-int8",
        "W8A8LLMInt8",
        Coding::Int8,
        "Weights in 8-bit integers under each row's largest magnitude (LLM.int8(), arXiv:2208.07339).",
    ),
];

impl Spec {
    /// The row of this name.
    ///
    /// # Errors
    /// [`Error::Usage`] lists the names.
    pub fn named(name: &str) -> Result<&'static Spec> {
        SCHEMES.iter().find(|spec| spec.name == name).ok_or_else(|| {
            let names = SCHEMES.iter().map(|spec| spec.name);
            let hint = did_you_mean(name, names.clone());
            Error::Usage(format!("scheme: '{name}' is not one of {}{hint}", names.collect::<Vec<_>>().join(", ")))
        })
    }
}

impl Scheme {
    /// A row with its defaults.
    pub const fn new(spec: &'static Spec) -> Scheme {
        Scheme { spec, coding: spec.coding }
    }

    /// A name and, after it, settings: `w4a16`, `w4a16 group=64 asym`, `w8a16 group=row`.
    ///
    /// # Errors
    /// [`Error::Usage`] names the word that is no setting of the scheme, and its rule.
    pub fn parse(text: &str) -> Result<Scheme> {
        let mut words = text.split_whitespace();
        let mut scheme = Scheme::new(Spec::named(words.next().unwrap_or_default())?);
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("group", size) => scheme.set_group(size)?,
                ("asym", "") => scheme.set_asym()?,
                ("double", "") => scheme.set_double()?,
                _ => {
                    let (name, rule) = (scheme.spec.name, "settings are group=N, group=row, asym and double");
                    return Err(Error::Usage(format!("{name}: '{word}' is no setting; {rule}")));
                }
            }
        }
        Ok(scheme)
    }

    /// Sets what shares a scale: `row`, or a number of elements.
    pub fn set_group(&mut self, text: &str) -> Result<()> {
        let Spec { name, free, .. } = self.spec;
        let wanted = match text {
            "row" => Group::Channel,
            text => match text.parse() {
                Ok(size) if size > 0 => Group::Size(size),
                _ => return Err(Error::Usage(format!("{name}: group: '{text}' is not a number of elements, or row"))),
            },
        };
        match &mut self.coding {
            Coding::Int { group, .. } if *free => *group = wanted,
            _ => return Err(Error::Usage(format!("{name}: group: is fixed; those that take one: {}", settable()))),
        }
        Ok(())
    }

    /// Asks for a zero point.
    pub fn set_asym(&mut self) -> Result<()> {
        match &mut self.coding {
            Coding::Int { symmetric, .. } if self.spec.free => *symmetric = false,
            _ => {
                let name = self.spec.name;
                return Err(Error::Usage(format!("{name}: has no zero point; those that may: {}", settable())));
            }
        }
        Ok(())
    }

    /// Asks for scales that are quantized too.
    pub fn set_double(&mut self) -> Result<()> {
        match &mut self.coding {
            Coding::Codebook { nested, .. } => *nested = true,
            _ => {
                return Err(Error::Usage(format!(
                    "{}: double: only the scales of nf4 are quantized too",
                    self.spec.name
                )));
            }
        }
        Ok(())
    }

    /// The file format that holds it if none is asked for.
    pub const fn format(&self) -> Format {
        match self.coding {
            Coding::Codebook { .. } | Coding::Int8 => Format::Bnb,
            Coding::Fp8 { group: Group::Block { .. } } => Format::Fp8,
            _ => Format::CompressedTensors,
        }
    }

    /// Whether there is a zero point to find.
    pub const fn asym(&self) -> bool {
        matches!(self.coding, Coding::Int { symmetric: false, .. })
    }
}

fn settable() -> String {
    SCHEMES.iter().filter(|spec| spec.free).map(|spec| spec.name).collect::<Vec<_>>().join(", ")
}

/// As [`Scheme::parse`] takes it.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spec.name)?;
        match self.coding {
            Coding::Int { group: Group::Size(size), .. } if self.spec.free => write!(f, " group={size}")?,
            Coding::Int { .. } if self.spec.free => f.write_str(" group=row")?,
            _ => {}
        }
        let double = matches!(self.coding, Coding::Codebook { nested: true, .. });
        f.write_str(if self.asym() { " asym" } else { "" })?;
        f.write_str(if double { " double" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_reads_as_it_is_written() {
        for text in ["w4a16 group=64 asym", "w8a16 group=row", "w8a8", "nvfp4", "nf4 double", "w2a16 group=32"] {
            assert_eq!(Scheme::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Scheme::parse("w4a16").unwrap().to_string(), "w4a16 group=128");
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_rule() {
        for (text, rule) in [
            ("w4a61", "scheme: 'w4a61' is not one of w8a16, w4a16"),
            ("w4a16 group=0", "w4a16: group: '0' is not a number of elements, or row"),
            ("nvfp4 group=32", "nvfp4: group: is fixed; those that take one: w8a16, w4a16, w3a16, w2a16"),
            ("fp8 asym", "fp8: has no zero point; those that may: w8a16, w4a16, w3a16, w2a16"),
            ("w4a16 double", "w4a16: double: only the scales of nf4 are quantized too"),
            ("w4a16 sym", "w4a16: 'sym' is no setting"),
        ] {
            let error = Scheme::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(rule), "{error}");
        }
    }
}
