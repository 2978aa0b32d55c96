//! Lines of a quote, of `[ ]` or of `{ }` may start anywhere in PyYAML; the parser wants them indented.
//!
//! ```yaml
//! parameters:
//!   density: [
//!   0.5, 1.0
//!   ]
//! ```
//!
//! Where the parser stops at such a line, the line is moved right and the text is read again. Space at the start of
//! these lines means nothing, so the document stays the same; columns in messages are moved back.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use saphyr_parser::{Marker, ScanError};

use super::Position;

/// Columns that a line is moved: more than the indentation of a file written by a person.
const SHIFT: usize = 64;
/// Bytes that are read again in all: enough for a thousand such lines.
const MAX_REREAD: usize = 64 << 20;

/// A text, and which of its lines have been moved.
pub(super) struct Layout<'a> {
    text: Cow<'a, str>,
    moved: BTreeSet<usize>,
    reread: usize,
}

impl<'a> Layout<'a> {
    pub(super) fn new(text: &'a str) -> Layout<'a> {
        Layout { text: text.into(), moved: BTreeSet::new(), reread: 0 }
    }

    /// The text for the parser.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where a mark of the parser is in the original text.
    pub(super) fn position(&self, origin: &Arc<str>, mark: &Marker) -> Position {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let shift = if self.moved.contains(&mark.line()) { SHIFT } else { 0 };
        let column = mark.col().saturating_sub(shift) + 1;
        Position { origin: Arc::clone(origin), line: number(mark.line()), column: number(column) }
    }

    /// Moves the lines that the parser complains of. `false`: it complains of something else, or moving did not help.
    pub(super) fn mend(&mut self, error: &ScanError) -> bool {
        let line = error.marker().line();
        let lines = match error.info() {
            "invalid indentation" | "invalid indentation in flow construct" => line..=line,
            "invalid indentation in quoted scalar" => line + 1..=self.end_of_quote(error.marker()),
            _ => return false,
        };
        self.reread += self.text.len();
        let before = self.moved.len();
        if self.reread <= MAX_REREAD {
            self.shift(lines);
        }
        self.moved.len() > before
    }

    fn shift(&mut self, lines: std::ops::RangeInclusive<usize>) {
        let mut shifted = String::with_capacity(self.text.len() + SHIFT);
        for (i, line) in lines_with_breaks(&self.text).enumerate() {
            // `---` at the start of a line ends a document, which no quote or bracket survives.
            let is_marker = line.starts_with("---") || line.starts_with("...");
            if lines.contains(&(i + 1)) && !is_marker && self.moved.insert(i + 1) {
                shifted.push_str(&format!("{:SHIFT$}", ""));
            }
            shifted.push_str(line);
        }
        self.text = Cow::Owned(shifted);
    }

    /// The line on which the quote that opens at `mark` closes.
    fn end_of_quote(&self, mark: &Marker) -> usize {
        let mut line = mark.line();
        let start = lines_with_breaks(&self.text).take(line.saturating_sub(1)).map(str::len).sum();
        let mut chars = self.text[start..].chars().skip(mark.col()).peekable();
        let quote = chars.next();
        while let Some(c) = chars.next() {
            match c {
                '\\' if quote == Some('"') => line += usize::from(chars.next() == Some('\n')),
                '\'' if quote == Some('\'') && chars.peek() == Some(&'\'') => drop(chars.next()),
                '\n' => line += 1,
                '\r' if chars.peek() != Some(&'\n') => line += 1,
                _ if quote == Some(c) => return line,
                _ => {}
            }
        }
        line
    }
}

/// Lines with their breaks: `\n`, `\r\n` or `\r`.
fn lines_with_breaks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.find(['\n', '\r']).map_or(rest.len(), |end| end + 1);
        let end = end + usize::from(rest[..end].ends_with('\r') && rest[end..].starts_with('\n'));
        let (line, after) = rest.split_at(end);
        rest = after;
        (!line.is_empty()).then_some(line)
    })
}
