"""Made texts: English-like words with all the endings that a stemmer looks at, and instructions with near copies."""

import random

STEMS = "relat condit valenc hesit digit conform radic vil analog vietnam predic oper feud decis hope form sens tripl"
STEMS += " electr good reviv allow infer airlin gyroscop adjust defens irrit replac depend adopt homolog commun activ"
STEMS += " angul effect bow prob rat ceas contro rol sky di ly ti happ cr sa b agre plaster mot sing conflat troubl siz"
STEMS += " hopp tann fall hiss fizz fail fil geo theo archaeo joy toy enjo syz yy y ow snow box day play flo spr cann inn"
ENDINGS = "al ance ence er ic able ible ant ement ment ent ion tion sion ou ism ate iti ous ive ize ational tional enci"
ENDINGS += " anci izer bli alli entli eli ousli ization ation ator alism iveness fulness ousness aliti iviti biliti fulli"
ENDINGS += " logi icate ative alize iciti ical ful ness s es ies sses ss eed ed ing ied y ies e ll l ings tted ssing zz lly"
VERBS = "write list explain translate sort summarize compare describe rewrite classify draw name find suggest"
NOUNS = (
    "poem story email function number country animal recipe sentence letter review table map song plan essay"
)
EXTRA = (
    "about the sea with three short lines for a child in French using only simple words and no more than ten"
)


def vocabulary():
    """Every stem with every ending, with two endings, and odd ones."""
    stems, endings = STEMS.split(), ["", *ENDINGS.split()]
    words = {stem + ending for stem in stems for ending in endings}
    words |= {stem + one + two for stem in stems[::3] for one in endings for two in endings[::2]}
    words |= {
        "skies",
        "dying",
        "lying",
        "tying",
        "news",
        "innings",
        "inning",
        "outings",
        "outing",
        "cannings",
    }
    words |= {
        "canning",
        "howe",
        "proceed",
        "exceed",
        "succeed",
        "a",
        "is",
        "be",
        "as",
        "10th",
        "2s",
        "x1ing",
        "by",
    }
    return sorted(words)


def instructions(n, seed=0):
    """Instructions, about a third of them near copies of earlier ones."""
    rng = random.Random(seed)
    verbs, nouns, extra = VERBS.split(), NOUNS.split(), EXTRA.split()
    made = []
    for _ in range(n):
        if made and rng.random() < 0.35:
            words = rng.choice(made).split()
            for _ in range(rng.randint(0, 3)):
                words[rng.randrange(len(words))] = rng.choice(nouns)
        else:
            words = [rng.choice(verbs), "a", rng.choice(nouns)]
            words += [rng.choice(extra) for _ in range(rng.randint(0, 16))]
            words += [f"topic{rng.randint(0, n)}" for _ in range(rng.randint(0, 4))]
        made.append(" ".join(words) + rng.choice(["", ".", "?", "!"]))
    return made


def documents(n, seed=0, words=60):
    """Short documents over a large vocabulary, a fifth of them edited copies of earlier ones."""
    rng = random.Random(seed)
    made = []
    for _ in range(n):
        if made and rng.random() < 0.2:
            text = list(rng.choice(made))
            for _ in range(rng.randint(0, 8)):
                text[rng.randrange(len(text))] = rng.randint(0, 20000)
        else:
            text = [min(int(rng.paretovariate(0.9)), 20000) for _ in range(rng.randint(words // 2, words))]
        made.append(text)
    return [" ".join(f"w{word}" for word in text) for text in made]
