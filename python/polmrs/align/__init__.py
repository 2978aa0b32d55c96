"""Alignment: reward models from comparisons, rankings, ratings and steps; value heads.

>>> from polmrs import align
>>> align.BradleyTerry().centering
0.0
"""

from polmrs.align.process_reward import ProcessReward, solution_scores, step_logits
from polmrs.align.ratings import Likert, Regression, ordinal_logp
from polmrs.align.reward import BradleyTerry, PlackettLuce, plackett_luce, shaped
from polmrs.align.value import Value, ValueHead

__all__ = [
    "BradleyTerry",
    "Likert",
    "PlackettLuce",
    "ProcessReward",
    "Regression",
    "Value",
    "ValueHead",
    "ordinal_logp",
    "plackett_luce",
    "shaped",
    "solution_scores",
    "step_logits",
]
