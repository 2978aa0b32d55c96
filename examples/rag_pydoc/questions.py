"""Questions about Python's language, and words of which a passage that answers one has some."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, and what a passage with the answer says."""

    text: str
    says: tuple[str, ...] = ()


def _asked(text: str, *says: str) -> Question:
    return Question(text=text, says=says)


QUESTIONS = (
    _asked(
        "How do I make sure that a file is closed when an error happens inside a block?",
        '"with" statement',
        '"finally"',
    ),
    _asked("What does the walrus operator := do?", "assignment expression", "named expression"),
    _asked(
        "What happens to the else clause of a loop when break is executed?",
        "without executing the",
        "skipping the optional",
    ),
    _asked("How can a function change a variable of the enclosing function?", '"nonlocal"'),
    _asked("Which objects count as false when tested for truth?", "considered false", "interpreted as false"),
    _asked("How do I print a number with thousands separators?", "thousands separator"),
    _asked("What is the difference between a generator and a normal function?", '"yield"'),
    _asked("How does Python choose which operator is evaluated first?", "operator precedence"),
    _asked(
        "Can I catch several exception types in one clause?", "or a tuple containing", "tuple of exception"
    ),
    _asked("How do I remove an item from a list?", '"s.remove(', '"del s[', '"s.pop('),
    _asked("How do I set a breakpoint in the debugger?", "set a break", '"breakpoint()"'),
    _asked("Which method is called when an attribute is not found?", "__getattr__()"),
)
ANSWERED = (0, 3, 10)
"""Those that the language model answers too, with retrieval and without."""
