//! What the parser cannot read, in plain words.

use std::sync::Arc;

use polmrs_core::{Error, Result};
/// Refuses control characters, as PyYAML does, the three that end a line in YAML 1.1 but not in 1.2, and byte order
/// marks inside the text.
pub(super) fn check_characters(text: &str, origin: &Arc<str>) -> Result<()> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let Some((start, bad)) = text.char_indices().find(|&(_, c)| !is_readable(c)) else { return Ok(()) };
    let before = &text[..start];
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
    let code = u32::from(bad);
    let what = match bad {
        '\u{FEFF}' => "is a byte order mark, which may only begin a file",
        _ if ends_a_line_in_1_1(bad) => "ends a line in YAML 1.1 but not in 1.2",
        _ => "is a control character",
    };
    Err(Error::Config(format!(
        "{origin}:{line}:{column}: U+{code:04X} {what}; if it belongs there write \"\\u{code:04x}\", in double quotes"
    )))
}

/// Whether a character may stand inside a file as it is.
pub(super) fn is_readable(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => true,
        '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}' => false,
        _ => !c.is_control() && !ends_a_line_in_1_1(c),
    }
}

fn ends_a_line_in_1_1(c: char) -> bool {
    matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// The parser's complaint in the words of somebody who does not know its grammar.
pub(super) fn explain(complaint: &str) -> String {
    let known = EXPLAINED.iter().find(|(part, _)| complaint.contains(part));
    known.map_or_else(|| complaint.to_owned(), |(_, plain)| (*plain).to_owned())
}

const EXPLAINED: [(&str, &str); 31] = [
    ("block scalar content cannot start with a tab", TAB),
    ("tabs disallowed", TAB),
    ("found a tab", TAB),
    ("tab cannot be used", TAB),
    ("must be followed by a valid YAML whitespace", "a tab follows ':' or '-'; YAML wants a space"),
    ("recursion limit", "lists and maps are nested too deeply"),
    (
        "mapping values are not allowed",
        "a ':' is not expected here; quote the text if it holds ': ', or look at the indentation",
    ),
    ("mapping keys are not allowed", "a '?' is not expected here; quote the text if it starts with one"),
    ("simple key expect", "the line above is a key without its ':'"),
    ("block sequence entries are not allowed", "a '- ' is not expected here; start the list on a line of its own"),
    ("only valid inside a block", "a '- ' is not expected inside [ ] or { }"),
    ("did not find expected '-'", "a '- ' is expected at this indentation"),
    ("did not find expected key", "a key is expected here; look at the indentation of this line"),
    ("did not find expected node content", "a value is expected here"),
    ("invalid indentation", "this line is indented less than what it belongs to"),
    ("wrongly indented line in block scalar", "this line is indented less than the text that it belongs to"),
    ("expected <document start>", "this line does not belong to what stands above; look at its indentation"),
    ("unexpected end of stream", "a quote is opened and never closed"),
    ("unexpected document indicator", "a quote is opened and not closed in this document"),
    (
        "invalid trailing content after double-quoted",
        "text after the closing quote; quote the whole, or double the quote inside",
    ),
    ("expected ',' or ']'", "a ',' or the closing bracket is expected here"),
    ("expected ',' or '}'", "a ',' or the closing bracket is expected here"),
    ("misplaced bracket", "this bracket closes none"),
    ("unexpected character", "text that starts with '%', '@' or '`' must be quoted"),
    ("unknown escape character", "a backslash in double quotes starts an escape; use single quotes to keep it"),
    ("scanning an anchor or alias", "a name is expected after '&' or '*'; quote the text if it starts with one"),
    ("scanning a block scalar, did not find", "text after '|' or '>' starts on the next line"),
    ("comments must be separated", "a comment is set off by a space before its '#'"),
    ("may not precede any of", "a space is missing after this ':'"),
    ("plain scalar cannot start with '-'", "text that starts with '-' must be quoted here"),
    ("invalid Unicode character escape", "this escape is no Unicode character"),
];

const TAB: &str = "a tab is used as indentation; YAML wants spaces";
