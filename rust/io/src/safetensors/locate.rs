//! Which files a path stands for.

use polmrs_core::{Error, Result};
use std::path::{Path, PathBuf};

pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const SINGLE: &str = "model.safetensors";

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An index, its shards beside it.
    Index(PathBuf),
    /// One file that holds everything.
    Single(PathBuf),
}

/// A folder's index, else its `model.safetensors`, else its only safetensors file; or the file given.
pub(super) fn locate(path: &Path) -> Result<Found> {
    if !path.metadata().map_err(Error::io(path, "open"))?.is_dir() {
        refuse_format(path)?;
        return Ok(Found::Single(path.to_path_buf()));
    }
    // `is_symlink` keeps a link whose target is gone: opening it says so, looking past it would hide it.
    let there = |path: &Path| path.exists() || path.is_symlink();
    let index = path.join(INDEX);
    if there(&index) {
        return Ok(Found::Index(index));
    }
    let single = path.join(SINGLE);
    if there(&single) {
        return Ok(Found::Single(single));
    }
    let names = list(path)?;
    let ending = |suffix: &str| -> Vec<&String> { names.iter().filter(|name| name.ends_with(suffix)).collect() };
    match ending(".safetensors")[..] {
        [] => Err(nothing(path, &names)),
        [name] if is_shard(name) => {
            Err(Error::NotFound(format!("{}: holds '{name}', one shard of several, and no {INDEX}", path.display())))
        }
        [name] => Ok(Found::Single(path.join(name))),
        ref several => Err(Error::Checkpoint(format!(
            "{}: holds {} safetensors files and no {INDEX}; name one of them: {}",
            path.display(),
            several.len(),
            shortened(several.iter().map(|name| name.as_str()))
        ))),
    }
}

/// Whether a name ends in `-00001-of-00003.safetensors`: one part of a checkpoint, and not all of it.
fn is_shard(name: &str) -> bool {
    let count = name.strip_suffix(".safetensors").and_then(|stem| stem.rsplit_once("-of-")).map(|(_, count)| count);
    count.is_some_and(|count| count.len() == 5 && count.parse::<u32>().is_ok_and(|count| count > 1))
}

/// The names in a folder that are UTF-8 and not hidden, in order.
fn list(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in folder.read_dir().map_err(Error::io(folder, "list"))? {
        let name = entry.map_err(Error::io(folder, "list"))?.file_name();
        names.extend(name.into_string().ok().filter(|name| !name.starts_with('.')));
    }
    names.sort_unstable();
    Ok(names)
}

fn is_pickle(name: &str) -> bool {
    [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|suffix| name.ends_with(suffix))
}

/// Why pickles are refused, and what to do with the one at `path`.
fn pickled(path: &Path) -> String {
    format!(
        "pickles can run code and are refused; `polmrs convert '{}' OUT` makes safetensors of them safely",
        path.display()
    )
}

fn nothing(folder: &Path, names: &[String]) -> Error {
    let mut message = format!("{}: no safetensors file", folder.display());
    let pickles: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_pickle(name)).collect();
    if !pickles.is_empty() {
        message += &format!(", only {}: {}", shortened(pickles.iter().copied()), pickled(folder));
    }
    let ggufs: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.ends_with(".gguf")).collect();
    if !ggufs.is_empty() {
        message += &format!("; GGUF is another format, there in {}", shortened(ggufs.iter().copied()));
    }
    Error::NotFound(message)
}

/// A file whose name says that it is something else.
fn refuse_format(path: &Path) -> Result<()> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if is_pickle(&name) {
        return Err(Error::Checkpoint(format!("{}: {}", path.display(), pickled(path))));
    }
    if name.ends_with(".gguf") {
        return Err(Error::Checkpoint(format!("{}: GGUF is another format than safetensors", path.display())));
    }
    Ok(())
}

/// The first names of a list, quoted, and how many more there are.
fn shortened<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    let shown: Vec<String> = names.take(SHOWN).map(super::json::quote).collect();
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), "").unwrap();
        }
        folder
    }

    fn refused(names: &[&str]) -> String {
        locate(folder(names).path()).unwrap_err().to_string()
    }

    #[test]
    fn the_index_wins_then_the_usual_name_then_the_only_file() {
        let all = folder(&[INDEX, SINGLE, "other.safetensors"]);
        assert_eq!(locate(all.path()).unwrap(), Found::Index(all.path().join(INDEX)));
        fs::remove_file(all.path().join(INDEX)).unwrap();
        assert_eq!(locate(all.path()).unwrap(), Found::Single(all.path().join(SINGLE)));
        fs::remove_file(all.path().join(SINGLE)).unwrap();
        assert_eq!(locate(all.path()).unwrap(), Found::Single(all.path().join("other.safetensors")));
    }

    #[test]
    fn one_shard_of_several_is_no_checkpoint() {
        assert!(refused(&["model-00001-of-00002.safetensors"]).contains("one shard of several"));
        assert!(locate(folder(&["model-00001-of-00001.safetensors"]).path()).is_ok());
    }

    #[test]
    fn several_files_need_a_choice() {
        let message = refused(&["b.safetensors", "a.safetensors", ".hidden.safetensors"]);
        assert!(message.contains("holds 2 safetensors files") && message.contains("'a.safetensors', 'b.safetensors'"));
    }

    #[test]
    fn pickles_are_refused_with_a_way_out() {
        let message = refused(&["pytorch_model-00001-of-00002.bin", "config.json", "model.gguf"]);
        assert!(message.contains("only 'pytorch_model-00001-of-00002.bin': pickles can run code"), "{message}");
        assert!(message.contains("polmrs convert '") && message.contains("there in 'model.gguf'"), "{message}");
        let one = folder(&["model.pt"]);
        assert!(locate(&one.path().join("model.pt")).unwrap_err().to_string().contains("pickles can run code"));
    }

    #[test]
    fn an_empty_folder_and_a_missing_one_say_so() {
        assert!(refused(&[]).ends_with("no safetensors file"));
        assert!(matches!(locate(Path::new("/nowhere/at/all")), Err(Error::NotFound(_))));
    }
}
