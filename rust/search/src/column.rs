//! Numbers that are in memory, or in a file that is mapped.

use bytemuck::Pod;
use memmap2::Mmap;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A list of numbers. It is copied out of its file when it is first changed.
#[derive(Clone, Debug)]
pub enum Column<T> {
    /// In memory.
    Owned(Vec<T>),
    /// These bytes of a file, which hold whole numbers at an address that suits them.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl<T> Default for Column<T> {
    fn default() -> Column<T> {
        Column::Owned(Vec::new())
    }
}

impl<T: Pod> Column<T> {
    /// The bytes of a mapped file; nothing if they are no whole numbers.
    pub fn map(file: &Arc<Mmap>, range: Range<usize>) -> Option<Column<T>> {
        bytemuck::try_cast_slice::<u8, T>(file.get(range.clone())?).ok()?;
        Some(Column::Mapped(file.clone(), range))
    }

    /// The next numbers of a part of a mapped file, which is shorter then; nothing if there are not so many.
    pub(crate) fn take(file: &Arc<Mmap>, part: &mut Range<usize>, len: usize) -> Option<Column<T>> {
        let end = part.start.checked_add(len.checked_mul(size_of::<T>())?).filter(|end| *end <= part.end)?;
        let column = Column::map(file, part.start..end)?;
        part.start = end;
        Some(column)
    }

    /// For changing.
    pub fn to_mut(&mut self) -> &mut Vec<T> {
        if let Column::Mapped(..) = self {
            *self = Column::Owned(self.to_vec());
        }
        match self {
            Column::Owned(all) => all,
            Column::Mapped(..) => unreachable!("made owned above"),
        }
    }

    /// Adds numbers at the end.
    pub(crate) fn append(&mut self, more: Column<T>) {
        if self.is_empty() { *self = more } else { self.to_mut().extend_from_slice(&more) }
    }

    /// Keeps the rows of this list, each of `size` numbers, in its order, which is increasing.
    pub(crate) fn keep(&mut self, size: usize, rows: &[usize]) {
        let all = self.to_mut();
        for (to, from) in rows.iter().enumerate() {
            all.copy_within(from * size..(from + 1) * size, to * size);
        }
        all.truncate(rows.len() * size);
        all.shrink_to_fit();
    }

    /// Bytes that it takes in memory; what is mapped belongs to the file.
    pub fn bytes(&self) -> usize {
        match self {
            Column::Owned(all) => size_of_val(all.as_slice()),
            Column::Mapped(..) => 0,
        }
    }
}

impl<T: Pod> Deref for Column<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            Column::Owned(all) => all,
            Column::Mapped(file, range) => bytemuck::cast_slice(&file[range.clone()]), // `map` tried it
        }
    }
}
