//! A model's tokens, from the files of its tokenizer.
//!
//! Read are `tokenizer.json` (BPE, WordPiece, Unigram, WordLevel), then what `tokenizer_config.json`
//! (`added_tokens_decoder`) and `added_tokens.json` add to it.

use polmrs_core::{Error, Result};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of a tokenizer file that are read; more is refused. The largest known vocabularies take 35 MB.
const MAX_FILE: u64 = 256 << 20;
/// Ids stay below this, so that a made-up id cannot ask for memory.
const MAX_ID: u32 = 1 << 24;
const KINDS: [&str; 4] = ["BPE", "WordPiece", "Unigram", "WordLevel"];

/// The tokens of one model.
#[derive(Debug, Default)]
pub(crate) struct Tokenizer {
    /// What kind of pieces: BPE, WordPiece, Unigram, WordLevel.
    pub(crate) kind: String,
    /// Every token's id.
    pub(crate) ids: HashMap<String, u32>,
    /// The pieces of the model itself, by id.
    pub(crate) pieces: BTreeMap<u32, String>,
    /// Tokens beside the pieces, or marked among them, by id.
    pub(crate) added: BTreeMap<u32, Added>,
}

/// A token that is found in the text before it is cut into pieces.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Added {
    /// The text.
    pub(crate) content: String,
    /// Found only between words.
    pub(crate) single_word: bool,
    /// Takes the spaces before it.
    pub(crate) lstrip: bool,
    /// Takes the spaces after it.
    pub(crate) rstrip: bool,
    /// Looked for in the normalised text.
    pub(crate) normalized: bool,
    /// Left out when decoding to plain text.
    pub(crate) special: bool,
}

#[derive(Deserialize)]
struct Numbered {
    id: u32,
    #[serde(flatten)]
    token: Added,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    added_tokens: Vec<Numbered>,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Pieces,
    #[serde(default)]
    merges: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Pieces {
    Ids(HashMap<String, u32>),
    Scores(Vec<(String, f64)>),
}

impl Tokenizer {
    /// Reads the tokenizer in a model's folder; `label` is what messages call the model.
    pub(crate) fn read(folder: &Path, label: &str) -> Result<Tokenizer> {
        let path = folder.join("tokenizer.json");
        let Some(text) = read(&path)? else { return Err(none(folder, label)) };
        let bad = |error: &dyn std::fmt::Display| Error::Checkpoint(format!("{}: {error}", path.display()));
        let file: Whole = serde_json::from_str(&text).map_err(|error| bad(&error))?;
        let kind = file.model.kind.unwrap_or_else(|| guess(&file.model.vocab, file.model.merges.is_some()).into());
        if !KINDS.contains(&kind.as_str()) {
            return Err(bad(&format_args!("model.type: '{kind}' is not one of {}", KINDS.join(", "))));
        }
        let mut tokenizer = Tokenizer { kind, ..Tokenizer::default() };
        match file.model.vocab {
            Pieces::Ids(ids) => {
                for (piece, id) in ids {
                    tokenizer.add_piece(piece, id).map_err(|error| bad(&error))?;
                }
            }
            Pieces::Scores(list) => {
                for (id, (piece, _)) in list.into_iter().enumerate() {
                    tokenizer.add_piece(piece, id as u32).map_err(|error| bad(&error))?;
                }
            }
        }
        for Numbered { id, token } in file.added_tokens {
            tokenizer.add(id, token).map_err(|error| bad(&error))?;
        }
        tokenizer.read_beside(folder)?;
        Ok(tokenizer)
    }

    /// The token with an id.
    pub(crate) fn token(&self, id: u32) -> Option<&str> {
        self.added.get(&id).map(|token| token.content.as_str()).or_else(|| self.pieces.get(&id).map(String::as_str))
    }

    /// Every id that has a token, in order.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (u32, &str)> {
        let last = self.pieces.keys().next_back().max(self.added.keys().next_back()).map_or(0, |last| last + 1);
        (0..last).filter_map(|id| self.token(id).map(|token| (id, token)))
    }

    fn add_piece(&mut self, piece: String, id: u32) -> Result<(), String> {
        if id >= MAX_ID {
            return Err(format!("token '{piece}' has id {id}; ids stay below {MAX_ID}"));
        }
        if let Some(other) = self.pieces.insert(id, piece.clone()) {
            return Err(format!("tokens '{other}' and '{piece}' share id {id}"));
        }
        self.ids.insert(piece, id);
        Ok(())
    }

    fn add(&mut self, id: u32, token: Added) -> Result<(), String> {
        if id >= MAX_ID {
            return Err(format!("token '{}' has id {id}; ids stay below {MAX_ID}", token.content));
        }
        match self.token(id) {
            Some(other) if other != token.content => {
                return Err(format!("tokens '{other}' and '{}' share id {id}", token.content));
            }
            _ => {}
        }
        if let Some(other) = self.ids.insert(token.content.clone(), id).filter(|other| *other != id) {
            return Err(format!("token '{}' has ids {other} and {id}", token.content));
        }
        self.added.insert(id, token);
        Ok(())
    }

    /// What older files beside `tokenizer.json` add; where the two differ, `tokenizer.json` holds.
    fn read_beside(&mut self, folder: &Path) -> Result<()> {
        let mut more = Vec::new();
        if let Some(config) = read_json(&folder.join("tokenizer_config.json"))? {
            for (id, token) in config.get("added_tokens_decoder").and_then(Json::as_object).into_iter().flatten() {
                if let (Ok(id), Ok(token)) = (id.parse(), serde_json::from_value::<Added>(token.clone())) {
                    more.push((id, token));
                }
            }
        }
        if let Some(added) = read_json(&folder.join("added_tokens.json"))? {
            for (content, id) in added.as_object().into_iter().flatten() {
                if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                    more.push((id, Added { content: content.clone(), normalized: true, ..Added::default() }));
                }
            }
        }
        for (id, token) in more {
            if !token.content.is_empty() && !self.ids.contains_key(&token.content) && self.token(id).is_none() {
                self.add(id, token).map_err(|error| Error::Checkpoint(format!("{}: {error}", folder.display())))?;
            }
        }
        Ok(())
    }
}

/// What an old file that names no type holds.
fn guess(vocab: &Pieces, merges: bool) -> &'static str {
    match vocab {
        Pieces::Scores(_) => "Unigram",
        Pieces::Ids(_) if merges => "BPE",
        Pieces::Ids(_) => "WordPiece",
    }
}

/// Why a folder without `tokenizer.json` has no tokens to read, and what to do.
fn none(folder: &Path, label: &str) -> Error {
    let slow = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"];
    let found = slow.into_iter().find(|name| folder.join(name).is_file());
    Error::Checkpoint(match found {
        Some(name) => format!(
            "{label}: {} is the only file of its tokenizer, and vocabularies are compared through tokenizer.json; make \
             one with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
            folder.join(name).display()
        ),
        None => format!(
            "{label}: {} is missing; 'tokenizer' needs one in every model (without that setting, models of one \
             vocabulary merge without it)",
            folder.join("tokenizer.json").display()
        ),
    })
}

/// A text file of a tokenizer, if it is there.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, "open")(error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(Error::io(path, "read"))?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::Checkpoint(format!("{}: more than {MAX_FILE} bytes", path.display())));
    }
    Ok(Some(text))
}

/// A JSON file of a tokenizer, if it is there.
pub(crate) fn read_json(path: &Path) -> Result<Option<Json>> {
    let parse = |text: String| {
        serde_json::from_str(&text).map_err(|error| Error::Checkpoint(format!("{}: {error}", path.display())))
    };
    read(path)?.map(parse).transpose()
}
