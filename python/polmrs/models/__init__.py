"""Models as policies: loading and saving, log-probabilities without the whole of tokens x vocabulary, the door.

>>> from polmrs.models import Packed, Padded
>>> Padded(pad_id=2), Packed()
(Padded(pad_id=2, multiple_of=1), Packed())
"""

from polmrs.models.door import Door, Packed, Padded
from polmrs.models.loading import Head, Scores, StepScores, Tokens, load, save
from polmrs.models.policy import Frozen, Policy
from polmrs.models.projection import TokenStats, token_stats

__all__ = [
    "Door",
    "Frozen",
    "Head",
    "Packed",
    "Padded",
    "Policy",
    "Scores",
    "StepScores",
    "TokenStats",
    "Tokens",
    "load",
    "save",
    "token_stats",
]
