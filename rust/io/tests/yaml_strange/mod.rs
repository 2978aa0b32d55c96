//! Texts that are nearly YAML: merges with mistakes, and noise. Shared with `examples/fuzz_yaml.rs`.

use polmrs_io::yaml::{Node, emit, parse};

/// What mistakes are made in.
const SEEDS: [&str; 12] = [
    "merge_method: ties\nbase_model: org/base\nmodels:\n  - model: org/a\n    parameters:\n      density: 0.5\n      weight: [0, 0.3, 1e-1]\n  - model: ./b@main+lora\ndtype: bfloat16\n",
    "slices:\n- sources:\n  - model: a\n    layer_range: [0, 16]\n  - model: b\n    layer_range: [0, 16]\nparameters:\n  t:\n  - filter: self_attn\n    value: [0, .5, 1.]\n  - value: 0.5\nmerge_method: slerp\n",
    "x: &x\n  weight: 0.5\n  density: &d 1e-5\nmodels:\n  - model: a\n    parameters:\n      <<: *x\n      density: *d\n  - <<: [*x, {model: b}]\n",
    "chat_template: |\n  {% for m in messages %}\n    {{ m }}\n  {% endfor %}\nother: >-\n  folded\n  text\n\n  more\nlast: |+\n  kept\n\n",
    "tokenizer:\n  source: union\n  tokens:\n    '<|im_end|>': {source: {kind: zero}, force: yes}\n    \"a\\tb\": null\n",
    "a: [\n1,\n {b: 'x\ny', c: \"z\\\nw\"}\n]\nd: 2\n",
    "name: first\n---\nname: second\n...\n# end\n---\n- - - x\n  - y\n- ? k\n  : v\n",
    "a: !!str 1\nb: !!int '017'\nc: !!float 1\nd: !!bool 'on'\ne: !!null ''\nf: !!map {g: !!seq [1]}\n",
    "%YAML 1.1\n%TAG !e! tag:yaml.org,2002:\n---\na: !e!int '3'\n",
    "\u{feff}\u{e9}: \u{1f600} # \u{fc}\r\nb: 1\r\nc:\r\n  - 2\r\n",
    "v: [yes, No, ~, 017, 08, 0x1F, 1_000, 1:30, 1e5, -.5, .inf, .nan, 2001-01-01, =, <<]\n",
    "- 'it''s'\n- \"\\x41\\u00e9\\U0001F600\\e\\0\"\n- plain text: with colon\n- {a: 1, b: [2, {c: 3}], ? d : e}\n",
];

/// What mistakes are made with.
const BITS: [&str; 56] = [
    "\n", "\n  ", "\n- ", "\n\n", "  ", "\t", "\r\n", "\r", ": ", ":", ", ", ",", "[", "]", "{", "}", "&x ", "*x", "&",
    "*", "<<: *x", "<<: ", "'", "\"", "|\n", "|-\n  ", "|+", ">\n", "|2", "#", " #", "!!str ", "!!int ", "!x ", "!",
    "? ", "?", "- ", "-", "~", "yes", "1e5", "017", "1:30", ".", "---\n", "...\n", "%", "@", "\\", "\\n", "\\x4",
    "\u{e9}", "\u{2028}", "\u{feff}", "\0",
];

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// A text: a merge with mistakes, bits of syntax, or bytes.
pub(crate) fn text(random: &mut Random) -> String {
    match random.below(8) {
        0 => (0..random.below(40)).map(|_| random.pick(&BITS)).collect(),
        1 => {
            let bytes: Vec<u8> = (0..random.below(60)).map(|_| random.below(256) as u8).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => {
            let mut text: Vec<char> = random.pick(&SEEDS).chars().collect();
            for _ in 0..=random.below(4) {
                mistake(&mut text, random);
            }
            text.into_iter().collect()
        }
    }
}

/// Inserts, deletes, copies or replaces.
fn mistake(text: &mut Vec<char>, random: &mut Random) {
    let at = random.below(text.len() + 1);
    let end = (at + 1 + random.below(12)).min(text.len());
    match random.below(5) {
        0 | 1 => drop(text.splice(at..at, random.pick(&BITS).chars())),
        2 => drop(text.drain(at..end)),
        3 => {
            let copy = text[at..end].to_vec();
            let to = random.below(text.len() + 1);
            text.splice(to..to, copy);
        }
        _ => {
            let from: Vec<char> = random.pick(&SEEDS).chars().collect();
            let start = random.below(from.len());
            text.splice(at..at, from[start..].iter().copied().take(30));
        }
    }
}

/// Reads `text` and holds the answer to its promises; whether there was a document in it.
///
/// # Panics
/// If a promise is broken.
pub(crate) fn check(text: &str) -> bool {
    match parse(text, "f") {
        Ok(documents) => {
            let lines = 2 + text.matches(['\n', '\r']).count() as u32;
            for document in &documents {
                assert!((1..=lines).contains(&document.at.line), "{} of {text:?}", document.at);
                let emitted = emit(document);
                match parse(&emitted, "emitted") {
                    Ok(again) => {
                        let again: Vec<_> = again.iter().map(Node::to_json).collect();
                        assert_eq!(again, [document.to_json()], "{text:?}\n{emitted}");
                    }
                    Err(error) => assert_eq!(error.to_string(), "", "{text:?}\n{emitted}"),
                }
            }
            !documents.is_empty()
        }
        Err(error) => {
            let message = error.to_string();
            let mut parts = message.splitn(4, ':');
            assert_eq!((parts.next(), error.exit_code()), (Some("f"), 3), "{message}");
            assert!(parts.next().is_some_and(|line| line.parse::<u32>().is_ok()), "{message} of {text:?}");
            assert!(parts.next().is_some_and(|column| column.parse::<u32>().is_ok()), "{message} of {text:?}");
            false
        }
    }
}
