//! Models with different vocabularies: which tokens the result has, and where each of its embedding rows comes from.
//!
//! The rules are mergekit's. The result has the tokens of one model, or the union: the base's under their own ids, then
//! the pieces of the other models, then their added tokens, each in the order of the models and of their ids. (mergekit
//! numbers tokens beyond the base's differently in every run.) A token whose id lies beyond its model's matrix counts as
//! one that the model lacks. For each model, the row of a token is
//!
//! 1. what a rule with `force` says, if there is one;
//! 2. the model's own, if it has the token;
//! 3. what a rule without `force` says;
//! 4. the base's, if the base has the token;
//! 5. the mean over the models that have it.
//!
//! The rows then merge like any other rows. Rows without a token, up to a multiple of `pad_to_multiple_of`, are the mean
//! of the rows before them. Every tensor with a row per token follows: the input embedding, the head, its bias.
//!
//! The files are those of the model whose vocabulary it is; new tokens become added tokens, so merges and scores stay
//! as they are.
//!
//! | module | holds |
//! |---|---|
//! | [`section`] | the section of the configuration |
//! | `vocab` | the tokens of one model |
//! | `tensors` | which tensors have a row per token |
//! | `rows` | the origins of all rows |
//! | `unaligned` | what is said where nothing aligns rows that differ |
//! | [`remap`] | a model that is read in these rows |
//! | [`files`] | the tokenizer's files, and what configs say about tokens |
//! | [`chat`] | the chat template |

pub mod chat;
pub mod files;
pub mod remap;
mod rows;
pub mod section;
mod tensors;
mod unaligned;
mod vocab;

use chat::Chat;
use files::Files;
use polmrs_core::error::did_you_mean;
use polmrs_core::{Dtype, Error, Result};
use polmrs_engine::source::Source;
use polmrs_io::yaml::{Field, Fields};
use remap::{Maps, Remapped};
use rows::{Row, Rows};
use section::{Origin, RowSource, Rule, Section, Which};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use vocab::{Added, Tokenizer};

/// A model whose vocabulary takes part.
#[derive(Clone, Copy)]
pub struct Member<'a> {
    /// As the configuration calls it.
    pub reference: &'a str,
    /// Where its tokenizer lies.
    pub folder: &'a Path,
    /// Its tensors.
    pub source: &'a dyn Source,
    /// Its `config.json`.
    pub config: Option<&'a Json>,
    /// Whether that ties the head to the embedding.
    pub tied: bool,
}

/// What a configuration says about the tokenizer and the chat template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The keys `tokenizer` and `tokenizer_source`.
    pub section: Option<Section>,
    /// The key `chat_template`.
    pub chat: Option<Chat>,
}

impl Settings {
    /// Takes its keys; `reference` reads a model reference.
    pub fn decode<'a>(
        fields: &mut Fields<'a>,
        reference: impl Fn(&Field<'a>) -> Result<String> + Copy,
    ) -> Result<Settings> {
        let section = Section::decode(fields, reference)?;
        Ok(Settings { section, chat: fields.optional("chat_template", Chat::decode)? })
    }

    /// Plans what becomes of `models`, in the order of the configuration; `base` is its base, `dtype` its working type.
    pub fn plan(&self, models: &[Member<'_>], base: Option<usize>, dtype: Option<Dtype>) -> Result<Vocabulary> {
        let donor = base.unwrap_or(0);
        let mut vocabulary = match &self.section {
            Some(section) => align(section, models, base, dtype)?,
            None => Vocabulary {
                maps: models.iter().map(|_| Maps::default()).collect(),
                notes: unaligned::notes(models, donor),
                ..Vocabulary::default()
            },
        };
        if let Some(chat) = &self.chat {
            let order = order(models.len(), donor);
            let folders: Vec<&Path> = order.iter().map(|model| models[*model].folder).collect();
            match chat.choose(&folders)? {
                Some(template) => vocabulary.files.set_template(models[donor].folder, template)?,
                None => vocabulary.notes.push("chat_template: auto: no model has a chat template".into()),
            }
        }
        Ok(vocabulary)
    }
}

/// The vocabulary of the result.
#[derive(Debug, Default)]
pub struct Vocabulary {
    /// Tokens and rows, where they are not simply the base's.
    counts: Option<(usize, u64)>,
    maps: Vec<Maps>,
    token_ids: Option<(Json, Json)>,
    /// The files beside the weights.
    pub files: Files,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Vocabulary {
    /// The number of tokens, and of rows of every vocabulary matrix; none where the configuration asks for no change.
    pub fn counts(&self) -> Option<(usize, u64)> {
        self.counts
    }

    /// SHA-256 over the origins of all rows, which the bits of the result depend on.
    pub fn fingerprint(&self) -> Option<String> {
        self.counts?;
        let mut hash = Sha256::new();
        for map in self.maps.iter().flat_map(Maps::each) {
            hash.update(format!("{:?} {:?}\n", map.dtype, map.rows));
        }
        Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Each model in the rows of this vocabulary; `sources` in the order in which they were planned.
    pub fn views<'a>(&'a self, sources: &[&'a dyn Source]) -> Vec<Remapped<'a>> {
        self.maps.iter().enumerate().map(|(own, maps)| Remapped::new(sources.to_vec(), own, maps)).collect()
    }

    /// States the number of rows and the special token ids in the result's `config.json`.
    pub fn amend_config(&self, config: &mut Json) {
        if let Some((source, _)) = &self.token_ids {
            files::take_token_ids(config, source);
            for part in files::TEXT_PARTS {
                if let (Some(part), Some(theirs)) = (config.get_mut(part), source.get(part)) {
                    files::take_token_ids(part, theirs);
                }
            }
        }
        if let Some((_, rows)) = self.counts {
            files::state_vocab_size(config, rows);
        }
    }

    /// States the special token ids in the result's `generation_config.json`; false where it stays as it is.
    pub fn amend_generation_config(&self, config: &mut Json) -> bool {
        if let Some((_, source)) = &self.token_ids {
            files::take_token_ids(config, source);
        }
        self.token_ids.is_some()
    }
}

/// The models' places, the donor's first.
fn order(models: usize, donor: usize) -> Vec<usize> {
    [donor].into_iter().chain((0..models).filter(|model| *model != donor)).collect()
}

/// The vocabulary that a section asks for: the tokens, the files, and every model's rows.
fn align(section: &Section, models: &[Member<'_>], base: Option<usize>, dtype: Option<Dtype>) -> Result<Vocabulary> {
    let donor = base.unwrap_or(0);
    let mut tokenizers = Vec::new();
    for model in models {
        tokenizers.push(Tokenizer::read(model.folder, model.reference)?);
    }
    let matrices = tensors::find(models, donor)?;
    let known: Vec<Known<'_>> =
        tokenizers.iter().zip(&matrices.counts).map(|(tokenizer, rows)| Known { tokenizer, rows: *rows }).collect();
    let owner = match &section.source {
        Origin::Union | Origin::Base => donor,
        Origin::Model(reference) => find_model(models, reference, &section.place)?,
    };
    let order = order(models.len(), donor);
    let mut notes = Vec::new();
    let mut out = Tokens::of(models, &known, owner, &mut notes)?;
    if section.source == Origin::Union {
        out.unite(&known, &order);
        note_union(models, &known, donor, &out, &mut notes);
    }
    out.add_configured(section, models, &known, &order)?;
    let unit = section.pad_to_multiple_of.unwrap_or(1);
    let size = (out.texts.len() as u64).div_ceil(unit) * unit;
    let rows = origins(section, models, &known, base, &out, size)?;
    let maps = matrices.map(models, &rows, dtype)?;
    let mut files = Files { folder: (owner != donor).then(|| models[owner].folder.into()), ..Files::default() };
    if out.changed {
        out.check_numbering(models[owner].reference, &tokenizers[owner])?;
        files.set_added(models[owner].folder, &out.added)?;
    }
    let token_ids = if owner == donor { None } else { Some(token_ids(&models[owner])?) };
    let tokens = out.texts.iter().flatten().count();
    Ok(Vocabulary { counts: Some((tokens, size)), maps, token_ids, files, notes })
}

/// Says that a tensor's rows differ because vocabularies do, where they may: what to add to an error about its shape.
pub fn hint(name: &str, ours: &[u64], theirs: &[u64]) -> &'static str {
    let rows_only = ours.len() == theirs.len() && ours.get(1..) == theirs.get(1..);
    if rows_only && tensors::by_name(name) {
        "; the vocabularies differ: add 'tokenizer: {source: base}' (or union, or a model) to the configuration"
    } else {
        ""
    }
}

/// A model's tokens, and how many rows it has for them.
struct Known<'a> {
    tokenizer: &'a Tokenizer,
    rows: u64,
}

impl Known<'_> {
    /// The row of a token that the model has.
    fn row(&self, token: &str) -> Option<u64> {
        self.tokenizer.ids.get(token).map(|id| u64::from(*id)).filter(|row| *row < self.rows)
    }
}

/// The tokens of the result, by id.
struct Tokens {
    texts: Vec<Option<String>>,
    ids: HashMap<String, u32>,
    added: BTreeMap<u32, Added>,
    /// Whether they differ from the owner's `tokenizer.json`.
    changed: bool,
}

impl Tokens {
    /// The tokens of one model. Added tokens beyond its matrix are left out; pieces beyond it make no sense.
    fn of(models: &[Member<'_>], known: &[Known<'_>], owner: usize, notes: &mut Vec<String>) -> Result<Tokens> {
        let (Known { tokenizer, rows }, label) = (&known[owner], models[owner].reference);
        if let Some((id, piece)) = tokenizer.pieces.iter().find(|(id, _)| u64::from(**id) >= *rows) {
            return Err(Error::Checkpoint(format!(
                "{label}: token '{piece}' has id {id}, but the embedding has {rows} rows; the tokenizer is of another model"
            )));
        }
        let mut tokens = Tokens { texts: Vec::new(), ids: HashMap::new(), added: BTreeMap::new(), changed: false };
        let mut beyond = Vec::new();
        for (id, text) in tokenizer.in_order() {
            if u64::from(id) >= *rows {
                beyond.push(text);
                continue;
            }
            tokens.texts.resize(id as usize, None);
            tokens.texts.push(Some(text.into()));
            tokens.ids.insert(text.into(), id);
            if let Some(added) = tokenizer.added.get(&id) {
                tokens.added.insert(id, added.clone());
            }
        }
        if let [first, ..] = beyond.as_slice() {
            let count = beyond.len();
            notes.push(format!(
                "{label}: {count} added tokens ('{first}', ...) lie beyond the {rows} rows of its embedding and are left out"
            ));
            tokens.changed = true;
        }
        Ok(tokens)
    }

    /// Adds the tokens of all models: pieces, then added tokens.
    fn unite(&mut self, known: &[Known<'_>], order: &[usize]) {
        let mut flags: HashMap<&str, &Added> = HashMap::new();
        for model in order {
            for added in
                known[*model].tokenizer.added.values().filter(|token| known[*model].row(&token.content).is_some())
            {
                flags.entry(&added.content).or_insert(added);
            }
        }
        for model in order {
            for piece in known[*model].tokenizer.pieces.values() {
                if !flags.contains_key(piece.as_str()) && known[*model].row(piece).is_some() {
                    self.add(piece, None);
                }
            }
        }
        for model in order {
            for added in known[*model].tokenizer.added.values() {
                if let Some(flags) = flags.get(added.content.as_str()) {
                    self.add(&added.content, Some(flags));
                }
            }
        }
    }

    /// Adds the tokens that have a rule and are not there yet.
    fn add_configured(
        &mut self,
        section: &Section,
        models: &[Member<'_>],
        known: &[Known<'_>],
        order: &[usize],
    ) -> Result<()> {
        for (token, rule) in &section.tokens {
            let mut holders = order.iter().filter(|model| known[**model].row(token).is_some()).peekable();
            if rule.source.is_none() && holders.peek().is_none() && !self.ids.contains_key(token) {
                let count = models.len();
                return Err(Error::Config(format!(
                    "{}: none of the {count} models has the token '{token}'; give it a 'source'",
                    rule.place
                )));
            }
            if !self.ids.contains_key(token) {
                let flags = holders.find_map(|model| {
                    let tokenizer = known[*model].tokenizer;
                    tokenizer.added.get(tokenizer.ids.get(token)?)
                });
                self.add(token, flags);
            }
        }
        Ok(())
    }

    /// Adds a token, or marks the one that is there; without flags it is text like any other.
    fn add(&mut self, text: &str, flags: Option<&Added>) {
        let id = match self.ids.get(text) {
            Some(id) if flags.is_none() || self.added.contains_key(id) => return,
            Some(id) => *id,
            None => self.texts.len() as u32,
        };
        if id as usize == self.texts.len() {
            self.texts.push(Some(text.into()));
            self.ids.insert(text.into(), id);
        }
        let plain = || Added { content: text.into(), normalized: true, ..Added::default() };
        self.added.insert(id, flags.cloned().unwrap_or_else(plain));
        self.changed = true;
    }

    /// Checks that the `tokenizers` library will give every added token its id: it numbers them itself, from the
    /// number of pieces on.
    fn check_numbering(&self, label: &str, owner: &Tokenizer) -> Result<()> {
        let new = self.added.iter().filter(|(id, _)| !owner.pieces.contains_key(id));
        for (numbered, (id, token)) in (owner.pieces.len() as u32..).zip(new) {
            if *id != numbered {
                return Err(Error::Checkpoint(format!(
                    "{label}: token '{}' would have id {id}, but the tokenizers library numbers it {numbered}: the ids \
                     of this vocabulary have gaps, so tokens cannot be added to it",
                    token.content
                )));
            }
        }
        Ok(())
    }
}

/// The origin of every row, for every model.
fn origins(
    section: &Section,
    models: &[Member<'_>],
    known: &[Known<'_>],
    base: Option<usize>,
    out: &Tokens,
    size: u64,
) -> Result<Vec<Arc<Rows>>> {
    let mut ruled: HashMap<&str, (&Rule, Option<Row>)> = HashMap::new();
    for (token, rule) in &section.tokens {
        ruled.insert(token, (rule, rule_row(token, rule, models, known)?));
    }
    let mut all = vec![Rows::default(); models.len()];
    for text in &out.texts {
        let Some(text) = text else {
            all.iter_mut().for_each(|rows| rows.push(Row::Blank));
            continue;
        };
        let own: Vec<Option<u64>> = known.iter().map(|known| known.row(text)).collect();
        let (rule, named) = ruled.get(text.as_str()).map_or((None, None), |(rule, row)| (Some(*rule), row.as_ref()));
        let forced = rule.is_some_and(|rule| rule.force);
        for (model, rows) in all.iter_mut().enumerate() {
            rows.push(match (named, own[model]) {
                (Some(row), _) if forced => row.clone(),
                (_, Some(row)) => Row::Copy { model, row },
                (Some(row), None) => row.clone(),
                (None, None) => substitute(&own, base),
            });
        }
    }
    for rows in &mut all {
        (rows.count()..size).for_each(|_| rows.push(Row::Blank));
    }
    Ok(all.into_iter().map(Arc::new).collect())
}

/// The row of a token for a model that lacks it: the base's, or the mean of those that there are.
fn substitute(own: &[Option<u64>], base: Option<usize>) -> Row {
    if let Some((model, row)) = base.and_then(|base| Some((base, own[base]?))) {
        return Row::Copy { model, row };
    }
    let rows: Vec<(usize, u64)> = own.iter().enumerate().filter_map(|(model, row)| Some((model, (*row)?))).collect();
    match rows.as_slice() {
        [] => Row::Zero,
        [(model, row)] => Row::Copy { model: *model, row: *row },
        _ => Row::Mean(rows.into()),
    }
}

/// The row that a rule names.
fn rule_row(token: &str, rule: &Rule, models: &[Member<'_>], known: &[Known<'_>]) -> Result<Option<Row>> {
    let (reference, which) = match &rule.source {
        None => return Ok(None),
        Some(RowSource::Zero) => return Ok(Some(Row::Zero)),
        Some(RowSource::Model(reference, which)) => (reference, which),
    };
    let place = format!("{}.source", rule.place);
    let model = find_model(models, reference, &place)?;
    let rows = known[model].rows;
    let row = match which {
        Which::Id(id) if *id < rows => *id,
        Which::Id(id) => {
            return Err(Error::Config(format!("{place}: token_id {id} is beyond the {rows} rows of '{reference}'")));
        }
        Which::Same | Which::Token(_) => {
            let wanted = if let Which::Token(other) = which { other } else { token };
            known[model]
                .row(wanted)
                .ok_or_else(|| Error::Config(format!("{place}: '{reference}' has no row for the token '{wanted}'")))?
        }
    };
    Ok(Some(Row::Copy { model, row }))
}

fn find_model(models: &[Member<'_>], reference: &str, place: &str) -> Result<usize> {
    models.iter().position(|model| model.reference == reference).ok_or_else(|| {
        let names = models.iter().map(|model| model.reference);
        let hint = did_you_mean(reference, ["union", "base"].into_iter().chain(names));
        Error::Config(format!("{place}: '{reference}' is not one of the models that are merged{hint}"))
    })
}

/// Tells what a union of different pieces means for the text that the result reads.
fn note_union(models: &[Member<'_>], known: &[Known<'_>], donor: usize, out: &Tokens, notes: &mut Vec<String>) {
    let label = models[donor].reference;
    let pieces = &known[donor].tokenizer.pieces;
    let foreign = out.added.iter().filter(|(id, token)| {
        let is_piece = |known: &Known<'_>| {
            let tokenizer = known.tokenizer;
            tokenizer.ids.get(&token.content).is_some_and(|id| !tokenizer.added.contains_key(id))
        };
        !pieces.contains_key(id) && known.iter().any(is_piece)
    });
    let count = foreign.count();
    if count > 0 {
        notes.push(format!(
            "tokenizer: {count} pieces of the other models are not in the vocabulary of {label}; in the union they are \
             added tokens, which are found in a text before {label}'s own pieces are"
        ));
    }
    for (model, other) in models.iter().zip(known) {
        let (kind, base) = (&other.tokenizer.kind, &known[donor].tokenizer.kind);
        if kind != base {
            let other = model.reference;
            notes.push(format!("tokenizer: {other} cuts words by {kind}, {label} by {base}; few tokens mean the same"));
        }
    }
}

/// What the `config.json` and the `generation_config.json` of a model say about tokens.
fn token_ids(model: &Member<'_>) -> Result<(Json, Json)> {
    let config = model.config.cloned().unwrap_or_default();
    let generation = vocab::read_json(&model.folder.join("generation_config.json"))?;
    Ok((config.clone(), generation.unwrap_or(config)))
}
