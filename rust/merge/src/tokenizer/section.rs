//! The `tokenizer` section of a configuration: which vocabulary the result has, and where single tokens' rows come from.
//!
//! ```yaml
//! tokenizer:
//!   source: union                 # or base, or one of the models
//!   tokens:
//!     <|im_start|>: {source: ./chat}                                    # for models that lack it
//!     <|eot|>: {source: ./chat, force: true}                            # for every model
//!     <|new|>: {source: {kind: model_token, model: ./chat, token: hello}}  # or token_id: 17
//!     <|spare|>: {source: {kind: zero}}
//!   pad_to_multiple_of: 64
//! ```
//! `tokenizer_source: union` is the short form, and excludes the section.

use polmrs_core::Result;
use polmrs_io::yaml::{Field, Fields, Value};

/// What a configuration says about the tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Whose vocabulary.
    pub source: Origin,
    /// Tokens with a rule of their own, in the order of the configuration.
    pub tokens: Vec<(String, Rule)>,
    /// The number of rows becomes a multiple of this.
    pub pad_to_multiple_of: Option<u64>,
    /// Where the source stands, for messages.
    pub place: String,
}

/// Whose vocabulary the result has.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// The base's, and after it every token of the other models.
    Union,
    /// The base's (the first model's, where there is none).
    Base,
    /// That of the model with this reference.
    Model(String),
}

/// What a configuration says about one token.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Where its row comes from; none: as for any other token.
    pub source: Option<RowSource>,
    /// For every model, not only for those that lack the token.
    pub force: bool,
    /// Where the rule stands, for messages.
    pub place: String,
}

/// A row that a rule names.
#[derive(Clone, Debug, PartialEq)]
pub enum RowSource {
    /// All zeros.
    Zero,
    /// A row of the model with this reference.
    Model(String, Which),
}

/// Which row of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Which {
    /// That of the token itself.
    Same,
    /// That of another token.
    Token(String),
    /// That of this number.
    Id(u64),
}

impl Section {
    /// Takes the keys `tokenizer` and `tokenizer_source`; `reference` reads a model reference.
    pub fn decode<'a>(
        fields: &mut Fields<'a>,
        reference: impl Fn(&Field<'a>) -> Result<String> + Copy,
    ) -> Result<Option<Section>> {
        let short = fields.optional("tokenizer_source", |field| {
            let source = origin(field, reference)?;
            Ok(Section { source, tokens: Vec::new(), pad_to_multiple_of: None, place: field.path().into() })
        })?;
        let long = fields.optional("tokenizer", |field| {
            if short.is_some() {
                return Err(field.error("'tokenizer_source' is its short form; only one of the two may stand"));
            }
            section(field, reference)
        })?;
        Ok(short.or(long))
    }
}

fn section<'a>(field: &Field<'a>, reference: impl Fn(&Field<'a>) -> Result<String> + Copy) -> Result<Section> {
    let mut fields = field.fields()?;
    let source = fields.optional("source", |field| origin(field, reference))?.unwrap_or(Origin::Union);
    let tokens = fields.optional("tokens", |field| field.each_entry(|token| rule(token, reference)))?;
    let pad_to_multiple_of = fields.optional("pad_to_multiple_of", |field| match field.as_count()? {
        0 => Err(field.error("0 has no multiples; give 1 or more")),
        count => Ok(count as u64),
    })?;
    fields.finish()?;
    Ok(Section {
        source,
        tokens: tokens.unwrap_or_default(),
        pad_to_multiple_of,
        place: format!("{}.source", field.path()),
    })
}

fn origin<'a>(field: &Field<'a>, reference: impl Fn(&Field<'a>) -> Result<String>) -> Result<Origin> {
    Ok(match reference(field)? {
        word if word == "union" => Origin::Union,
        word if word == "base" => Origin::Base,
        model => Origin::Model(model),
    })
}

fn rule<'a>(field: &Field<'a>, reference: impl Fn(&Field<'a>) -> Result<String> + Copy) -> Result<Rule> {
    let mut fields = field.fields()?;
    let source = fields.optional("source", |field| row_source(field, reference))?;
    let force = fields.optional("force", Field::as_bool)?.unwrap_or(false);
    fields.finish()?;
    if force && source.is_none() {
        return Err(field.error("'force' needs a 'source': the row that every model gets"));
    }
    Ok(Rule { source, force, place: field.path().into() })
}

fn row_source<'a>(field: &Field<'a>, reference: impl Fn(&Field<'a>) -> Result<String> + Copy) -> Result<RowSource> {
    let kind = match field.value() {
        Value::Map(map) => map.get("kind"),
        _ => None,
    };
    let Some(kind) = kind else {
        return Ok(RowSource::Model(reference(field)?, Which::Same));
    };
    let mut fields = field.fields()?;
    let source = match kind.text().as_deref() {
        Some("zero") => RowSource::Zero,
        Some("model_token") => {
            let model = fields.required("model", reference)?;
            let token = fields.optional("token", |field| Ok(field.as_text()?.into_owned()))?;
            let id = fields.optional("token_id", |field| Ok(field.as_count()? as u64))?;
            let which = match (token, id) {
                (Some(token), None) => Which::Token(token),
                (None, Some(id)) => Which::Id(id),
                _ => return Err(field.error("takes exactly one of 'token' and 'token_id'")),
            };
            RowSource::Model(model, which)
        }
        _ => return Err(field.error("'kind' is not one of zero, model_token")),
    };
    fields.optional("kind", |_| Ok(()))?;
    fields.finish()?;
    Ok(source)
}
