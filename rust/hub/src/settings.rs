//! Where the cache is, which Hub is asked, and with whose token: the environment variables of `huggingface_hub`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// How the Hub is used.
#[derive(Clone)]
pub struct Settings {
    /// The cache: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` under `HF_HOME` (`~/.cache/huggingface`).
    pub cache: PathBuf,
    /// The Hub's address without a slash at its end: `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: String,
    /// `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else what the file `HF_TOKEN_PATH` (`HF_HOME/token`) holds.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` is 1, on, yes or true: only the cache is used.
    pub offline: bool,
}

impl fmt::Debug for Settings {
    /// Without the token, which enters no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { cache, endpoint, token, offline } = self;
        let token = token.as_ref().map(|_| "...");
        write!(f, "Settings {{ cache: {cache:?}, endpoint: {endpoint:?}, token: {token:?}, offline: {offline} }}")
    }
}

impl Settings {
    /// As this process's environment says.
    pub fn from_env() -> Settings {
        Settings::from(|name| std::env::var(name).ok())
    }

    /// As `lookup` says, which gives the value of an environment variable. An empty value counts as none.
    pub fn from(lookup: impl Fn(&str) -> Option<String>) -> Settings {
        let value = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let user = value("HOME").map(PathBuf::from).unwrap_or_default();
        let path = |name: &str| value(name).map(|text| expand(&text, &user));
        let home = path("HF_HOME")
            .unwrap_or_else(|| path("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache")).join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let on = |name: &str| {
            value(name).is_some_and(|text| ["1", "on", "yes", "true"].contains(&text.to_ascii_lowercase().as_str()))
        };
        let token_file = || {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            fs::read_to_string(file).ok().filter(|_| !on("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
        };
        let token = value("HF_TOKEN").or_else(|| value("HUGGING_FACE_HUB_TOKEN")).or_else(token_file);
        Settings {
            cache,
            endpoint: value("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".into())
                .trim_end_matches('/')
                .into(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
        }
    }
}

/// `~` at the start is the user's home.
fn expand(text: &str, user: &Path) -> PathBuf {
    match text.strip_prefix('~') {
        Some("") => user.into(),
        Some(rest) if rest.starts_with('/') => user.join(&rest[1..]),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let variables: Vec<(String, String)> = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Settings::from(move |name| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn the_cache_is_found_as_huggingface_hub_finds_it() {
        let at = |variables: &[(&str, &str)]| settings(variables).cache.display().to_string();
        assert_eq!(at(&[("HOME", "/u")]), "/u/.cache/huggingface/hub");
        assert_eq!(at(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(at(&[("HOME", "/u"), ("HF_HOME", "~/hf")]), "/u/hf/hub");
        assert_eq!(at(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), "/c");
    }

    #[test]
    fn a_token_comes_from_the_environment_then_from_its_file_and_is_never_shown() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), "from-file\n").unwrap();
        let folder = home.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", folder)]).token.as_deref(), Some("from-file"));
        let both = settings(&[("HF_HOME", folder), ("HF_TOKEN", " from-env ")]);
        assert_eq!(both.token.as_deref(), Some("from-env"));
        assert!(!format!("{both:?}").contains("from-env"));
        assert_eq!(settings(&[("HF_HOME", folder), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
    }

    #[test]
    fn offline_is_what_says_yes() {
        assert!(settings(&[("HF_HUB_OFFLINE", "1")]).offline && settings(&[("TRANSFORMERS_OFFLINE", "Yes")]).offline);
        assert!(!settings(&[("HF_HUB_OFFLINE", "0")]).offline && !settings(&[]).offline);
    }
}
