//! The kinds of indexes, and their parameters.

use crate::quantized::Bits;
use crate::{graph, ivf};
use polmrs_core::{Error, Result};
use serde_json::{Map, Value as Json};

/// How an index finds candidates. As JSON: `{"kind": "quantized", "bits": 1, "margin": 3.25}`; what is left out has its
/// default.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Kind {
    /// Looks at every vector.
    Flat,
    /// Looks at every code, then at the vectors within `margin` standard deviations of the `k`-th best.
    Quantized {
        /// The width of a code.
        #[serde(default)]
        bits: Bits,
        /// Standard deviations of the estimate.
        #[serde(default = "margin")]
        margin: f32,
    },
    /// Walks along a graph, then looks at the nearest vectors.
    Hnsw(graph::Settings),
    /// Looks at the codes of the nearest lists, then as `Quantized` does.
    Ivf(ivf::Settings),
}

fn margin() -> f32 {
    crate::quantized::MARGIN
}

impl Kind {
    /// From JSON.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is no kind, or out of range.
    pub fn from_json(json: Json) -> Result<Kind> {
        let fields = json.as_object().map_or(0, Map::len); // serde lets a variant without fields have any
        let kind: Kind = serde_json::from_value(json).map_err(|error| Error::Usage(error.to_string()))?;
        match kind {
            Kind::Flat if fields > 1 => Err(Error::Usage("flat: has no parameters".into())),
            Kind::Quantized { margin, .. } | Kind::Ivf(ivf::Settings { margin, .. })
                if !(margin > 0.0 && margin <= 100.0) =>
            {
                Err(Error::Usage(format!("margin: {margin} is not in (0, 100]")))
            }
            Kind::Hnsw(settings) => settings.check().map(|()| kind),
            Kind::Ivf(settings) => settings.check().map(|()| kind),
            _ => Ok(kind),
        }
    }
}
