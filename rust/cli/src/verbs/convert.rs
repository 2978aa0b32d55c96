//! `polmrs convert`: read here, done by the Python build, whose torch reads pickles without running them.

use crate::args::Convert;
use polmrs_core::{Error, Result};
use serde_json::{Value as Json, json};

/// What this build, without Python, can say.
pub(crate) fn convert(args: &Convert) -> Result<()> {
    Err(Error::Usage(format!(
        "convert: reading the pickles of {} safely takes torch: run the same command of the Python package \
         (pip install 'polmrs[train]')",
        args.source.display()
    )))
}

/// The command line as JSON, for Python.
pub(crate) fn asked(args: &Convert) -> Json {
    json!({
        "verb": "convert",
        "source": args.source.to_string_lossy(),
        "to": args.out.to_string_lossy(),
        "shard_size": args.shard_size,
        "json": args.json,
    })
}
