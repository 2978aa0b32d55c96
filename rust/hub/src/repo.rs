//! What a model on the Hub is called.

use std::fmt;

/// The longest `org/name` that the Hub gives.
const LONGEST: usize = 96;

/// A model on the Hub: `org/name`, at a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// `org/name`.
    pub id: String,
    /// As written; the branch `main` where none is.
    pub revision: Option<String>,
}

impl Repo {
    /// Reads `org/name[@revision]`; nothing where the text cannot be one.
    ///
    /// A part of a name starts with a letter, a digit or `_` and holds `.`, `_` and `-` besides, but neither `--` nor `..`.
    pub fn parse(text: &str) -> Option<Repo> {
        let (id, revision) = match text.split_once('@') {
            None => (text, None),
            Some((id, revision)) => (id, Some(revision)),
        };
        let (org, name) = id.split_once('/')?;
        let valid = id.len() <= LONGEST && is_part(org) && is_part(name) && revision.is_none_or(is_revision);
        valid.then(|| Repo { id: id.into(), revision: revision.map(Into::into) })
    }

    /// The revision, or the branch that stands for none.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Its folder in the cache: `models--org--name`.
    pub fn folder(&self) -> String {
        format!("models--{}", self.id.replace('/', "--"))
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            None => f.write_str(&self.id),
            Some(revision) => write!(f, "{}@{revision}", self.id),
        }
    }
}

fn is_part(part: &str) -> bool {
    part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && !part.ends_with(['-', '.'])
        && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        && !part.contains("--")
        && !part.contains("..")
}

/// A branch, a tag, a commit, `refs/pr/7`: it names a file under `refs/`, so it may not lead elsewhere.
fn is_revision(text: &str) -> bool {
    let step = |step: &str| {
        !step.is_empty()
            && !step.starts_with('.')
            && step.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c))
    };
    text.len() <= 255 && text.split('/').all(step)
}

/// Whether a revision is a whole commit hash, which names a snapshot by itself.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_hub_writes_them() {
        let repo = Repo::parse("Qwen/Qwen3-0.6B@refs/pr/7").unwrap();
        assert_eq!((repo.id.as_str(), repo.revision()), ("Qwen/Qwen3-0.6B", "refs/pr/7"));
        assert_eq!(
            (repo.folder(), repo.to_string()),
            ("models--Qwen--Qwen3-0.6B".into(), "Qwen/Qwen3-0.6B@refs/pr/7".into())
        );
        assert_eq!(Repo::parse("a/b").unwrap().revision(), "main");
        for text in
            ["gpt2", "./a/b", "/a/b", "a/b/c", "a/..", "a--b/c", "a/b@", "a/b@../../x", "a/b@x//y", "a/.b", "a/", "~/a"]
        {
            assert_eq!(Repo::parse(text), None, "{text}");
        }
    }
}
