//! Texts that are made to hurt: each is refused, and soon.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fmt::Write;
use std::time::{Duration, Instant};

use polmrs_io::yaml::{MAX_BYTES, MAX_COPIED_BYTES, MAX_DEPTH, MAX_NODES, Value, parse, parse_one};

/// The message, after no more than a few seconds of an unoptimised build on a busy machine.
fn refused(text: &str) -> String {
    let start = Instant::now();
    let message = parse(text, "f").unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_secs(20), "{message} took {:?}", start.elapsed());
    message
}

#[test]
fn billion_laughs_are_cut_short() {
    let mut text = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for i in 1..10 {
        let copies = vec![format!("*a{}", i - 1); 9].join(", ");
        writeln!(text, "a{i}: &a{i} [{copies}]").unwrap();
    }
    assert!(refused(&text).ends_with(&format!("more than {MAX_NODES} values, aliases written out")));
}

#[test]
fn aliases_copy_a_limited_amount_of_text() {
    let text = format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), "*a, ".repeat(100));
    assert!(refused(&text).ends_with(&format!("aliases copy more than {} MB of text", MAX_COPIED_BYTES >> 20)));
}

#[test]
fn merge_keys_count_as_copies() {
    let keys: String = (0..1000).map(|i| format!("k{i}: {i}, ")).collect();
    let text = format!("a: &a {{{keys}}}\nb: {{<<: [{}]}}", "*a, ".repeat(1000));
    assert!(refused(&text).contains("more than"));
}

#[test]
fn nesting_has_a_limit_in_every_notation() {
    let nested = format!("lists and maps are nested more than {MAX_DEPTH} deep");
    let brackets = |n: usize| "[".repeat(n) + &"]".repeat(n);
    assert!(parse_one(&brackets(MAX_DEPTH), "f").is_ok());
    assert_eq!(refused(&brackets(MAX_DEPTH + 1)), format!("f:1:{}: {nested}", MAX_DEPTH + 1));
    assert!(refused(&"- ".repeat(1_000_000)).ends_with(&nested));
    assert!(refused(&"? ".repeat(1_000_000)).ends_with(&nested));
    assert!(refused(&(0..1000).map(|i| format!("{:i$}a:\n", "")).collect::<String>()).ends_with(&nested));
    for opening in ["[", "{", "[?"] {
        assert!(refused(&opening.repeat(1_000_000)).contains("nested"), "{opening}");
    }
    let mut chain = String::from("a0: &a0 [x]\n");
    for i in 1..200 {
        writeln!(chain, "a{i}: &a{i} [*a{}]", i - 1).unwrap();
    }
    assert_eq!(refused(&chain), format!("f:100:12: {nested}"), "through aliases too");
}

#[test]
fn a_text_has_a_greatest_length() {
    assert_eq!(refused(&"#".repeat(MAX_BYTES + 1)), "f: more than 2 MB of YAML");
    assert!(parse(&"#".repeat(MAX_BYTES), "f").unwrap().is_empty());
}

#[test]
fn the_longest_list_is_read_or_refused_in_time() {
    let node = parse_one(&format!("[{}]", "1, ".repeat(600_000)), "f").unwrap();
    let Value::List(items) = &node.value else { panic!("a list") };
    assert_eq!(items.len(), 600_000);
    assert!(refused(&format!("[{}]", "a,".repeat(1_048_000))).contains("more than 1000000 values"));
}

#[test]
fn lines_at_the_margin_are_mended_by_the_thousand_and_no_further() {
    assert!(parse_one(&format!("a: [\n{}]\n", "1,\n".repeat(500)), "f").is_ok());
    assert!(
        refused(&format!("a: [\n{}]\n", "1,\n".repeat(600_000))).ends_with("indented less than what it belongs to")
    );
}

#[test]
fn anchors_by_the_hundred_thousand_take_no_more_than_their_share() {
    let anchors: String = (0..120_000).map(|i| format!("&a{i} x, ")).collect();
    assert!(parse_one(&format!("[{anchors}]"), "f").is_ok());
}

#[test]
fn an_integer_that_does_not_fit_is_refused_unless_quoted() {
    assert_eq!(
        refused("seed: 18446744073709551615"),
        "f:1:7: '18446744073709551615' does not fit in 64 bits; quote it if it is text"
    );
    assert!(parse_one("seed: '18446744073709551615'\n18446744073709551615: a key", "f").is_ok());
}

#[test]
fn long_names_make_neither_long_messages_nor_long_searches() {
    let long = "x".repeat(600_000);
    for text in [
        format!("a: &{long} 1\nb: *{long}y"),
        format!("a: &{long} 1\nb: &{long} 2"),
        format!("{long}: 1\n{long}: 2"),
        format!("a: !{long} 1"),
        format!("a: !!int {long}"),
    ] {
        assert!(refused(&text).len() < 250, "{}", &text[..20]);
    }
    let node = parse_one(&format!("? {long}\n: {{a: 1}}"), "f").unwrap();
    let root = node.root().lenient();
    root.fields().unwrap().finish().unwrap();
    assert!(root.take_notes()[0].len() < 100);
    let fields = root.each_entry(|field| field.fields()?.finish());
    assert!(fields.is_ok() && root.take_notes()[0].len() < 100);
}
