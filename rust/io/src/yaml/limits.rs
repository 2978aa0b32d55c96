//! How much a text may become, so that a few lines of aliases cannot fill the memory.
//!
//! Every copy that an alias makes counts, and so does the one that is kept with the anchor.

use polmrs_core::Result;

use super::{MAX_COPIED_BYTES, MAX_DEPTH, MAX_NODES, Node, Position, Value, refused};

/// What has been read and copied so far.
#[derive(Default)]
pub(super) struct Budget {
    nodes: usize,
    copied_bytes: usize,
}

impl Budget {
    /// Counts one value that was read.
    pub(super) fn value(&mut self, at: &Position) -> Result<()> {
        self.nodes(1, at)
    }

    /// Counts a copy, before it is made.
    pub(super) fn copy(&mut self, size: &Size, at: &Position) -> Result<()> {
        self.copied_bytes += size.bytes;
        if self.copied_bytes > MAX_COPIED_BYTES {
            return Err(refused(at, &format!("aliases copy more than {} MB of text", MAX_COPIED_BYTES >> 20)));
        }
        self.nodes(size.nodes, at)
    }

    fn nodes(&mut self, more: usize, at: &Position) -> Result<()> {
        self.nodes += more;
        if self.nodes > MAX_NODES {
            return Err(refused(at, &format!("more than {MAX_NODES} values, aliases written out")));
        }
        Ok(())
    }
}

/// Refuses `depth` lists and maps inside one another.
pub(super) fn check_depth(depth: usize, at: &Position) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(refused(at, &format!("lists and maps are nested more than {MAX_DEPTH} deep")));
    }
    Ok(())
}

/// What a copy of a node costs: nodes, bytes of text, lists and maps inside one another.
#[derive(Default)]
pub(super) struct Size {
    nodes: usize,
    bytes: usize,
    pub(super) depth: usize,
}

impl Size {
    pub(super) fn of(node: &Node) -> Size {
        let mut size = Size { nodes: 1, ..Size::default() };
        match &node.value {
            Value::Text(text) => size.bytes += text.len(),
            Value::List(items) => items.iter().for_each(|item| size.add(&Size::of(item))),
            Value::Map(map) => map.iter().for_each(|entry| {
                size.add(&Size { nodes: 1, bytes: entry.key.len(), depth: 0 });
                size.add(&Size::of(&entry.value));
            }),
            _ => size.bytes += node.source.as_ref().map_or(0, |source| source.len()),
        }
        size.depth += usize::from(matches!(node.value, Value::List(_) | Value::Map(_)));
        size
    }

    fn add(&mut self, inner: &Size) {
        self.nodes += inner.nodes;
        self.bytes += inner.bytes;
        self.depth = self.depth.max(inner.depth);
    }
}
