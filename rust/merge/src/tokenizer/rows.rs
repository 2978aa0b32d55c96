//! Where every row of a vocabulary matrix comes from, in runs: most vocabularies share long stretches.

/// The origin of one row, or of a run of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// A row of a model; in a run, the following rows follow.
    Copy { model: usize, row: u64 },
    /// The mean of rows, given as (model, row).
    Mean(Box<[(usize, u64)]>),
    /// Zeros.
    Zero,
    /// No token has it: the mean of all rows that tokens have.
    Blank,
}

/// The origins of all rows of a matrix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    runs: Vec<(u64, Row)>,
    count: u64,
}

/// Rows `first .. end` of a matrix with one origin.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) row: &'a Row,
}

impl Rows {
    /// Adds the next row.
    pub(crate) fn push(&mut self, row: Row) {
        let joins = self.runs.last().is_some_and(|(first, last)| match (last, &row) {
            (Row::Copy { model: a, row: start }, Row::Copy { model: b, row: next }) => {
                a == b && start + (self.count - first) == *next
            }
            (Row::Zero, Row::Zero) | (Row::Blank, Row::Blank) => true,
            _ => false,
        });
        if !joins {
            self.runs.push((self.count, row));
        }
        self.count += 1;
    }

    /// The number of rows.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The run that holds a row.
    pub(crate) fn at(&self, row: u64) -> Run<'_> {
        let next = self.runs.partition_point(|(first, _)| *first <= row);
        let (first, origin) = &self.runs[next - 1];
        Run { first: *first, end: self.runs.get(next).map_or(self.count, |(first, _)| *first), row: origin }
    }

    /// Whether these are the rows of `model`, all `count` of them as they are.
    pub(crate) fn are_all_of(&self, model: usize, count: u64) -> bool {
        let whole = Row::Copy { model, row: 0 };
        self.count == count && matches!(self.runs.as_slice(), [(0, row)] if *row == whole)
    }

    /// Whether any row is computed, not copied.
    pub(crate) fn computes(&self) -> bool {
        self.runs.iter().any(|(_, row)| matches!(row, Row::Mean(_) | Row::Blank))
    }

    /// Every model that gives rows, some of them often.
    pub(crate) fn donors(&self) -> impl Iterator<Item = usize> + '_ {
        self.runs.iter().flat_map(|(_, row)| {
            let (one, many) = match row {
                Row::Copy { model, .. } => (Some(*model), [].as_slice()),
                Row::Mean(rows) => (None, &rows[..]),
                Row::Zero | Row::Blank => (None, [].as_slice()),
            };
            one.into_iter().chain(many.iter().map(|(model, _)| *model))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_follow_each_other_are_one_run() {
        let mut rows = Rows::default();
        for row in [5, 6, 7, 9, 10] {
            rows.push(Row::Copy { model: 1, row });
        }
        rows.push(Row::Copy { model: 0, row: 11 });
        rows.push(Row::Zero);
        rows.push(Row::Zero);
        rows.push(Row::Mean(Box::new([(0, 1), (1, 2)])));
        let bounds: Vec<(u64, u64)> = [0, 2, 3, 5, 7, 8].map(|row| (rows.at(row).first, rows.at(row).end)).into();
        assert_eq!(bounds, [(0, 3), (0, 3), (3, 5), (5, 6), (6, 8), (8, 9)]);
        assert!(rows.computes() && rows.count() == 9);
    }

    #[test]
    fn only_the_same_rows_are_all_rows() {
        let mut rows = Rows::default();
        rows.push(Row::Copy { model: 0, row: 0 });
        rows.push(Row::Copy { model: 0, row: 1 });
        assert!(rows.are_all_of(0, 2) && !rows.are_all_of(1, 2) && !rows.are_all_of(0, 3));
    }
}
