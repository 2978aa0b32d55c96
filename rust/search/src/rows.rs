//! Rows under names: which live, what is known about them, and what their file does not know yet.
//!
//! Rows are only ever appended. One that is deleted or replaced loses its bit; once half are dead, the living are moved
//! together.

pub(crate) mod record;

use crate::bitmap::{all_ones, ones};
use crate::fields::Fields;
use crate::filter::Filter;
use crate::ids::{Ids, Names};
use polmrs_core::{Error, Result};
use record::Attached;
use serde_json::{Map, Value as Json};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that no rows of this process have had.
fn next_version() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Rows under names.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) names: Names,
    fields: Fields,
    alive: Vec<u64>,
    living: usize,
    len: usize,
    /// Of these rows in these places: no other, of any index, has it.
    version: u64,
    attached: Option<Attached>,
}

impl Rows {
    /// None.
    pub(crate) fn new() -> Rows {
        Rows {
            names: Names::None,
            fields: Fields::default(),
            alive: Vec::new(),
            living: 0,
            len: 0,
            version: next_version(),
            attached: None,
        }
    }

    /// How many there are, dead ones too.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many live.
    pub(crate) fn living(&self) -> usize {
        self.living
    }

    /// Bytes of what says which live.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.alive.as_slice())
    }

    /// Refuses what cannot be added.
    pub(crate) fn check(&self, ids: &Ids, metadata: &[Map<String, Json>]) -> Result<()> {
        self.names.check_kind(ids)?;
        if self.len + ids.len() > u32::MAX as usize {
            return Err(Error::Usage("ids: an index holds at most 2^32 - 1 rows".into()));
        }
        if !metadata.is_empty() && metadata.len() != ids.len() {
            return Err(Error::Usage(format!("metadata: {} for {} ids", metadata.len(), ids.len())));
        }
        Fields::check(metadata)
    }

    /// Another number once rows were added or moved.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Refuses what was made ready for rows of another version.
    pub(crate) fn check_version(&self, version: u64) -> Result<()> {
        if version == self.version {
            return Ok(());
        }
        Err(Error::Usage("addition: the index has got or moved rows since it was made ready".into()))
    }

    /// Refuses rows of which some are dead: a file has only living ones.
    pub(crate) fn check_tidy(&self) -> Result<()> {
        if self.living() == self.len() {
            return Ok(());
        }
        Err(Error::Usage("write: some rows are dead; tidy first".into()))
    }

    /// Appends what passed [`check`](Rows::check); the rows that are dead now because another has their id.
    pub(crate) fn push(&mut self, ids: &Ids, metadata: &[Map<String, Json>]) -> Vec<u32> {
        let first = self.len;
        self.version = next_version();
        self.fields.push(metadata, first);
        self.len += ids.len();
        self.living += ids.len();
        self.alive.resize(self.len.div_ceil(64), 0);
        for row in first..self.len {
            self.alive[row / 64] |= 1 << (row % 64);
        }
        let replaced = self.names.push(ids, first);
        for row in &replaced {
            self.kill(*row);
        }
        replaced
    }

    /// Appends rows that are dead and have no name.
    pub(crate) fn push_dead(&mut self, more: usize) {
        self.version = next_version();
        self.len += more;
        self.alive.resize(self.len.div_ceil(64), 0);
        self.names.push_none(more);
    }

    fn kill(&mut self, row: u32) {
        self.alive[row as usize / 64] &= !(1 << (row % 64));
        self.living -= 1;
    }

    /// The living row of each id; `None` where it is not there.
    pub(crate) fn find(&self, ids: &Ids) -> Result<Vec<Option<u32>>> {
        self.names.check_kind(ids)?;
        Ok(self.names.find(ids))
    }

    /// What is known about each id that is there.
    pub(crate) fn metadata(&self, ids: &Ids) -> Result<Vec<Option<Map<String, Json>>>> {
        let row = |row: Option<u32>| row.map(|row| self.fields.row(row as usize));
        Ok(self.find(ids)?.into_iter().map(row).collect())
    }

    /// The living rows of these ids, in order, each once.
    pub(crate) fn of(&self, ids: &Ids) -> Result<Vec<u32>> {
        let mut rows: Vec<u32> = self.find(ids)?.into_iter().flatten().collect();
        rows.sort_unstable();
        rows.dedup();
        Ok(rows)
    }

    /// The living rows that pass, in order.
    pub(crate) fn passing(&self, filter: &Filter) -> Vec<u32> {
        ones(&self.eligible(Some(filter))).map(|row| row as u32).collect()
    }

    /// A bit for each row that lives and passes.
    pub(crate) fn eligible(&self, filter: Option<&Filter>) -> Cow<'_, [u64]> {
        let Some(filter) = filter else { return Cow::Borrowed(&self.alive) };
        let mut bits = filter.matches(&self.fields, self.len);
        for (bits, alive) in bits.iter_mut().zip(&self.alive) {
            *bits &= alive;
        }
        Cow::Owned(bits)
    }

    /// Deletes living rows.
    pub(crate) fn delete(&mut self, rows: &[u32]) {
        let ids = self.names.select(rows.iter().map(|row| *row as usize));
        if let Some(attached) = self.attached.as_mut().filter(|_| !rows.is_empty()) {
            match &mut attached.deleted {
                Some(deleted) => deleted.extend(ids),
                None => attached.deleted = Some(ids),
            }
        }
        for row in rows {
            self.names.forget(*row);
            self.kill(*row);
        }
    }

    /// Whether it is time to [`compact`](Rows::compact).
    pub(crate) fn is_sparse(&self) -> bool {
        self.len >= 1024 && 2 * self.living <= self.len
    }

    /// Moves the living together; where they were.
    pub(crate) fn compact(&mut self) -> Vec<usize> {
        self.version = next_version();
        let keep: Vec<usize> = ones(&self.alive).collect();
        let ids = self.names.select(keep.iter().copied());
        self.fields = self.fields.select(&keep);
        self.names.clear();
        self.names.push(&ids, 0);
        self.alive = all_ones(keep.len());
        self.len = keep.len();
        if let Some(attached) = &mut self.attached {
            attached.rows = keep.partition_point(|row| *row < attached.rows);
        }
        keep
    }
}
