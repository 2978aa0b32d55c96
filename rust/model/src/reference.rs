//! What a model may be called: `model` or `model+adapter`, each a path or `org/name[@revision]` of the Hub.
//!
//! What exists on disk wins, so a folder may have any name; a text with `+` or `@` that does not is taken apart.

use polmrs_core::{Error, Result};
use polmrs_hub::Repo;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a checkpoint or an adapter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A local folder or file.
    Path(PathBuf),
    /// A model on the Hub.
    Hub(Repo),
}

/// A model, perhaps with an adapter on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The model.
    pub model: Place,
    /// A LoRA adapter to apply to it.
    pub adapter: Option<Place>,
}

impl Reference {
    /// Takes a reference apart.
    ///
    /// # Errors
    /// [`Error::Config`] where a local folder is given a revision, or a part is empty.
    pub fn parse(text: &str) -> Result<Reference> {
        if let Some((model, adapter)) = split(text) {
            if model.is_empty() || adapter.is_empty() {
                return Err(Error::Config(format!("'{text}': a model and an adapter stand around the '+'")));
            }
            return Ok(Reference { model: Place::parse(model)?, adapter: Some(Place::parse(adapter)?) });
        }
        Ok(Reference { model: Place::parse(text)?, adapter: None })
    }
}

/// The model and the adapter of `model+adapter`; where several `+` could part them, the one that leaves something local.
fn split(text: &str) -> Option<(&str, &str)> {
    if Path::new(text).exists() {
        return None;
    }
    let parts = || text.match_indices('+').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let local = |part: &str| Path::new(part).exists();
    parts().find(|(model, adapter)| local(model) || local(adapter)).or_else(|| parts().next_back())
}

impl Place {
    fn parse(text: &str) -> Result<Place> {
        if Path::new(text).exists() {
            return Ok(Place::Path(text.into()));
        }
        if let Some((path, revision)) = text.rsplit_once('@')
            && Path::new(path).exists()
        {
            return Err(Error::Config(format!("'{text}': the local '{path}' has no revisions, so no '@{revision}'")));
        }
        Ok(Repo::parse(text).map_or_else(|| Place::Path(text.into()), Place::Hub))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Path(path) => path.display().fmt(f),
            Place::Hub(repo) => repo.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn hub(text: &str) -> Place {
        Place::Hub(Repo::parse(text).unwrap())
    }

    #[test]
    fn names_of_the_hub_and_paths_are_told_apart() {
        let plain = |text: &str| Reference::parse(text).unwrap();
        assert_eq!(plain("org/name@v1"), Reference { model: hub("org/name@v1"), adapter: None });
        assert_eq!(
            plain("org/name@v1+me/lora@v2"),
            Reference { model: hub("org/name@v1"), adapter: Some(hub("me/lora@v2")) }
        );
        for path in ["./org/name", "/a/b", "name", "a/b/c"] {
            assert_eq!(plain(path), Reference { model: Place::Path(path.into()), adapter: None });
        }
        assert!(Reference::parse("+me/lora").unwrap_err().to_string().contains("around the '+'"));
    }

    #[test]
    fn what_exists_wins_over_what_a_name_could_mean() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        for name in ["a+b", "c@d", "e"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        for whole in ["a+b", "c@d", "e"] {
            let place = Place::Path(path(whole).into());
            assert_eq!(Reference::parse(&path(whole)).unwrap(), Reference { model: place, adapter: None });
        }
        let both = Reference::parse(&format!("{}+{}", path("a+b"), "x/y+z")).unwrap();
        assert_eq!(both.model, Place::Path(path("a+b").into()));
        assert!(Reference::parse(&(path("e") + "@main")).unwrap_err().to_string().contains("has no revisions"));
    }
}
