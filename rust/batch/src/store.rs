//! A file of token rows: flat ids, offsets and an optional mask, memory-mapped to read, written whole or not at all.
//!
//! ```text
//! 0    "polmrsTK"            magic
//! 8    version u32 = 1       12  flags u32: 1 = has a mask
//! 16   rows u64              24  tokens u64
//! 32   SHA-256 of the body   64  SHA-256 of the 64 bytes before
//! 128  ids i32[tokens], zeros up to a multiple of 8, offsets i64[rows + 1], mask u8[tokens]
//! ```
//!
//! All little-endian. Opening checks the header, the size of the file and every offset; [`Store::verify`] reads the
//! whole body and compares its hash.

use memmap2::Mmap;
use polmrs_core::ragged::Ragged;
use polmrs_core::{Ctl, Error, Result};
use polmrs_io::whole::{beside, exists, folder_of, settle};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

#[cfg(target_endian = "big")]
compile_error!("a token store is mapped as it lies on disk, which is little-endian");

const MAGIC: &[u8; 8] = b"polmrsTK";
const VERSION: u32 = 1;
const HAS_MASK: u32 = 1;
const HEADER: usize = 128;
const CHUNK: usize = 1 << 20;

/// Where the columns of a file lie, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Rows.
    pub rows: usize,
    /// Tokens of all rows.
    pub tokens: usize,
    /// The first byte of the ids, `i32`.
    pub ids: usize,
    /// The first byte of the offsets, `i64`, one more than rows.
    pub offsets: usize,
    /// The first byte of the mask, one byte a token, if there is one.
    pub mask: Option<usize>,
    /// The size of the file.
    pub size: usize,
}

impl Layout {
    /// The layout for these counts; nothing if they cannot be those of a file.
    fn new(rows: u64, tokens: u64, has_mask: bool) -> Option<Layout> {
        let (rows, tokens) = (usize::try_from(rows).ok()?, usize::try_from(tokens).ok()?);
        let offsets = tokens.checked_mul(4)?.checked_next_multiple_of(8)?.checked_add(HEADER)?;
        let end = rows.checked_add(1)?.checked_mul(8)?.checked_add(offsets)?;
        let size = if has_mask { end.checked_add(tokens)? } else { end };
        Some(Layout { rows, tokens, ids: HEADER, offsets, mask: has_mask.then_some(end), size })
    }
}

/// An open token store. Another program that shortens the file while it is mapped ends this process.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    map: Mmap,
    layout: Layout,
    body_hash: [u8; 32],
}

impl Store {
    /// Maps a file and checks its header, its size and its offsets.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], or [`Error::Array`] that says what is wrong with the file.
    pub fn open(path: &Path) -> Result<Store> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        // SAFETY: the map is read-only and private to this struct; files of ours are replaced by renaming, never changed.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
        let wrong = |what: String| Error::Array(format!("{}: {what}", path.display()));
        let (layout, body_hash) = read_header(&map).map_err(wrong)?;
        if map.len() != layout.size {
            let (have, want) = (map.len(), layout.size);
            return Err(wrong(format!("{have} bytes, but its header asks for {want}; the file is cut or damaged")));
        }
        let store = Store { path: path.to_path_buf(), map, layout, body_hash };
        Ragged::new(store.offsets(), layout.tokens, "the ids")
            .map_err(|error| wrong(format!("damaged offsets: {error}")))?;
        Ok(store)
    }

    /// Where the columns lie in the file.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The token ids of all rows.
    pub fn ids(&self) -> &[i32] {
        bytemuck::cast_slice(&self.map[self.layout.ids..self.layout.ids + 4 * self.layout.tokens])
    }

    /// Row `i` is `ids[offsets[i] .. offsets[i + 1]]`.
    pub fn offsets(&self) -> &[i64] {
        bytemuck::cast_slice(&self.map[self.layout.offsets..self.layout.offsets + 8 * (self.layout.rows + 1)])
    }

    /// One byte for each token, 0 or 1.
    pub fn mask(&self) -> Option<&[u8]> {
        self.layout.mask.map(|start| &self.map[start..start + self.layout.tokens])
    }

    /// The ids of a row.
    pub fn row(&self, row: usize) -> &[i32] {
        let offsets = self.offsets();
        &self.ids()[offsets[row] as usize..offsets[row + 1] as usize]
    }

    /// Reads the whole file and compares its hash with the one that was written.
    pub fn verify(&self, ctl: &Ctl) -> Result<()> {
        let mut hash = Sha256::new();
        ctl.expect((self.map.len() - HEADER) as u64);
        for chunk in self.map[HEADER..].chunks(CHUNK) {
            ctl.check()?;
            hash.update(chunk);
            ctl.advance(chunk.len() as u64);
        }
        if hash.finalize().as_slice() == self.body_hash {
            return Ok(());
        }
        Err(Error::Array(format!("{}: its bytes are not those that were written; restore it", self.path.display())))
    }
}

fn read_header(bytes: &[u8]) -> Result<(Layout, [u8; 32]), String> {
    if bytes.len() < HEADER || bytes[..8] != *MAGIC {
        return Err("not a token store: it does not begin with 'polmrsTK'".into());
    }
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let version = u32_at(8);
    if version != VERSION {
        return Err(format!("a token store of version {version}; this build reads version {VERSION}"));
    }
    if Sha256::digest(&bytes[..64]).as_slice() != &bytes[64..96] {
        return Err("its header is damaged".into());
    }
    let mut body = [0; 32];
    body.copy_from_slice(&bytes[32..64]);
    let layout = Layout::new(u64_at(16), u64_at(24), u32_at(12) & HAS_MASK != 0);
    Ok((layout.ok_or("its header asks for more than can be addressed")?, body))
}

/// A token store in the making; rows go straight to a file beside the output, which takes its name at the end.
#[derive(Debug)]
pub struct Writer {
    out: PathBuf,
    overwrite: bool,
    file: BufWriter<NamedTempFile>,
    hash: Sha256,
    offsets: Vec<i64>,
    masks: Option<BufWriter<File>>,
}

impl Writer {
    /// Begins a store at `out`; `with_mask` if every row comes with a mask.
    ///
    /// # Errors
    /// [`Error::Exists`] if `out` is there and is not to be overwritten; [`Error::Io`].
    pub fn create(out: &Path, with_mask: bool, overwrite: bool) -> Result<Writer> {
        if !overwrite && out.symlink_metadata().is_ok() {
            return Err(exists(out));
        }
        let folder = folder_of(out);
        let mut file = BufWriter::with_capacity(CHUNK, beside(out)?);
        file.write_all(&[0; HEADER]).map_err(Error::io(out, "write"))?;
        let masks = match with_mask {
            true => Some(BufWriter::new(tempfile::tempfile_in(folder).map_err(Error::io(folder, "create a file in"))?)),
            false => None,
        };
        Ok(Writer { out: out.to_path_buf(), overwrite, file, hash: Sha256::new(), offsets: vec![0], masks })
    }

    /// Begins with the rows of a store that is there already, which the output replaces.
    pub fn append(out: &Path) -> Result<Writer> {
        let old = Store::open(out)?;
        let mut writer = Writer::create(out, old.mask().is_some(), true)?;
        writer.push_rows(old.ids(), old.offsets(), old.mask())?;
        Ok(writer)
    }

    /// Adds the rows of a ragged array; `offsets` starts with 0 and ends with the number of ids.
    ///
    /// # Errors
    /// [`Error::Array`] for a negative id, offsets that break their rule, or a mask too many or too few;
    /// [`Error::Io`]. Nothing is added in the first case.
    pub fn push_rows(&mut self, ids: &[i32], offsets: &[i64], mask: Option<&[u8]>) -> Result<()> {
        Ragged::new(offsets, ids.len(), "ids")?;
        if let Some(at) = ids.iter().position(|id| *id < 0) {
            return Err(Error::Array(format!("ids[{at}]: {} is negative", ids[at])));
        }
        match (&mut self.masks, mask) {
            (None, None) => {}
            (Some(masks), Some(mask)) if mask.len() == ids.len() => {
                masks.write_all(mask).map_err(Error::io(&self.out, "write"))?;
            }
            (Some(_), Some(mask)) => {
                return Err(Error::Array(format!("mask: {} elements, but ids has {}", mask.len(), ids.len())));
            }
            (Some(_), None) => return Err(Error::Array("mask: missing; this store has one for every row".into())),
            (None, Some(_)) => return Err(Error::Array("mask: this store has none; create it with a mask".into())),
        }
        for chunk in bytemuck::cast_slice::<i32, u8>(ids).chunks(CHUNK) {
            self.hash.update(chunk);
            self.file.write_all(chunk).map_err(Error::io(&self.out, "write"))?;
        }
        let base = self.tokens();
        self.offsets.extend(offsets[1..].iter().map(|offset| base + offset));
        Ok(())
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    fn tokens(&self) -> i64 {
        self.offsets[self.rows()]
    }

    /// Writes what is left and gives the file its name; it is on the disk then.
    pub fn finish(mut self) -> Result<Layout> {
        let out = self.out.clone();
        let layout = Layout::new(self.rows() as u64, self.tokens() as u64, self.masks.is_some())
            .ok_or_else(|| Error::Internal("a store larger than the address space".into()))?;
        let padding = vec![0; layout.offsets - HEADER - 4 * layout.tokens];
        for part in [padding.as_slice(), bytemuck::cast_slice(&self.offsets)] {
            self.hash.update(part);
            self.file.write_all(part).map_err(Error::io(&out, "write"))?;
        }
        if let Some(masks) = self.masks.take() {
            let mut masks = masks.into_inner().map_err(|error| Error::io(&out, "write")(error.into_error()))?;
            masks.seek(SeekFrom::Start(0)).map_err(Error::io(&out, "read back the mask of"))?;
            let mut buffer = vec![0; CHUNK];
            loop {
                let read = masks.read(&mut buffer).map_err(Error::io(&out, "read back the mask of"))?;
                if read == 0 {
                    break;
                }
                self.hash.update(&buffer[..read]);
                self.file.write_all(&buffer[..read]).map_err(Error::io(&out, "write"))?;
            }
        }
        let mut file = self.file.into_inner().map_err(|error| Error::io(&out, "write")(error.into_error()))?;
        let header = header(&layout, &self.hash.finalize());
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(&header))
            .and_then(|()| file.as_file().sync_all())
            .map_err(Error::io(&out, "write"))?;
        settle(file, &out, self.overwrite)?;
        Ok(layout)
    }
}

fn header(layout: &Layout, body_hash: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(if layout.mask.is_some() { HAS_MASK } else { 0 }).to_le_bytes());
    header[16..24].copy_from_slice(&(layout.rows as u64).to_le_bytes());
    header[24..32].copy_from_slice(&(layout.tokens as u64).to_le_bytes());
    header[32..64].copy_from_slice(body_hash);
    let own = Sha256::digest(&header[..64]);
    header[64..96].copy_from_slice(&own);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(folder: &Path, mask: bool) -> PathBuf {
        let path = folder.join("a.tokens");
        let mut writer = Writer::create(&path, mask, false).unwrap();
        writer.push_rows(&[1, 2, 3], &[0, 2, 2, 3], mask.then_some(&[0, 1, 1])).unwrap();
        writer.push_rows(&[9], &[0, 1], mask.then_some(&[1])).unwrap();
        writer.finish().unwrap();
        path
    }

    #[test]
    fn rows_come_back_and_appending_keeps_them() {
        for mask in [false, true] {
            let home = tempfile::tempdir().unwrap();
            let path = made(home.path(), mask);
            let mut more = Writer::append(&path).unwrap();
            more.push_rows(&[7, 7], &[0, 2], mask.then_some(&[0, 0])).unwrap();
            more.finish().unwrap();
            let store = Store::open(&path).unwrap();
            let rows: Vec<&[i32]> = (0..store.layout().rows).map(|row| store.row(row)).collect();
            assert_eq!(rows, [&[1, 2][..], &[], &[3], &[9], &[7, 7]]);
            assert_eq!(store.mask(), mask.then_some(&[0, 1, 1, 1, 0, 0][..]));
            store.verify(&Ctl::new()).unwrap();
            assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn every_changed_byte_is_found() {
        let home = tempfile::tempdir().unwrap();
        let path = made(home.path(), true);
        let whole = std::fs::read(&path).unwrap();
        for at in (0..96).chain(HEADER..whole.len()) {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&path, bytes).unwrap();
            let found = Store::open(&path).and_then(|store| store.verify(&Ctl::new()));
            assert!(matches!(found, Err(Error::Array(_))), "byte {at}");
        }
        for keep in [0, 7, 127, whole.len() - 1] {
            std::fs::write(&path, &whole[..keep]).unwrap();
            assert!(Store::open(&path).is_err(), "{keep} bytes");
        }
    }

    #[test]
    fn a_store_has_the_rights_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let other = File::create(home.path().join("other")).unwrap();
        let mode = |metadata: std::fs::Metadata| metadata.permissions().mode();
        assert_eq!(mode(made(home.path(), false).metadata().unwrap()), mode(other.metadata().unwrap()));
    }

    #[test]
    fn a_store_that_is_not_finished_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.tokens");
        let mut writer = Writer::create(&path, false, false).unwrap();
        writer.push_rows(&[1], &[0, 1], None).unwrap();
        assert!(writer.push_rows(&[-1], &[0, 1], None).is_err());
        drop(writer);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
        made(home.path(), false);
        assert!(matches!(Writer::create(&path, false, false), Err(Error::Exists(_))));
    }
}
