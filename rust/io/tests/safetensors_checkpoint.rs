//! Opening and reading checkpoints: shards, links, and files that are not what they should be.

#![allow(clippy::unwrap_used, reason = "a test may")]

use polmrs_core::{Dtype, Error};
use polmrs_io::safetensors::{Checkpoint, MAX_HEADER};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

/// A safetensors file with these bytes as its header and these as its data.
fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A file of one-dimensional U8 tensors, one after the other.
fn bytes_of(tensors: &[(&str, &[u8])]) -> Vec<u8> {
    let mut entries = vec![];
    let mut data = vec![];
    for (name, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        let offsets = format!("[{begin},{}]", data.len());
        entries.push(format!(r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":{offsets}}}"#, bytes.len()));
    }
    file_of(&format!("{{{}}}", entries.join(",")), &data)
}

fn index_of(map: &[(&str, &str)]) -> String {
    let entries: Vec<String> = map.iter().map(|(tensor, shard)| format!(r#""{tensor}": "{shard}""#)).collect();
    format!(r#"{{"metadata": {{"total_size": 0}}, "weight_map": {{{}}}}}"#, entries.join(", "))
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Two shards: `a`, `b` in the first, `c` in the second.
fn sharded() -> TempDir {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join(ONE), bytes_of(&[("b", b"bbb"), ("a", b"aa")])).unwrap();
    fs::write(folder.path().join(TWO), bytes_of(&[("c", b"cccc")])).unwrap();
    fs::write(folder.path().join(INDEX), index_of(&[("c", TWO), ("a", ONE), ("b", ONE)])).unwrap();
    folder
}

fn all_of(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let at = checkpoint.find(name).unwrap();
    let mut bytes = vec![0; checkpoint.tensors()[at].nbytes() as usize];
    checkpoint.read(at, 0, &mut bytes).unwrap();
    bytes
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.tensors().iter().map(|tensor| tensor.name.as_str()).collect()
}

/// All but the last byte.
fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.pop();
    bytes
}

fn refused(path: &Path) -> String {
    Checkpoint::open(path).unwrap_err().to_string()
}

/// The message for a single file with these bytes, which must name it.
fn refused_bytes(bytes: &[u8]) -> String {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    let message = refused(folder.path());
    message.strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()
}

#[test]
fn shards_read_as_one_checkpoint() {
    let folder = sharded();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.root(), folder.path());
    assert_eq!(names(&checkpoint), ["b", "a", "c"]);
    assert_eq!(checkpoint.files().collect::<Vec<_>>(), [folder.path().join(ONE), folder.path().join(TWO)]);
    assert_eq!(checkpoint.file_of(2), folder.path().join(TWO));
    for (name, bytes) in [("a", &b"aa"[..]), ("b", b"bbb"), ("c", b"cccc")] {
        assert_eq!(all_of(&checkpoint, name), bytes);
    }
    assert_eq!((checkpoint.find("d"), checkpoint.unlisted().len()), (None, 0));
}

#[test]
fn a_part_of_a_tensor_is_read_and_no_more() {
    let folder = sharded();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let at = checkpoint.find("b").unwrap();
    let mut two = [0; 2];
    checkpoint.read(at, 1, &mut two).unwrap();
    assert_eq!(&two, b"bb");
    checkpoint.read(at, 3, &mut []).unwrap();
    for (tensor, offset) in [(at, 2), (at, u64::MAX), (3, 0)] {
        assert!(matches!(checkpoint.read(tensor, offset, &mut two), Err(Error::Internal(_))));
    }
}

#[test]
fn threads_read_at_once() {
    let folder = sharded();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200).for_each(|_| assert_eq!(all_of(&checkpoint, "c"), b"cccc")));
        }
    });
}

#[test]
fn a_single_file_opens_by_its_folder_by_its_name_and_as_a_blob() {
    let folder = tempdir().unwrap();
    let header = r#"{"__metadata__":{"format":"pt"},"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
    for name in ["model.safetensors", "3f9a0c"] {
        let path = folder.path().join(name);
        fs::write(&path, file_of(header, b"hi")).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!((all_of(&checkpoint, "w"), checkpoint.root()), (b"hi".to_vec(), &*path));
        assert_eq!(checkpoint.metadata()["format"], "pt");
    }
    assert_eq!(all_of(&Checkpoint::open(folder.path()).unwrap(), "w"), b"hi");
}

#[test]
fn a_hugging_face_cache_is_read_through_its_links() {
    let cache = tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/0a1b"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let plain = sharded();
    for (at, name) in [ONE, TWO, INDEX].into_iter().enumerate() {
        fs::copy(plain.path().join(name), blobs.join(format!("{at}"))).unwrap();
        symlink(format!("../../blobs/{at}"), snapshot.join(name)).unwrap();
    }
    let checkpoint = Checkpoint::open(&snapshot).unwrap();
    assert_eq!((all_of(&checkpoint, "b"), all_of(&checkpoint, "c")), (b"bbb".to_vec(), b"cccc".to_vec()));

    fs::remove_file(blobs.join("1")).unwrap();
    let message = refused(&snapshot);
    assert!(message.ends_with(&format!("shard '{TWO}' is missing; tensor 'c' needs it")), "{message}");
    fs::remove_file(blobs.join("2")).unwrap();
    assert!(matches!(Checkpoint::open(&snapshot), Err(Error::NotFound(_))), "a dangling index is not looked past");
}

#[test]
fn a_missing_shard_names_the_tensor_that_needs_it() {
    let folder = sharded();
    fs::remove_file(folder.path().join(TWO)).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)));
    assert!(error.to_string().ends_with(&format!("shard '{TWO}' is missing; tensor 'c' needs it")), "{error}");
}

#[test]
fn the_index_decides_between_shards_and_leaves_out_what_it_does_not_list() {
    let folder = sharded();
    fs::write(folder.path().join(TWO), bytes_of(&[("c", b"cccc"), ("a", b"other"), ("rotary.inv_freq", b"x")]))
        .unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!((names(&checkpoint), all_of(&checkpoint, "a")), (vec!["b", "a", "c"], b"aa".to_vec()));
    assert_eq!(checkpoint.unlisted(), ["rotary.inv_freq"]);
}

#[test]
fn a_tensor_that_is_not_where_the_index_says_is_an_error() {
    let folder = sharded();
    for wrong in ["a", "d"] {
        fs::write(folder.path().join(INDEX), index_of(&[("c", TWO), (wrong, TWO), ("b", ONE)])).unwrap();
        let message = refused(folder.path());
        assert!(
            message.ends_with(&format!("{INDEX}: weight_map: tensor '{wrong}' is not in shard '{TWO}'")),
            "{message}"
        );
    }
}

#[test]
fn an_index_leads_nowhere_else() {
    let folder = sharded();
    for shard in ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors", ".."] {
        fs::write(folder.path().join(INDEX), index_of(&[("c", shard)])).unwrap();
        let message = refused(folder.path());
        assert!(message.contains(&format!("{INDEX}: weight_map: tensor 'c': shard '{shard}'")), "{message}");
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let whole = bytes_of(&[("w", b"0123456789")]);
    let data = whole.len() - 10;
    for len in 0..whole.len() {
        let message = refused_bytes(&whole[..len]);
        let reason = match len {
            0..8 => "starts with 8 bytes of length",
            _ if len < data => "header length",
            _ => "tensor 'w': data_offsets [0, 10] end beyond",
        };
        assert!(message.contains(reason), "{len}: {message}");
    }
    let shards = sharded();
    fs::write(shards.path().join(TWO), cut(bytes_of(&[("c", b"cccc")]))).unwrap();
    let message = refused(shards.path());
    assert!(message.contains(&format!("{TWO}: tensor 'c': data_offsets [0, 4] end beyond")), "{message}");
}

#[test]
fn a_file_that_shrinks_later_is_an_error_of_the_read() {
    let folder = sharded();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let two = folder.path().join(TWO);
    fs::write(&two, cut(fs::read(&two).unwrap())).unwrap();
    let error = checkpoint.read(2, 0, &mut [0; 4]).unwrap_err();
    assert!(matches!(error, Error::Checkpoint(_)));
    assert!(error.to_string().ends_with(&format!("{TWO}: tensor 'c': the file shrank after it was opened")), "{error}");
}

#[test]
fn a_header_length_is_bounded_by_the_file_and_by_100_mb() {
    for len in [0, 1, 3, 1 << 20, u64::MAX, u64::MAX - 7, i64::MAX as u64] {
        let message = refused_bytes(&[&len.to_le_bytes()[..], b"{}"].concat());
        assert_eq!(message, format!("header length {len} is not from 2 to 2"));
    }
    // Longer than the bound, and the file really is that long (it takes no space).
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, (MAX_HEADER + 1).to_le_bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(MAX_HEADER * 2).unwrap();
    assert!(refused(&path).ends_with("header length 100000001 is not from 2 to 100000000"));
    let index = folder.path().join(INDEX);
    fs::File::create(&index).unwrap().set_len(MAX_HEADER * 2).unwrap();
    assert!(refused(folder.path()).ends_with("index.json: 100000001 bytes are more than 100000000"));
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let folder = tempdir().unwrap();
    let pipe = folder.path().join("model.safetensors");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert!(refused(folder.path()).ends_with("model.safetensors: not a file"));
    fs::remove_file(&pipe).unwrap();
    fs::create_dir(&pipe).unwrap();
    assert!(refused(folder.path()).ends_with("model.safetensors: not a file"));
}

#[test]
fn an_error_names_file_tensor_value_and_rule() {
    let header = r#"{"model.norm.weight":{"dtype":"BF16","shape":[64],"data_offsets":[0,100]}}"#;
    let message = refused_bytes(&file_of(header, &[0; 100]));
    assert_eq!(message, "tensor 'model.norm.weight': data_offsets [0, 100] span 100 bytes, but BF16 x [64] needs 128");
}

#[test]
fn more_shards_than_files_may_stay_open_still_read() {
    let folder = tempdir().unwrap();
    let shards: Vec<String> = (0..600).map(|at| format!("shard-{at:03}.safetensors")).collect();
    let tensors: Vec<String> = (0..600).map(|at| format!("w{at}")).collect();
    let mut map = vec![];
    for (shard, tensor) in shards.iter().zip(&tensors) {
        fs::write(folder.path().join(shard), bytes_of(&[(tensor, tensor.as_bytes())])).unwrap();
        map.push((tensor.as_str(), shard.as_str()));
    }
    fs::write(folder.path().join(INDEX), index_of(&map)).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    for tensor in &tensors {
        assert_eq!(all_of(&checkpoint, tensor), tensor.as_bytes());
    }
    let open = fs::read_dir("/proc/self/fd").map_or(0, |fds| {
        let of_ours = |fd: &PathBuf| fs::read_link(fd).is_ok_and(|target| target.starts_with(folder.path()));
        fds.filter(|fd| fd.as_ref().is_ok_and(|fd| of_ours(&fd.path()))).count()
    });
    assert!(open <= 512, "{open} files are open");
}

#[test]
fn every_type_reads_back() {
    let (mut entries, mut data) = (vec![], vec![]);
    for (at, dtype) in Dtype::ALL.into_iter().enumerate() {
        let begin = data.len();
        data.resize(begin + 3 * dtype.size(), at as u8);
        let offsets = format!("[{begin},{}]", data.len());
        entries.push(format!(r#""{at}":{{"dtype":"{}","shape":[3,1],"data_offsets":{offsets}}}"#, dtype.name()));
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("all.safetensors");
    fs::write(&path, file_of(&format!("{{{}}}", entries.join(",")), &data)).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    for (at, dtype) in Dtype::ALL.into_iter().enumerate() {
        let tensor = &checkpoint.tensors()[at];
        assert_eq!((tensor.dtype, tensor.elements()), (dtype, 3));
        assert_eq!(all_of(&checkpoint, &at.to_string()), vec![at as u8; 3 * dtype.size()]);
    }
}
