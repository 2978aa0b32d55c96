//! Anchor names, which the parser's events leave out: read from the text itself, for messages and duplicates.

use std::collections::HashMap;

use polmrs_core::error::did_you_mean;
use polmrs_core::{Error, Result};
use saphyr_parser::Marker;

use super::{Position, quoted, refused};

/// Names up to this length are compared with others: the time for that grows with the length.
const COMPARED: usize = 60;

/// The anchors of one document, and a cursor that follows the parser through the text.
pub(super) struct Names<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
    declared: HashMap<&'a str, Position>,
}

impl<'a> Names<'a> {
    pub(super) fn new(text: &'a str) -> Names<'a> {
        Names { rest: text.trim_start_matches('\u{FEFF}'), line: 1, column: 0, declared: HashMap::new() }
    }

    /// A new document: earlier names are gone.
    pub(super) fn forget(&mut self) {
        self.declared.clear();
    }

    /// Records the anchor of the node at `mark`. The same name twice is refused, as PyYAML does.
    pub(super) fn declare(&mut self, mark: &Marker, at: &Position) -> Result<()> {
        // A comment between tag and anchor hides the name; such an anchor works, but is not checked.
        let Some(name) = self.name(mark, '&') else { return Ok(()) };
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
            return Err(refused(at, "the name of an anchor is of ASCII letters, digits, '_' and '-'"));
        }
        match self.declared.insert(name, at.clone()) {
            Some(first) => {
                let (line, column) = (first.line, first.column);
                Err(refused(at, &format!("the anchor {} is given twice, first at {line}:{column}", shown(name))))
            }
            None => Ok(()),
        }
    }

    /// The error of an alias at `mark` that no anchor of this document answers.
    pub(super) fn unknown(&mut self, mark: &Marker, at: &Position) -> Error {
        let name = self.name(mark, '*').unwrap_or_default();
        let mut hint = String::new();
        if name.len() <= COMPARED {
            hint = did_you_mean(name, self.declared.keys().copied());
        }
        if hint.is_empty() {
            hint.push_str("; quote the text if it starts with '*'");
        }
        refused(at, &format!("no anchor {} stands above this alias{hint}", shown(name)))
    }

    /// The name after `sigil` at `mark`, a tag before it skipped. Marks come in the order of the text.
    fn name(&mut self, mark: &Marker, sigil: char) -> Option<&'a str> {
        self.advance(mark);
        let mut here = self.rest;
        if here.starts_with('!') {
            here = here.find(char::is_whitespace).map_or("", |end| &here[end..]).trim_start();
        }
        let name = here.strip_prefix(sigil)?;
        let end = name.find(|c: char| c.is_whitespace() || ",[]{}".contains(c)).unwrap_or(name.len());
        Some(&name[..end])
    }

    fn advance(&mut self, mark: &Marker) {
        let mut chars = self.rest.chars();
        while (self.line, self.column) < (mark.line(), mark.col()) {
            match chars.next() {
                None => break,
                Some('\n') => (self.line, self.column) = (self.line + 1, 0),
                Some('\r') if !chars.as_str().starts_with('\n') => (self.line, self.column) = (self.line + 1, 0),
                Some(_) => self.column += 1,
            }
        }
        self.rest = chars.as_str();
    }
}

fn shown(name: &str) -> String {
    quoted(&format!("&{name}"))
}
