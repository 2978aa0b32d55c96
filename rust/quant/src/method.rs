//! How codes are found: round to nearest, on a clipped range, or with HQQ's zero point. Each is a row of data.

use crate::hqq::Hqq;
use crate::row::Clip;
use polmrs_core::error::did_you_mean;
use polmrs_core::{Error, Result};
use std::fmt::{self, Write};

/// A method's row.
#[derive(Debug, PartialEq)]
pub struct Spec {
    /// The name on the command line.
    pub name: &'static str,
    /// The Python class.
    pub class: &'static str,
    /// The row of the ledger that it makes true, or an id of its own.
    pub id: &'static str,
    /// Whether the ledger has that row.
    pub in_ledger: bool,
    /// The paper's identifier, or `-`.
    pub paper: &'static str,
    /// What it does, in one sentence.
    pub doc: &'static str,
    /// Its settings.
    pub params: &'static [Param],
}

/// A setting of a method.
#[derive(Debug, PartialEq)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// What holds where it is not given.
    pub default: f64,
    /// The least value.
    pub least: Bound,
    /// The greatest value.
    pub most: Bound,
    /// Whether it is a whole number.
    pub whole: bool,
    /// One sentence.
    pub doc: &'static str,
}

/// One end of a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// The number itself is allowed.
    Included(f64),
    /// It is not.
    Excluded(f64),
}

use Bound::{Excluded, Included};

/// All methods.
pub const METHODS: &[Spec] = &[
    Spec {
        name: "rtn",
        class: "RTN",
        id: "quant.absmax",
        in_ledger: true,
        paper: "-",
        doc: "Round to nearest on a grid scaled by the largest magnitude, or by minimum and maximum with a zero point.",
        params: &[],
    },
    Spec {
        name: "mse",
        class: "MSE",
        id: "quant.mse-clip",
        in_ledger: false,
        paper: "-",
        doc: "Round to nearest on the range, of several narrower ones, that has the least squared error.",
        params: &[
            Param {
                name: "steps",
                default: 20.0,
                least: Included(1.0),
                most: Included(1e6),
                whole: true,
                doc: "How many ranges to try.",
            },
            Param {
                name: "shrink",
                default: 0.2,
                least: Excluded(0.0),
                most: Excluded(1.0),
                whole: false,
                doc: "How much of the range the narrowest leaves out.",
            },
        ],
    },
    Spec {
        name: "hqq",
        class: "HalfQuadratic",
        id: "quant.hqq",
        in_ledger: false,
        paper: "-",
        doc: "HQQ's search for a zero point (Badri and Shaji, 2023), then rounded to a code, as files have it.",
        params: &[
            Param {
                name: "norm",
                default: 0.7,
                least: Excluded(0.0),
                most: Excluded(1.0),
                whole: false,
                doc: "The norm of the error.",
            },
            Param {
                name: "beta",
                default: 10.0,
                least: Excluded(0.0),
                most: Included(1e9),
                whole: false,
                doc: "The weight of the splitting's penalty at the first step.",
            },
            Param {
                name: "kappa",
                default: 1.01,
                least: Included(1.0),
                most: Included(1e3),
                whole: false,
                doc: "How much it grows at each step.",
            },
            Param {
                name: "steps",
                default: 20.0,
                least: Included(0.0),
                most: Included(1e6),
                whole: true,
                doc: "The most steps.",
            },
        ],
    },
];

/// A method and its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// Its row.
    pub spec: &'static Spec,
    values: Vec<f64>,
}

/// What a method does to a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Search {
    /// The range as it is.
    Range,
    /// A narrower range.
    Clipped(Clip),
    /// HQQ with these settings, but for the bits.
    Zero(Hqq),
}

impl Method {
    /// A name and, after it, settings: `rtn`, `mse steps=50 shrink=0.5`.
    ///
    /// # Errors
    /// [`Error::Usage`] names what is no method, no setting, or out of its range.
    pub fn parse(text: &str) -> Result<Method> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let Some(spec) = METHODS.iter().find(|spec| spec.name == name) else {
            let names = METHODS.iter().map(|spec| spec.name);
            let hint = did_you_mean(name, names.clone());
            let names = names.collect::<Vec<_>>().join(", ");
            return Err(Error::Usage(format!("method: '{name}' is not one of {names}{hint}")));
        };
        let mut values: Vec<f64> = spec.params.iter().map(|param| param.default).collect();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let Some(at) = spec.params.iter().position(|param| param.name == key) else {
                let known: Vec<&str> = spec.params.iter().map(|param| param.name).collect();
                let known =
                    if known.is_empty() { "it has none".into() } else { format!("it has {}", known.join(", ")) };
                return Err(Error::Usage(format!("{name}: '{key}' is no setting; {known}")));
            };
            values[at] = spec.params[at].read(value).map_err(|error| error.within(name))?;
        }
        Ok(Method { spec, values })
    }

    /// What it does.
    pub fn search(&self) -> Search {
        match (self.spec.name, self.values.as_slice()) {
            ("mse", [steps, shrink]) => Search::Clipped(Clip { steps: *steps as u32, shrink: *shrink as f32 }),
            ("hqq", [norm, beta, kappa, steps]) => Search::Zero(Hqq {
                norm: *norm as f32,
                beta: *beta as f32,
                kappa: *kappa as f32,
                steps: *steps as u32,
                ..Hqq::new(4)
            }),
            _ => Search::Range,
        }
    }
}

impl Param {
    fn read(&self, text: &str) -> Result<f64> {
        let above = |x: f64| match self.least {
            Included(least) => x >= least,
            Excluded(least) => x > least,
        };
        let below = |x: f64| match self.most {
            Included(most) => x <= most,
            Excluded(most) => x < most,
        };
        match text.parse::<f64>() {
            Ok(x) if above(x) && below(x) && (!self.whole || x.fract() == 0.0) => Ok(x),
            _ => Err(Error::Usage(format!("{}: '{text}' is not {}", self.name, self.range()))),
        }
    }

    /// The values it may take, as a message writes them.
    pub fn range(&self) -> String {
        let kind = if self.whole { "a whole number" } else { "a number" };
        let (open, least) = match self.least {
            Included(least) => ('[', least),
            Excluded(least) => ('(', least),
        };
        let (most, close) = match self.most {
            Included(most) => (most, ']'),
            Excluded(most) => (most, ')'),
        };
        format!("{kind} in {open}{least}, {most}{close}")
    }
}

/// As [`Method::parse`] takes it, with all settings.
impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.spec.name.to_owned();
        for (param, value) in self.spec.params.iter().zip(&self.values) {
            let _ = write!(text, " {}={value}", param.name);
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_reads_as_it_is_written() {
        for text in ["rtn", "mse steps=50 shrink=0.5", "hqq norm=0.6 beta=1 kappa=1.1 steps=3"] {
            assert_eq!(Method::parse(text).unwrap().to_string(), text);
        }
        let clip = Clip { steps: 20, shrink: 0.2 };
        assert_eq!(Method::parse("mse").unwrap().search(), Search::Clipped(clip));
        assert_eq!(Method::parse("hqq").unwrap().search(), Search::Zero(Hqq::new(4)));
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_rule() {
        for (text, rule) in [
            ("gptq", "method: 'gptq' is not one of rtn, mse, hqq"),
            ("rtn steps=2", "rtn: 'steps' is no setting; it has none"),
            ("mse step=2", "mse: 'step' is no setting; it has steps, shrink"),
            ("mse shrink=1", "mse: shrink: '1' is not a number in (0, 1)"),
            ("hqq steps=1.5", "hqq: steps: '1.5' is not a whole number in [0, 1000000]"),
            ("hqq norm=nan", "hqq: norm: 'nan' is not a number in (0, 1)"),
        ] {
            assert_eq!(Method::parse(text).unwrap_err().to_string(), rule);
        }
    }
}
