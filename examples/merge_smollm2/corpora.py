"""Two texts that any machine has or can make: worked arithmetic problems, and the documentation of Python.

Each is split into passages for training and passages held out. No arithmetic problem is on both sides, nor is
one that differs in names only; no paragraph of a held-out documentation topic is in the training text (topics
quote each other at length).
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stage import digest, source

PASSAGE_CHARACTERS = 1000  # enough for a sequence of 128 tokens in both texts
PASSAGES_PER_TOPIC = 2  # of the held-out documentation, so that it covers many topics


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Passages of text, the training ones and those held out."""

    name: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def inputs(self) -> dict[str, Any]:
        """Give what a stage that reads this text depends on."""
        text = "\0".join((*self.train, "", *self.held_out))
        return {"code": source(__file__), "name": self.name, "text": digest(text.encode())}


def arithmetic(*, train: int, held_out: int, seed: int) -> Corpus:
    """Generate passages of worked problems, every problem once."""
    passages = _passages(_problems(random.Random(f"arithmetic {seed}")))
    made = [next(passages) for _ in range(train + held_out)]
    return Corpus(name="arithmetic", train=tuple(made[held_out:]), held_out=tuple(made[:held_out]))


def documentation(*, train: int, held_out: int, seed: int) -> Corpus:
    """Cut the language reference of this Python (`pydoc_data`, what `help("if")` shows) into passages."""
    from pydoc_data.topics import topics

    rng = random.Random(f"docs {seed}")
    texts = [[p.strip("\n") for p in topics[name].split("\n\n")] for name in sorted(topics)]
    rng.shuffle(texts)
    aside: list[str] = []
    seen: set[str] = set()  # paragraphs already used on either side
    while len(aside) < held_out:
        paragraphs = texts.pop()
        fresh = [p for p in paragraphs if _plain(p) not in seen]
        aside += list(_passages(fresh))[:PASSAGES_PER_TOPIC]
        seen.update(map(_plain, paragraphs))
    kept: list[str] = []
    for paragraphs in texts:
        kept += _passages(p for p in paragraphs if _plain(p) not in seen)
        seen.update(map(_plain, paragraphs))
    if len(kept) < train:
        raise ValueError(f"pydoc_data: {len(kept)} passages are left for training, {train} are asked for")
    return Corpus(name="docs", train=tuple(rng.sample(kept, train)), held_out=tuple(aside[:held_out]))


def sequences(passages: Iterable[str], tokenizer: Any, *, length: int) -> list[list[int]]:
    """Turn each passage into its first `length` token ids."""
    ids = [tokenizer(text).input_ids[:length] for text in passages]
    short = min(map(len, ids))
    if short < length:
        raise ValueError(f"a passage has {short} tokens, a sequence is {length}")
    return ids


def _passages(pieces: Iterable[str]) -> Iterator[str]:
    """Join pieces until each passage has PASSAGE_CHARACTERS; an unfinished last one is dropped."""
    parts: list[str] = []
    for piece in pieces:
        parts.append(piece)
        if sum(map(len, parts)) >= PASSAGE_CHARACTERS:
            yield "\n\n".join(parts)
            parts = []


def _plain(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _problems(rng: random.Random) -> Iterator[str]:
    """Draw problems without end, no two of one template with the same numbers in the question."""
    seen: set[tuple[str, ...]] = set()
    while True:
        template = rng.choice(TEMPLATES)
        problem = template(rng)
        question = problem.partition("\n")[0]
        numbers = (template.__name__, *re.findall(r"\d+", question))
        if numbers not in seen:
            seen.add(numbers)
            yield problem


def _worked(question: str, steps: Sequence[str], answer: str) -> str:
    return f"Question: {question}\nSteps: {'. '.join(steps)}.\nAnswer: {answer}"


def _addition(rng: random.Random) -> str:
    a, b = rng.randint(101, 999), rng.randint(101, 999)
    parts = [(a // p % 10 * p, b // p % 10 * p) for p in (100, 10, 1)]
    sums = [x + y for x, y in parts]
    steps = [f"{x} + {y} = {x + y}" for x, y in parts]
    total = " + ".join(map(str, sums))
    return _worked(f"What is {a} + {b}?", [*steps, f"{total} = {a + b}"], f"{a + b}")


def _multiplication(rng: random.Random) -> str:
    a, b = rng.randint(101, 999), rng.randint(3, 9)
    parts = [a // p % 10 * p for p in (100, 10, 1)]
    steps = [f"{x} * {b} = {x * b}" for x in parts]
    total = " + ".join(str(x * b) for x in parts)
    return _worked(f"What is {a} * {b}?", [*steps, f"{total} = {a * b}"], f"{a * b}")


def _division(rng: random.Random) -> str:
    divisor, quotient = rng.randint(3, 12), rng.randint(11, 60)
    a = divisor * quotient + rng.randrange(divisor)
    rest = a - divisor * quotient
    steps = (f"{divisor} * {quotient} = {divisor * quotient}", f"{a} - {divisor * quotient} = {rest}")
    return _worked(f"What is {a} divided by {divisor}?", steps, f"{quotient} remainder {rest}")


def _percentage(rng: random.Random) -> str:
    percent, whole = rng.randrange(5, 100, 5), rng.randrange(40, 1000, 20)
    one = f"{whole} / 100 = {whole / 100:g}"
    return _worked(
        f"What is {percent}% of {whole}?",
        (f"1% of {whole} is {one}", f"{whole / 100:g} * {percent} = {whole * percent // 100}"),
        f"{whole * percent // 100}",
    )


def _shopping(rng: random.Random) -> str:
    name = rng.choice(("Ana", "Ben", "Chen", "Dara", "Eli", "Femi"))
    item = rng.choice(("books", "pens", "cups", "maps"))
    count, price = rng.randint(3, 12), rng.randint(2, 19)
    cost = count * price
    paid = -(-cost // 50) * 50
    return _worked(
        f"{name} buys {count} {item} at {price} dollars each and pays with {paid}. How much is the change?",
        (
            f"The {item} cost {count} * {price} = {cost} dollars",
            f"The change is {paid} - {cost} = {paid - cost} dollars",
        ),
        f"{paid - cost}",
    )


def _journey(rng: random.Random) -> str:
    vehicle = rng.choice(("train", "bus", "truck", "car"))
    speed, hours, more = rng.randrange(40, 130, 5), rng.randint(2, 9), rng.randint(11, 99)
    first = speed * hours
    return _worked(
        f"A {vehicle} goes {hours} hours at {speed} km per hour and then {more} km more. How far does it go?",
        (
            f"In {hours} hours it goes {hours} * {speed} = {first} km",
            f"In all it goes {first} + {more} = {first + more} km",
        ),
        f"{first + more} km",
    )


TEMPLATES: tuple[Callable[[random.Random], str], ...] = (
    _addition,
    _multiplication,
    _division,
    _percentage,
    _shopping,
    _journey,
)
