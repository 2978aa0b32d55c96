//! The chat template of the result: the one that most models have, one by name, or Jinja as written.

use super::vocab::{read, read_json};
use polmrs_core::Result;
use polmrs_core::error::did_you_mean;
use polmrs_io::yaml::Field;
use serde_json::Value as Json;
use std::path::Path;

/// Templates by name. They give what mergekit's templates of these names give for conversations that both take.
const NAMED: [(&str, &str); 5] = [
    ("alpaca", include_str!("templates/alpaca.jinja")),
    ("chatml", include_str!("templates/chatml.jinja")),
    ("exaone", include_str!("templates/exaone.jinja")),
    ("llama3", include_str!("templates/llama3.jinja")),
    ("mistral", include_str!("templates/mistral.jinja")),
];
/// A text as short as this is a misspelt name, not a template.
const SHORTEST: usize = 20;

/// What a configuration says about the chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chat {
    /// The one that most models have.
    Auto,
    /// This.
    Template(String),
}

impl Chat {
    /// Reads the key `chat_template`.
    pub fn decode(field: &Field<'_>) -> Result<Chat> {
        let text = field.as_text()?;
        if text == "auto" {
            return Ok(Chat::Auto);
        }
        if let Some((_, template)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(Chat::Template((*template).into()));
        }
        if text.contains('{') && text.len() >= SHORTEST {
            return Ok(Chat::Template(text.into_owned()));
        }
        let names: Vec<&str> = ["auto"].into_iter().chain(NAMED.iter().map(|(name, _)| *name)).collect();
        let hint = did_you_mean(&text, names.iter().copied());
        Err(field.error(format_args!(
            "'{text}' is neither one of {} nor a Jinja template ({SHORTEST} characters or more, with a '{{'){hint}",
            names.join(", ")
        )))
    }

    /// The template for models in these folders, the base's first; none where no model has one.
    pub(crate) fn choose(&self, folders: &[&Path]) -> Result<Option<String>> {
        if let Chat::Template(template) = self {
            return Ok(Some(template.clone()));
        }
        let mut counts: Vec<(String, usize)> = Vec::new();
        for folder in folders {
            let Some(template) = of_model(folder)? else { continue };
            match counts.iter_mut().find(|(known, _)| *known == template) {
                Some((_, count)) => *count += 1,
                None => counts.push((template, 1)),
            }
        }
        // The last of equals is the largest to `max_by_key`; reversed, the first wins.
        Ok(counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(template, _)| template))
    }
}

/// The template that transformers would read from a folder.
fn of_model(folder: &Path) -> Result<Option<String>> {
    if let Some(template) = read(&folder.join("chat_template.jinja"))? {
        return Ok(Some(template));
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
        let config = read_json(&folder.join(name))?;
        match config.as_ref().and_then(|config| config.get("chat_template")) {
            Some(Json::String(template)) => return Ok(Some(template.clone())),
            Some(Json::Array(templates)) => {
                let default = templates.iter().find(|template| template["name"] == "default");
                return Ok(default.and_then(|template| Some(template["template"].as_str()?.to_owned())));
            }
            _ => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_that_most_models_have_wins_and_the_first_of_equals() {
        let home = tempfile::tempdir().unwrap();
        let folders = ["b", "a", "none", "a", "c"].map(|text| {
            let folder = tempfile::Builder::new().tempdir_in(&home).unwrap().keep();
            match text {
                "none" => {}
                "c" => std::fs::write(
                    folder.join("tokenizer_config.json"),
                    r#"{"chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "c"}]}"#,
                )
                .unwrap(),
                text => std::fs::write(folder.join("chat_template.jinja"), text).unwrap(),
            }
            folder
        });
        let paths: Vec<&Path> = folders.iter().map(|folder| folder.as_path()).collect();
        let chosen = |of: &[&Path]| Chat::Auto.choose(of).unwrap();
        assert_eq!(chosen(&paths).as_deref(), Some("a"));
        assert_eq!(chosen(&paths[..3]).as_deref(), Some("b"));
        assert_eq!(chosen(&paths[4..]).as_deref(), Some("c"));
        assert_eq!(chosen(&paths[2..3]), None);
    }
}
