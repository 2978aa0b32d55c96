//! The one YAML reader: mergekit's files and our own recipes pass through here, from both doors.
//!
//! A file means what PyYAML's `safe_load` (YAML 1.1) and then pydantic make of it, which is what mergekit does:
//! `yes` is a boolean, `017` is 15, `1e-5` is a number. Where that reading surprises, the file is refused and the
//! message says what to write instead. Every value knows its file, line and column.
//!
//! | module | holds |
//! |---|---|
//! | `node` | what a document is made of, to and from JSON |
//! | `syntax` | what cannot be read at all, in plain words |
//! | `layout` | lines that PyYAML lets start further left than the parser does |
//! | `compose` | parser events to nodes: anchors, aliases, `<<` and keys |
//! | `names` | anchor names, for messages |
//! | `limits` | how much a text may become |
//! | `tag`, `scalar` | which type a word has |
//! | `decode`, `fields` | nodes to Rust types, with the path of every value in the message |
//! | `emit` | nodes back to text |
//!
//! Departures from mergekit (PyYAML 6.0.3, pydantic 2.14):
//!
//! * `1e5`, `1.0e5`, `-.5` are floats at once (PyYAML: text, which pydantic turns into a number where one is wanted).
//! * Refused as numbers though mergekit reads them: base 60 (`1:30` is 90 there), a leading zero that is not octal
//!   (`08`), `nan`, `inf`, booleans, floats too large for 64 bits. Integers beyond 64 bits are refused at once.
//! * Dates, `=` and `0b_` stay text (PyYAML makes dates, or fails). Numbers and booleans serve as text where text is
//!   wanted, as they were written.
//! * Keys are text, as written: `1:` is `"1"`. Lists and maps as keys, empty keys and duplicate keys are refused.
//! * In `<<: [*x, *y]` a key of `x` wins, by the merge specification; PyYAML 6.0.4 lets `y` win.
//! * `!!timestamp`, `!!binary`, `!!set`, `!!omap`, `!!pairs` and the bare `!` are refused like any unknown tag.
//! * Refused in syntax: U+0085, U+2028 and U+2029, which end a line in YAML 1.1 only; text that starts with `?`;
//!   `"x"#y`, where a comment lacks its space; `[-]`. Accepted: tabs between words.
//! * Known to differ in silence: a block scalar that is the whole document and not indented, and a file that ends in
//!   spaces, without a line break, inside a block that is empty or has a tag or an anchor.
//!
//! ```
//! use polmrs_io::yaml;
//!
//! let node = yaml::parse_one("merge_method: linear\ndensity: abc\n", "cfg.yml")?;
//! let mut fields = node.root().fields()?;
//! assert_eq!(fields.required("merge_method", yaml::Field::as_text)?, "linear");
//! let error = fields.required("density", yaml::Field::as_f64).unwrap_err();
//! assert_eq!(error.to_string(), "cfg.yml:2:10: density: 'abc' is not a number");
//! # Ok::<(), polmrs_core::Error>(())
//! ```

mod compose;
mod decode;
mod emit;
mod fields;
mod layout;
mod limits;
mod names;
mod node;
mod scalar;
mod syntax;
mod tag;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use polmrs_core::{Error, Result};

pub use decode::Field;
pub use emit::{emit, emit_json};
pub use fields::Fields;
pub use node::{Entry, Map, Node, Position, Value};

/// Bytes of text that are read; more is refused. The parser needs up to 200 bytes of memory for each.
pub const MAX_BYTES: usize = 2 << 20;
/// Nodes that one text may become once its aliases are written out; more is refused.
pub const MAX_NODES: usize = 1_000_000;
/// Bytes of text that aliases may copy; more is refused.
pub const MAX_COPIED_BYTES: usize = 16 << 20;
/// Lists and maps inside one another; deeper is refused.
pub const MAX_DEPTH: usize = 100;

/// Every document of `text`; `origin` is its name in messages. Text without a document gives none.
///
/// # Errors
/// [`Error::Config`] as `origin:line:column: message` for bad syntax and for what this module refuses.
pub fn parse(text: &str, origin: &str) -> Result<Vec<Node>> {
    if text.len() > MAX_BYTES {
        return Err(too_long(origin));
    }
    let origin: Arc<str> = origin.into();
    syntax::check_characters(text, &origin)?;
    compose::documents(text, &origin)
}

/// The one document of `text`.
///
/// # Errors
/// As [`parse`], and where there is no document or more than one.
pub fn parse_one(text: &str, origin: &str) -> Result<Node> {
    one(parse(text, origin)?, origin)
}

/// Every document of a file, which is named by its path in messages. At most [`MAX_BYTES`] are read.
///
/// # Errors
/// As [`parse`], and where the file cannot be read or is not UTF-8.
pub fn read(path: &Path) -> Result<Vec<Node>> {
    let origin = path.display().to_string();
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes.len() > MAX_BYTES {
        return Err(too_long(&origin));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, &origin),
        Err(error) => {
            let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
            Err(Error::Config(format!("{origin}:{line}: not UTF-8 text")))
        }
    }
}

/// The one document of a file.
///
/// # Errors
/// As [`read`], and where there is no document or more than one.
pub fn read_one(path: &Path) -> Result<Node> {
    one(read(path)?, &path.display().to_string())
}

fn one(documents: Vec<Node>, origin: &str) -> Result<Node> {
    let mut documents = documents.into_iter();
    match (documents.next(), documents.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(second)) => {
            Err(Error::Config(format!("{}: a second document starts here, where one is expected", second.at)))
        }
        (None, _) => Err(Error::Config(format!("{origin}:1:1: the file is empty"))),
    }
}

fn too_long(origin: &str) -> Error {
    Error::Config(format!("{origin}: more than {} MB of YAML", MAX_BYTES >> 20))
}

/// Text from a file, for a message: in quotes, on one line, not too long.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown = String::from("'");
    for c in text.chars().take(SHOWN) {
        match c {
            '\'' | '"' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown.push_str(if text.chars().nth(SHOWN).is_some() { "...'" } else { "'" });
    shown
}

/// The error of something at a position.
fn refused(at: &Position, message: &str) -> Error {
    Error::Config(format!("{at}: {message}"))
}
