//! The formulas of the family, as parameters of the one curve.

use polmrs_core::{Error, Result};

/// A formula of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Robertson and Zaragoza's, with no word below zero.
    Robertson,
    /// That of Lucene, with lengths that are not rounded.
    Lucene,
    /// That of ATIRE.
    Atire,
    /// For collections with very long documents.
    Bm25L,
    /// With a floor under what a word adds.
    Bm25Plus,
}

impl Variant {
    /// Every variant, by the name that users write.
    pub const NAMES: [(&'static str, Variant); 5] = [
        ("robertson", Variant::Robertson),
        ("lucene", Variant::Lucene),
        ("atire", Variant::Atire),
        ("bm25l", Variant::Bm25L),
        ("bm25+", Variant::Bm25Plus),
    ];
}

/// A variant and its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Formula {
    /// Which.
    pub variant: Variant,
    /// How slowly more of a word stops to count, above 0.
    pub k1: f64,
    /// How much a document's length counts, in 0..=1.
    pub b: f64,
    /// The floor of `bm25l` and `bm25+`, at least 0.
    pub delta: f64,
}

impl Formula {
    pub(super) fn check(&self) -> Result<()> {
        let finite = |x: f64| x.is_finite() && x <= 1e6;
        for (name, value, holds, rule) in [
            ("k1", self.k1, self.k1 > 0.0 && finite(self.k1), "(0, 1e6]"),
            ("b", self.b, (0.0..=1.0).contains(&self.b), "[0, 1]"),
            ("delta", self.delta, self.delta >= 0.0 && finite(self.delta), "[0, 1e6]"),
        ] {
            if !holds {
                return Err(Error::Usage(format!("{name}: {value} is not in {rule}")));
            }
        }
        Ok(())
    }

    /// What a word weighs that `n >= 1` of `all` documents have.
    pub(super) fn idf(&self, n: f64, all: f64) -> f64 {
        match self.variant {
            Variant::Robertson => ((all - n + 0.5) / (n + 0.5)).max(1.0).ln(),
            Variant::Lucene => (1.0 + (all - n + 0.5) / (n + 0.5)).ln(),
            Variant::Atire => (all / n).ln(),
            Variant::Bm25L => ((all + 1.0) / (n + 0.5)).ln(),
            Variant::Bm25Plus => ((all + 1.0) / n).ln(),
        }
    }

    /// The count at which a word has half its effect, in a document of `length` over the mean.
    pub(super) fn half(&self, length: f64) -> f64 {
        let kappa = if self.variant == Variant::Bm25L { self.k1 + self.delta } else { self.k1 };
        kappa * (1.0 - self.b + self.b * length)
    }

    /// The whole effect, and the floor.
    pub(super) fn scale(&self) -> (f64, f64) {
        match self.variant {
            Variant::Robertson | Variant::Lucene => (1.0, 0.0),
            Variant::Atire => (self.k1 + 1.0, 0.0),
            Variant::Bm25L => {
                let each = (self.k1 + 1.0) / (self.k1 + self.delta);
                (each * self.k1, each * self.delta)
            }
            Variant::Bm25Plus => (self.k1 + 1.0, self.delta),
        }
    }
}
