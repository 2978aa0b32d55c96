//! Lists in a file: the parts of all lists one after another.

use super::kmeans::Centres;
use super::{List, Lists};
use crate::column::Column;
use crate::factors::Factors;
use crate::staged::Staged;
use memmap2::Mmap;
use serde_json::{Value as Json, json};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

impl Lists {
    /// What a file keeps besides [`sections`](Lists::sections).
    pub(crate) fn facts(&self) -> Json {
        json!({"fitted": self.fitted})
    }

    /// The parts that a file keeps.
    pub(crate) fn sections(&self) -> Vec<(&'static str, Cow<'_, [u8]>)> {
        let sizes: Vec<u64> = self.lists.iter().map(|list| list.rows.len() as u64).collect();
        let sums = |list: &List| [list.codes.coarse.sums(), list.codes.refined.sums()];
        let sums: Vec<[[f64; 3]; 2]> = self.lists.iter().map(sums).collect();
        let joined = |part: fn(&List) -> &[u8]| Cow::Owned(self.lists.iter().flat_map(part).copied().collect());
        vec![
            ("centres", Cow::Borrowed(bytemuck::cast_slice(self.centres.rows()))),
            ("sizes", Cow::Owned(bytemuck::cast_slice(&sizes).to_vec())),
            ("sums", Cow::Owned(bytemuck::cast_slice(&sums).to_vec())),
            ("rows", joined(|list| bytemuck::cast_slice(&list.rows))),
            ("signs", joined(|list| list.codes.signs.codes())),
            ("scales", joined(|list| bytemuck::cast_slice(&list.codes.coarse.scales))),
            ("offsets", joined(|list| bytemuck::cast_slice(&list.codes.coarse.offsets))),
            ("levels", joined(|list| list.codes.rows.codes())),
            ("fine_scales", joined(|list| bytemuck::cast_slice(&list.codes.refined.scales))),
            ("fine_offsets", joined(|list| bytemuck::cast_slice(&list.codes.refined.offsets))),
        ]
    }

    /// These lists with what a file keeps of `rows` rows; nothing if it does not fit together.
    pub(crate) fn mapped(
        mut self,
        rows: usize,
        facts: &Json,
        map: &Arc<Mmap>,
        section: &dyn Fn(&str) -> Option<Range<usize>>,
    ) -> Option<Lists> {
        let dim = self.rotation.dim();
        let centres = Column::<f32>::map(map, section("centres")?)?;
        let sizes = Column::<u64>::map(map, section("sizes")?)?;
        let sums = Column::<[[f64; 3]; 2]>::map(map, section("sums")?)?;
        let fits = centres.len() == sizes.len().checked_mul(dim)? && sums.len() == sizes.len();
        fits.then_some(())?;
        let mut parts = [
            section("rows")?,
            section("signs")?,
            section("scales")?,
            section("offsets")?,
            section("levels")?,
            section("fine_scales")?,
            section("fine_offsets")?,
        ];
        for (size, [coarse, refined]) in sizes.iter().zip(sums.iter()) {
            let size = usize::try_from(*size).ok().filter(|size| *size <= rows)?;
            let empty = Staged::new(dim);
            let numbers = Column::<u32>::take(map, &mut parts[0], size)?;
            numbers.iter().all(|row| (*row as usize) < rows).then_some(())?;
            let signs = Column::take(map, &mut parts[1], empty.signs.bytes_of(size))?;
            let [scales, offsets] = [Column::take(map, &mut parts[2], size)?, Column::take(map, &mut parts[3], size)?];
            let levels = Column::take(map, &mut parts[4], empty.rows.bytes_of(size))?;
            let [fine_scales, fine_offsets] =
                [Column::take(map, &mut parts[5], size)?, Column::take(map, &mut parts[6], size)?];
            let codes = Staged {
                signs: empty.signs.with(size, signs)?,
                rows: empty.rows.with(size, levels)?,
                coarse: Factors::with(size, scales, offsets, *coarse)?,
                refined: Factors::with(size, fine_scales, fine_offsets, *refined)?,
            };
            self.lists.push(List { rows: numbers, codes });
        }
        parts.iter().all(Range::is_empty).then_some(())?;
        (self.lists.iter().map(|list| list.rows.len()).sum::<usize>() == rows).then_some(())?;
        self.centres = Centres::new(centres.to_vec(), dim);
        self.fitted = usize::try_from(facts.get("fitted")?.as_u64()?).ok()?;
        self.len = rows;
        Some(self)
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        for list in &mut self.lists {
            list.rows.to_mut();
            list.codes.to_mut();
        }
    }
}
