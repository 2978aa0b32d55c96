//! Parser events to nodes: anchors, aliases, `<<` and keys.
//!
//! An alias is written out: its anchor's node is copied.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::rc::Rc;
use std::sync::Arc;

use polmrs_core::{Error, Result};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::layout::Layout;
use super::limits::{self, Budget, Size};
use super::names::Names;
use super::{Entry, Map, Node, Position, Value, quoted, refused, scalar, syntax, tag};

/// Every document of `text`, whose length and characters have been checked.
pub(super) fn documents(text: &str, origin: &Arc<str>) -> Result<Vec<Node>> {
    let mut layout = Layout::new(text);
    loop {
        let mut composer = Composer::new(&layout, origin);
        let result = composer.documents();
        match composer.complaint.take() {
            Some(complaint) if layout.mend(&complaint) => {}
            _ => return result,
        }
    }
}

struct Composer<'a> {
    layout: &'a Layout<'a>,
    origin: &'a Arc<str>,
    events: Parser<'a, StrInput<'a>>,
    names: Names<'a>,
    /// By the parser's number; `None` while the anchor's own node is being read.
    anchors: HashMap<usize, Option<Rc<Node>>>,
    budget: Budget,
    /// Where the text ends, in characters, if it does not end with a line break.
    open_end: Option<usize>,
    /// What the parser stopped at.
    complaint: Option<ScanError>,
}

struct Key {
    text: String,
    at: Position,
    /// Whether it is `<<` without quotes.
    merges: bool,
}

impl<'a> Composer<'a> {
    fn new(layout: &'a Layout<'a>, origin: &'a Arc<str>) -> Composer<'a> {
        let text = layout.text();
        Composer {
            layout,
            origin,
            events: Parser::new_from_str(text),
            names: Names::new(text),
            anchors: HashMap::new(),
            budget: Budget::default(),
            open_end: (!text.ends_with(['\n', '\r'])).then(|| text.chars().count()),
            complaint: None,
        }
    }

    fn documents(&mut self) -> Result<Vec<Node>> {
        let mut documents = Vec::new();
        loop {
            match self.next()?.0 {
                Event::StreamEnd => return Ok(documents),
                Event::DocumentStart(_) => {
                    self.names.forget();
                    self.anchors.clear();
                    let first = self.next()?;
                    documents.push(self.node(first, 0)?);
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span)> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let at = self.position(error.marker());
                let answer = if error.info().contains("unknown anchor") {
                    self.names.unknown(error.marker(), &at)
                } else {
                    refused(&at, &syntax::explain(error.info()))
                };
                self.complaint = Some(error);
                Err(answer)
            }
            None => Err(Error::Internal(format!("{}: the YAML parser stopped early", self.origin))),
        }
    }

    /// The node that `event` begins, inside `depth` lists and maps.
    fn node(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Result<Node> {
        let at = self.position(&span.start);
        if let Event::Alias(anchor) = event {
            return self.alias(anchor, &span, &at, depth);
        }
        self.budget.value(&at)?;
        let anchor = self.declare(&event, &span, &at)?;
        let mut source = None;
        let value = match event {
            Event::Scalar(text, style, _, tag) => {
                let text = self.block_end(text, style, &span);
                let value = tag::typed(&text, style, tag.as_deref()).map_err(|message| refused(&at, &message))?;
                if !matches!(value, Value::Text(_)) {
                    source = Some(text.into());
                }
                value
            }
            Event::SequenceStart(_, tag) => {
                tag::expect(tag.as_deref(), "seq").map_err(|message| refused(&at, &message))?;
                limits::check_depth(depth + 1, &at)?;
                Value::List(self.list(depth + 1)?)
            }
            Event::MappingStart(_, tag) => {
                tag::expect(tag.as_deref(), "map").map_err(|message| refused(&at, &message))?;
                limits::check_depth(depth + 1, &at)?;
                Value::Map(self.map(depth + 1)?)
            }
            _ => return Err(Error::Internal(format!("{at}: an event out of order from the YAML parser"))),
        };
        let node = Node { value, at, source };
        if let Some(anchor) = anchor {
            self.budget.copy(&Size::of(&node), &node.at)?;
            self.anchors.insert(anchor, Some(Rc::new(node.clone())));
        }
        Ok(node)
    }

    /// Opens the anchor of the node that `event` begins, if it has one.
    fn declare(&mut self, event: &Event<'a>, span: &Span, at: &Position) -> Result<Option<usize>> {
        match *event {
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor > 0 =>
            {
                self.names.declare(&span.start, at)?;
                self.anchors.insert(anchor, None);
                Ok(Some(anchor))
            }
            _ => Ok(None),
        }
    }

    fn alias(&mut self, anchor: usize, span: &Span, at: &Position, depth: usize) -> Result<Node> {
        let node = match self.anchors.get(&anchor) {
            Some(Some(node)) => Rc::clone(node),
            Some(None) => return Err(refused(at, "this alias stands inside the value that it refers to")),
            None => return Err(self.names.unknown(&span.start, at)),
        };
        let size = Size::of(&node);
        limits::check_depth(depth + size.depth, at)?;
        self.budget.copy(&size, at)?;
        Ok((*node).clone())
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                event => items.push(self.node(event, depth)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Map> {
        let mut own = Vec::new();
        let mut bases = Vec::new();
        let mut seen: HashMap<String, Position> = HashMap::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => break,
                event => self.key(event, depth)?,
            };
            if let Some(first) = seen.insert(key.text.clone(), key.at.clone()) {
                let message =
                    format!("the key {} is given twice, first at {}:{}", quoted(&key.text), first.line, first.column);
                return Err(refused(&key.at, &message));
            }
            let event = self.next()?;
            let value = self.node(event, depth)?;
            if key.merges {
                bases = maps_to_merge(value)?;
            } else {
                own.push(Entry { key: key.text, at: key.at, value });
            }
        }
        Ok(if bases.is_empty() { Map { entries: own } } else { merged(bases, own) })
    }

    fn key(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Result<Key> {
        let at = self.position(&span.start);
        if let Event::Scalar(text, ScalarStyle::Plain, anchor, tag) = &event {
            let merges = text == "<<" && tag.as_deref().is_none_or(|tag| tag::kind(tag) == Some("merge"));
            if text.is_empty() {
                return Err(refused(&at, "a key is missing before this ':'"));
            } else if merges && *anchor > 0 {
                return Err(refused(&at, "'<<' takes no anchor"));
            } else if merges {
                return Ok(Key { text: text.to_string(), at, merges });
            } else if *anchor == 0 && tag.is_none() {
                scalar::check_start(text).map_err(|message| refused(&at, &message))?;
                self.budget.value(&at)?;
                return Ok(Key { text: text.to_string(), at, merges });
            }
        }
        let node = self.node((event, span), depth)?;
        match node.text() {
            Some(text) => Ok(Key { text: text.into_owned(), at, merges: false }),
            None => Err(refused(&at, "a key must be text, not a list or a map; if it is text, quote it")),
        }
    }

    /// The text of a scalar. A block that the text ends in, without a line break, has none either: PyYAML's reading.
    fn block_end(&self, mut text: Cow<'a, str>, style: ScalarStyle, span: &Span) -> Cow<'a, str> {
        let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
        let reaches_the_end = self.open_end == Some(span.end.index());
        // Spaces that do not reach the block's indentation are no line of it.
        let is_line = span.end.col() >= span.start.col() || !self.layout.text().ends_with(' ');
        if is_block && reaches_the_end && is_line && text.ends_with('\n') {
            text.to_mut().pop();
        }
        text
    }

    fn position(&self, mark: &Marker) -> Position {
        self.layout.position(self.origin, mark)
    }
}

/// The maps that the value of `<<` names.
fn maps_to_merge(value: Node) -> Result<Vec<Map>> {
    let one = |node: Node| match node.value {
        Value::Map(map) => Ok(map),
        _ => Err(refused(&node.at, "'<<' merges a map or a list of maps, and this is neither")),
    };
    match value.value {
        Value::List(items) => items.into_iter().map(one).collect(),
        _ => Ok(vec![one(value)?]),
    }
}

/// `own` keys win over those of `bases`, an earlier base over a later one; the order is PyYAML's.
fn merged(bases: Vec<Map>, own: Vec<Entry>) -> Map {
    let mut entries: Vec<Entry> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for entry in bases.into_iter().rev().flat_map(|map| map.entries).chain(own) {
        match places.entry(entry.key.clone()) {
            Slot::Occupied(place) => entries[*place.get()] = entry,
            Slot::Vacant(place) => {
                place.insert(entries.len());
                entries.push(entry);
            }
        }
    }
    Map { entries }
}
