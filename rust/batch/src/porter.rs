//! The Porter stemmer (Porter, 1980) with the extensions of NLTK, which is what `rouge-score` uses.
//!
//! A word is `[C](VC)^m[V]`: `m`, its measure, counts the vowel runs that a consonant run follows. Each step replaces the
//! longest suffix of its list if what stands before meets a condition, and is done either way. NLTK departs from the
//! paper: a table of irregular words; words of one or two letters stay; `ies` and `ied` of four letters become `ie`; `y`
//! becomes `i` after a consonant that is not the first letter; `alli` is tried again as `al`; `bli`, `fulli` and `logi`
//! are suffixes; a vowel and a consonant alone count as a short syllable.

/// Words whose stem stands in a table.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

const STEP_2: [(&str, &str); 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

const STEP_3: [(&str, &str); 7] =
    [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

const STEP_4: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
];

/// The stem of a lower-case word of ASCII letters and digits.
///
/// ```
/// use polmrs_batch::porter::stem;
/// assert_eq!(["relational", "hopping", "flies", "dies"].map(stem), ["relat", "hop", "fli", "die"]);
/// ```
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let mut word = word.to_owned();
    plural(&mut word);
    past(&mut word);
    if let Some(before) = word.strip_suffix('y')
        && before.len() > 1
        && is_consonant(before.as_bytes(), before.len() - 1)
    {
        replace(&mut word, 1, "i");
    }
    step_2(&mut word);
    longest(&mut word, &STEP_3);
    step_4(&mut word);
    final_e(&mut word);
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        word.pop();
    }
    word
}

/// Cuts `n` letters and adds others.
fn replace(word: &mut String, n: usize, by: &str) {
    word.truncate(word.len() - n);
    word.push_str(by);
}

fn is_consonant(word: &[u8], at: usize) -> bool {
    match word[at] {
        b'a' | b'e' | b'i' | b'o' | b'u' => false,
        b'y' => at == 0 || !is_consonant(word, at - 1),
        _ => true,
    }
}

fn measure(stem: &str) -> usize {
    let stem = stem.as_bytes();
    (1..stem.len()).filter(|at| is_consonant(stem, *at) && !is_consonant(stem, at - 1)).count()
}

fn has_vowel(stem: &str) -> bool {
    (0..stem.len()).any(|at| !is_consonant(stem.as_bytes(), at))
}

/// Consonant, vowel, consonant other than w, x, y at the end; or a word of a vowel and a consonant.
fn ends_short(word: &str) -> bool {
    let (word, n) = (word.as_bytes(), word.len());
    let consonant = |back: usize| is_consonant(word, n - back);
    n == 2 && !consonant(2) && consonant(1)
        || n >= 3 && consonant(3) && !consonant(2) && consonant(1) && !matches!(word[n - 1], b'w' | b'x' | b'y')
}

/// Step 1a.
fn plural(word: &mut String) {
    if word.ends_with("ies") {
        let by = if word.len() == 4 { "ie" } else { "i" };
        replace(word, 3, by);
    } else if word.ends_with("sses") {
        replace(word, 2, "");
    } else if word.ends_with('s') && !word.ends_with("ss") {
        replace(word, 1, "");
    }
}

/// Step 1b.
fn past(word: &mut String) {
    if word.ends_with("ied") {
        let by = if word.len() == 4 { "ie" } else { "i" };
        return replace(word, 3, by);
    }
    if let Some(before) = word.strip_suffix("eed") {
        if measure(before) > 0 {
            replace(word, 1, "");
        }
        return;
    }
    let Some(before) = ["ed", "ing"].iter().find_map(|end| word.strip_suffix(end).filter(|before| has_vowel(before)))
    else {
        return;
    };
    word.truncate(before.len());
    let n = word.len();
    let bytes = word.as_bytes();
    if ["at", "bl", "iz"].iter().any(|end| word.ends_with(end)) {
        word.push('e');
    } else if n >= 2 && bytes[n - 1] == bytes[n - 2] && is_consonant(bytes, n - 1) {
        if !matches!(bytes[n - 1], b'l' | b's' | b'z') {
            word.pop();
        }
    } else if measure(word) == 1 && ends_short(word) {
        word.push('e');
    }
}

fn step_2(word: &mut String) {
    if let Some(before) = word.strip_suffix("alli")
        && measure(before) > 0
    {
        replace(word, 2, "");
        return step_2(word);
    }
    // `l` counts as part of the stem, so that short ones pass (geologi, theologi)
    if !longest(word, &STEP_2) && word.ends_with("logi") && measure(&word[..word.len() - 3]) > 0 {
        replace(word, 1, "");
    }
}

/// Replaces the first suffix of the list that the word has, if the stem has a measure. Whether it has one of them.
fn longest(word: &mut String, rules: &[(&str, &str)]) -> bool {
    let Some((end, by)) = rules.iter().find(|(end, _)| word.ends_with(end)) else { return false };
    if measure(&word[..word.len() - end.len()]) > 0 {
        replace(word, end.len(), by);
    }
    true
}

fn step_4(word: &mut String) {
    let Some(end) = STEP_4.iter().find(|end| word.ends_with(**end)) else { return };
    let before = &word[..word.len() - end.len()];
    if measure(before) > 1 && (*end != "ion" || before.ends_with(['s', 't'])) {
        word.truncate(before.len());
    }
}

/// Step 5a.
fn final_e(word: &mut String) {
    if let Some(before) = word.strip_suffix('e') {
        let m = measure(before);
        if m > 1 || m == 1 && !ends_short(before) {
            word.pop();
        }
    }
}
