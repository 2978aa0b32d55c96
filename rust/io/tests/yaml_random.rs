//! Broken and random text: an answer with a place, never a panic, and what is read can be written.

mod yaml_strange;

use yaml_strange::{Random, check, text};

#[test]
fn nearly_yaml_is_read_or_refused_with_its_place() {
    let mut random = Random(1);
    let read = (0..20_000).filter(|_| check(&text(&mut random))).count();
    assert!((2_000..18_000).contains(&read), "{read} of 20,000 were read, so one side is hardly tested");
}
