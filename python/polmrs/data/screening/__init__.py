"""Screening of instruction data: scores for every record, and what is kept by them.

A scorer gives numbers, ``screen`` keeps by them (eq. 9: r(I, X) >= tau), and the data set that comes back accounts for the
records that went.

>>> from polmrs.data import read
>>> data = read([{"prompt": "q", "completion": c} for c in ("a", "b b b b", "c d e f")])
>>> kept = screen(data, [mtld(record.completion) for record in data], name="mtld", at_least=2)
>>> [record.completion for record in kept], kept.account.left_out[0].reason
(['b b b b', 'c d e f'], 'mtld 1, below 2')
"""

from polmrs.data.screening.difficulty import ifd
from polmrs.data.screening.diversity import diverse, k_center, mtld, neighbour_distance
from polmrs.data.screening.holdout import Split, few_shot_scores, hold_out
from polmrs.data.screening.mining import LinearRule, fit_rule, indicators
from polmrs.data.screening.mods import Mods, mods
from polmrs.data.screening.screen import question, response, screen

__all__ = [
    "LinearRule",
    "Mods",
    "Split",
    "diverse",
    "few_shot_scores",
    "fit_rule",
    "hold_out",
    "ifd",
    "indicators",
    "k_center",
    "mods",
    "mtld",
    "neighbour_distance",
    "question",
    "response",
    "screen",
]
