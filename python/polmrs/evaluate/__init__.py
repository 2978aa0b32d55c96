"""What a policy can do: loss and perplexity, multiple choice, written answers; each with its standard error.

>>> from polmrs import evaluate
>>> print(evaluate.exact_match(["4", "5"], ["4", "4"]))
0.5000 ± 0.5000 (n = 2)
"""

from polmrs.evaluate.answers import Written, exact_match, generation_accuracy, last_number, same_number
from polmrs.evaluate.choice import Choices, Question, multiple_choice
from polmrs.evaluate.harness import harness
from polmrs.evaluate.likelihood import Perplexity, likelihoods, perplexity
from polmrs.evaluate.score import Score

__all__ = [
    "Choices",
    "Perplexity",
    "Question",
    "Score",
    "Written",
    "exact_match",
    "generation_accuracy",
    "harness",
    "last_number",
    "likelihoods",
    "multiple_choice",
    "perplexity",
    "same_number",
]
