//! Writing checkpoints: what goes in comes out, for us and for the `safetensors` crate.

#![allow(clippy::unwrap_used, reason = "a test may")]

use polmrs_core::{Dtype, Error};
use polmrs_io::safetensors::{Checkpoint, Layout, Spec, Writer};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{SafeTensors, serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::tempdir;

fn spec(name: &str, dtype: Dtype, shape: &[u64]) -> Spec {
    Spec { name: name.into(), dtype, shape: shape.into() }
}

fn nbytes(spec: &Spec) -> usize {
    spec.shape.iter().product::<u64>() as usize * spec.dtype.size()
}

/// Bytes that differ from tensor to tensor and from place to place.
fn content(tensor: usize, spec: &Spec) -> Vec<u8> {
    (0..nbytes(spec)).map(|at| (at * 31 + tensor * 97 + 1) as u8).collect()
}

/// Writes every tensor in pieces, from two threads, last piece first.
fn fill(writer: &Writer, specs: &[Spec], piece: usize) {
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for (tensor, spec) in specs.iter().enumerate() {
                    let bytes = content(tensor, spec);
                    for (at, chunk) in bytes.chunks(piece).enumerate().collect::<Vec<_>>().into_iter().rev() {
                        if at % 2 == half {
                            writer.write(tensor, (at * piece) as u64, chunk).unwrap();
                        }
                    }
                    writer.sync().unwrap();
                }
            });
        }
    });
}

/// A file as the `safetensors` crate writes these tensors.
fn as_the_crate_writes(tensors: &[(&str, &Spec, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, spec, bytes)| {
        let dtype = serde_json::from_value(spec.dtype.name().into()).unwrap();
        let shape = spec.shape.iter().map(|size| *size as usize).collect();
        (name, TensorView::new(dtype, shape, bytes).unwrap())
    });
    serialize(views, Some(HashMap::from([("format".to_owned(), "pt".to_owned())]))).unwrap()
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let shape = proptest::collection::vec(0u64..5, 0..4);
    let name = "[a-z.0-9]{1,8}|[ -~]{1,4}|\\PC{1,3}";
    let one = (name, proptest::sample::select(&Dtype::ALL[..]), shape);
    proptest::collection::btree_map(one.0, (one.1, one.2), 0..12)
        .prop_map(|specs| {
            specs.into_iter().map(|(name, (dtype, shape))| Spec { name, dtype, shape }).collect::<Vec<_>>()
        })
        .prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn what_was_written_is_read_and_the_crate_agrees(specs in specs(), shard_size in 1u64..600, piece in 1usize..40) {
        prop_assume!(specs.iter().all(|spec| spec.name != "__metadata__"));
        let folder = tempdir().unwrap();
        let layout = Writer::plan(&specs, shard_size).unwrap();
        let planned: Vec<(String, u64)> = layout.files().map(|(name, len)| (name.to_owned(), len)).collect();
        let file_of: Vec<usize> = (0..specs.len()).map(|tensor| layout.file_of(tensor)).collect();
        let disk_bytes = layout.disk_bytes();
        let writer = Writer::create(folder.path(), layout).unwrap();
        fill(&writer, &specs, piece);
        let paths = writer.finish().unwrap();
        prop_assert_eq!(paths.len(), planned.len() + usize::from(planned.len() > 1));
        prop_assert_eq!(disk_bytes, paths.iter().map(|path| path.metadata().unwrap().len()).sum::<u64>());
        prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), paths.len());

        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        prop_assert_eq!((checkpoint.tensors().len(), checkpoint.unlisted().len()), (specs.len(), 0));
        for (tensor, spec) in specs.iter().enumerate() {
            let at = checkpoint.find(&spec.name).unwrap();
            let found = &checkpoint.tensors()[at];
            prop_assert_eq!((found.dtype, &found.shape, found.nbytes() as usize), (spec.dtype, &spec.shape, nbytes(spec)));
            let mut bytes = vec![0; nbytes(spec)];
            checkpoint.read(at, 0, &mut bytes).unwrap();
            prop_assert_eq!(bytes, content(tensor, spec));
        }

        for (at, (name, len)) in planned.iter().enumerate() {
            let here: Vec<(&str, &Spec, Vec<u8>)> = specs.iter().enumerate()
                .filter(|(tensor, _)| file_of[*tensor] == at)
                .map(|(tensor, spec)| (spec.name.as_str(), spec, content(tensor, spec)))
                .collect();
            let bytes = fs::read(folder.path().join(name)).unwrap();
            prop_assert_eq!(bytes.len() as u64, *len);
            let theirs = SafeTensors::deserialize(&bytes).unwrap();
            prop_assert_eq!(theirs.len(), here.len());
            for (name, _, content) in &here {
                prop_assert_eq!(theirs.tensor(name).unwrap().data(), &content[..]);
            }
            prop_assert!(bytes == as_the_crate_writes(&here), "{name} differs from the crate's file");
        }
    }
}

fn two_shards() -> (Vec<Spec>, Layout) {
    let specs = vec![spec("a", Dtype::F32, &[4]), spec("b", Dtype::BF16, &[8])];
    let layout = Writer::plan(&specs, 16).unwrap();
    assert_eq!(layout.files().count(), 2);
    (specs, layout)
}

/// Names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nothing_there_is_overwritten_and_nothing_new_left_behind() {
    for there in ["model-00002-of-00002.safetensors", "model.safetensors.index.json"] {
        let folder = tempdir().unwrap();
        let path = folder.path().join(there);
        fs::write(&path, "precious").unwrap();
        let error = Writer::create(folder.path(), two_shards().1).unwrap_err();
        assert!(matches!(error, Error::Exists(_)));
        assert_eq!(error.to_string(), format!("{}: is there already", path.display()));
        assert_eq!((names(folder.path()), fs::read(&path).unwrap()), (vec![there.to_owned()], b"precious".to_vec()));
    }
}

#[test]
fn nothing_is_written_through_a_link() {
    let folder = tempdir().unwrap();
    let (target, elsewhere) = (folder.path().join("target"), folder.path().join("elsewhere"));
    fs::write(&elsewhere, "precious").unwrap();
    for (at, name) in ["model-00001-of-00002.safetensors", "model.safetensors.index.json"].into_iter().enumerate() {
        let dir = folder.path().join(format!("out{at}"));
        fs::create_dir(&dir).unwrap();
        symlink(&target, dir.join(name)).unwrap();
        assert!(matches!(Writer::create(&dir, two_shards().1), Err(Error::Exists(_))));
        assert!(!target.exists() && dir.join(name).is_symlink());
    }
    // Links that appear while the writer works.
    let dir = folder.path().join("late");
    fs::create_dir(&dir).unwrap();
    let (specs, layout) = two_shards();
    let writer = Writer::create(&dir, layout).unwrap();
    fill(&writer, &specs, 8);
    for name in ["model.safetensors.index.json", "model.safetensors.index.json.partial"] {
        symlink(&elsewhere, dir.join(name)).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    assert!(!dir.join("model.safetensors.index.json").is_symlink());
    Checkpoint::open(&dir).unwrap();
}

#[test]
fn an_interrupted_writer_goes_on() {
    let folder = tempdir().unwrap();
    let (specs, layout) = two_shards();
    let writer = Writer::create(folder.path(), layout.clone()).unwrap();
    writer.write(0, 0, &content(0, &specs[0])).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let forgetful = Writer::reopen(folder.path(), layout.clone(), []).unwrap();
    forgetful.write(1, 0, &content(1, &specs[1])).unwrap();
    assert!(forgetful.finish().unwrap_err().to_string().contains("16 of 32 bytes were written"));
    let writer = Writer::reopen(folder.path(), layout.clone(), [0]).unwrap();
    assert_eq!(writer.layout(), &layout);
    writer.write(1, 0, &content(1, &specs[1])).unwrap();
    writer.finish().unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let mut bytes = [0; 16];
    checkpoint.read(checkpoint.find("a").unwrap(), 0, &mut bytes).unwrap();
    assert_eq!(bytes[..], content(0, &specs[0]));

    let others = [spec("a", Dtype::F32, &[4]), spec("c", Dtype::BF16, &[8])];
    let error = Writer::reopen(folder.path(), Writer::plan(&others, 16).unwrap(), []).unwrap_err();
    assert!(error.to_string().ends_with("00002.safetensors: not the file that this plan began"), "{error}");
    fs::remove_file(folder.path().join("model-00001-of-00002.safetensors")).unwrap();
    assert!(matches!(Writer::reopen(folder.path(), layout.clone(), []), Err(Error::NotFound(_))));
    symlink("model-00002-of-00002.safetensors", folder.path().join("model-00001-of-00002.safetensors")).unwrap();
    assert!(matches!(Writer::reopen(folder.path(), layout, []), Err(Error::Io { .. })));
}

#[test]
fn a_write_stays_inside_its_tensor() {
    let folder = tempdir().unwrap();
    let writer = Writer::create(folder.path(), two_shards().1).unwrap();
    for (tensor, offset, len) in [(0, 0, 17), (0, 16, 1), (0, u64::MAX, 1), (2, 0, 0)] {
        assert!(matches!(writer.write(tensor, offset, &vec![1; len]), Err(Error::Internal(_))));
    }
    writer.write(0, 16, &[]).unwrap();
}

#[test]
fn a_tensor_that_was_forgotten_is_an_error() {
    let folder = tempdir().unwrap();
    let (specs, layout) = two_shards();
    let writer = Writer::create(folder.path(), layout).unwrap();
    writer.write(0, 0, &content(0, &specs[0])).unwrap();
    assert!(writer.finish().unwrap_err().to_string().contains("16 of 32 bytes were written"));
    assert!(!folder.path().join("model.safetensors.index.json").exists());
}

#[test]
fn other_names_and_metadata_are_written() {
    let folder = tempdir().unwrap();
    let metadata = BTreeMap::from([("a".to_owned(), "1\n".to_owned()), ("b".to_owned(), "\"".to_owned())]);
    let layout = Layout::new("adapter_model", &metadata, &[spec("w", Dtype::Bool, &[0])], 1).unwrap();
    Writer::create(folder.path(), layout).unwrap().finish().unwrap();
    assert_eq!(names(folder.path()), ["adapter_model.safetensors"]);
    assert_eq!(Checkpoint::open(folder.path()).unwrap().metadata(), &metadata);
}

#[test]
fn a_missing_folder_is_an_error() {
    let folder = tempdir().unwrap();
    assert!(matches!(Writer::create(&folder.path().join("none"), two_shards().1), Err(Error::NotFound(_))));
}

#[test]
fn more_shards_than_files_may_stay_open_are_written() {
    let folder = tempdir().unwrap();
    let specs: Vec<Spec> = (0..600).map(|at| spec(&format!("w{at}"), Dtype::U8, &[3])).collect();
    let writer = Writer::create(folder.path(), Writer::plan(&specs, 3).unwrap()).unwrap();
    for (tensor, spec) in specs.iter().enumerate() {
        writer.write(tensor, 0, &content(tensor, spec)).unwrap();
    }
    assert_eq!(writer.finish().unwrap().len(), 601);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let mut bytes = [0; 3];
    checkpoint.read(checkpoint.find("w599").unwrap(), 0, &mut bytes).unwrap();
    assert_eq!(bytes[..], content(599, &specs[599]));
}
