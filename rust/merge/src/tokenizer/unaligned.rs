//! A merge that asks nothing of the tokenizer merges rows by number, whatever they stand for: it is said where models
//! disagree about that.

use super::Member;
use super::vocab::{Tokenizer, read};

/// One note for each model that has another token than the donor in some row. A tokenizer that cannot be read is nobody's
/// business here.
pub(super) fn notes(models: &[Member<'_>], donor: usize) -> Vec<String> {
    let text = |model: &Member<'_>| read(&model.folder.join("tokenizer.json")).ok().flatten();
    let Some(ours) = text(&models[donor]) else { return Vec::new() };
    let mut known = None;
    let differs = |model: &&Member<'_>| text(model).is_some_and(|theirs| theirs != ours);
    let note = |model: &Member<'_>| {
        let base = &models[donor];
        let first = known.get_or_insert_with(|| Tokenizer::read(base.folder, base.reference).ok()).as_ref()?;
        let theirs = Tokenizer::read(model.folder, model.reference).ok()?;
        let (count, row, [mine, other]) = disagreement(first, &theirs)?;
        Some(format!(
            "{}: {count} rows stand for other tokens than in {}, row {row} for {other:?} and not {mine:?}, and are merged by \
             number; 'tokenizer: {{source: base}}' (or union, or a model) merges by token",
            model.reference, base.reference
        ))
    };
    models.iter().filter(differs).filter_map(note).collect()
}

/// How many rows have different tokens, and the first of them with both.
fn disagreement<'a>(ours: &'a Tokenizer, theirs: &'a Tokenizer) -> Option<(usize, u32, [&'a str; 2])> {
    let pairs = ours.in_order().filter_map(|(id, mine)| Some((id, [mine, theirs.token(id)?])));
    let mut differing = pairs.filter(|(_, [mine, other])| mine != other);
    let (row, tokens) = differing.next()?;
    Some((1 + differing.count(), row, tokens))
}
