//! Reading a finished checkpoint back, and comparing it with what was written.

use crate::stream::guard;
use polmrs_core::{Ctl, Error, Result, pool};
use polmrs_io::safetensors::Checkpoint;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Reads every tensor of the checkpoint in `folder` and compares its BLAKE3 hash with the one from when it was written.
///
/// The system is asked to forget its copies of the files first, so that the bytes come from the disk.
///
/// # Errors
/// [`Error::Io`] names the file and the tensor that differ.
pub fn verify<'a>(
    folder: &Path,
    expected: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
    threads: usize,
    ctl: &Ctl,
) -> Result<()> {
    let checkpoint = Checkpoint::open(folder)?;
    checkpoint.files().for_each(forget);
    if expected.len() != checkpoint.tensors().len() {
        let (found, wanted) = (checkpoint.tensors().len(), expected.len());
        return Err(mismatch(folder, &format!("{found} tensors were read back, {wanted} were written")));
    }
    let expected: Vec<(&str, &str)> = expected.collect();
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    pool::build(threads)?.broadcast(|_| {
        let mut piece = vec![0; PIECE];
        while let Some((name, digest)) = expected.get(next.fetch_add(1, Relaxed)) {
            if guard(&failed).is_some() {
                return;
            }
            if let Err(error) = compare(&checkpoint, name, digest, &mut piece, ctl) {
                guard(&failed).get_or_insert(error);
            }
        }
    });
    guard(&failed).take().map_or(Ok(()), Err)
}

fn compare(checkpoint: &Checkpoint, name: &str, digest: &str, piece: &mut [u8], ctl: &Ctl) -> Result<()> {
    let Some(tensor) = checkpoint.find(name) else {
        return Err(mismatch(checkpoint.root(), &format!("tensor '{name}' is missing")));
    };
    let mut hasher = blake3::Hasher::new();
    let (mut offset, size) = (0, checkpoint.tensors()[tensor].nbytes());
    while offset < size {
        ctl.check()?;
        let bytes = &mut piece[..(size - offset).min(PIECE as u64) as usize];
        checkpoint.read(tensor, offset, bytes)?;
        hasher.update(bytes);
        offset += bytes.len() as u64;
    }
    if hasher.finalize().to_hex().as_str() == digest {
        return Ok(());
    }
    Err(mismatch(checkpoint.file_of(tensor), &format!("tensor '{name}' does not read back as it was written")))
}

fn mismatch(path: &Path, what: &str) -> Error {
    Error::Io { path: path.into(), action: "verify", source: io::Error::new(io::ErrorKind::InvalidData, what) }
}

/// Asks the system to drop its copy of a synced file. It may decline: the comparison holds either way.
fn forget(path: &Path) {
    if let Ok(file) = File::open(path) {
        // SAFETY: the descriptor is open for the length of the call, which only gives advice.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polmrs_core::Dtype;
    use polmrs_io::safetensors::{Spec, Writer};
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_flipped_bit_is_named_by_file_and_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let contents = [("a", vec![3u8; 5000]), ("b", vec![4u8; PIECE + 77])];
        let specs: Vec<Spec> = contents
            .iter()
            .map(|(name, bytes)| Spec { name: (*name).into(), dtype: Dtype::U8, shape: vec![bytes.len() as u64] })
            .collect();
        let writer = Writer::create(folder.path(), Writer::plan(&specs, 6000).unwrap()).unwrap();
        contents.iter().enumerate().for_each(|(at, (_, bytes))| writer.write(at, 0, bytes).unwrap());
        let files = writer.finish().unwrap();
        let digests = contents.each_ref().map(|(name, bytes)| (*name, blake3::hash(bytes).to_hex().to_string()));
        let check = || {
            let expected = digests.iter().map(|(name, digest)| (*name, digest.as_str()));
            verify(folder.path(), expected, 2, &Ctl::new())
        };
        check().unwrap();
        let shard = File::options()
            .write(true)
            .open(files.iter().find(|file| file.ends_with("model-00001-of-00002.safetensors")).unwrap())
            .unwrap();
        let last = shard.metadata().unwrap().len() - 1;
        shard.write_all_at(&[9], last).unwrap();
        let error = check().unwrap_err();
        let (text, code) = (error.to_string(), error.exit_code());
        assert!(text.contains("00001-of-00002.safetensors: cannot verify: tensor '"), "{text}");
        assert_eq!(code, 4);
    }
}
