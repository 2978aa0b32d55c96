r"""Instruction Mining (arXiv:2307.06290): a linear rule that predicts the loss of a model that is tuned on a data set.

$$ \log L(M_{ft}, D_{eval}) = \beta_0 + \sum_i \beta_i \, \mathrm{E}_{x \in D}[I_i(x)] + \epsilon $$

The coefficients come from least squares over data sets D that were tuned on; they hold for the model and data that they were
estimated with, so ``fit_rule`` estimates them; ``LinearRule.paper`` has the paper's, for its own model. By the rule, the examples with the least
predicted loss are the best: ``screen(data, -rule.predict(indicators(data)), top=1000)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from polmrs.data.dataset import Dataset
from polmrs.data.screening.diversity import mtld, neighbour_distance
from polmrs.data.screening.screen import Scores, completed, question, response
from polmrs.errors import ArrayError, UsageError

Columns = Mapping[str, Sequence[float] | npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class LinearRule:
    """Coefficients of indicators, and how well they fit."""

    intercept: float
    coefficients: Mapping[str, float]
    r2: float
    """The share of the variance of the logarithms that the rule explains."""

    @classmethod
    def paper(cls) -> Self:
        r"""The paper's rule for Llama 2 7B (version 3; version 1 had another, of length, reward and distance), as later texts
        quote it: $$\log L = 0.0274 - 0.0078\,Rew + 0.4421\,Und - 0.3212\,Nat - 0.1520\,Coh$$.

        ``reward`` is the score of ``OpenAssistant/oasst-rm-pythia-1.4b``; the others are UniEval's for dialogue, from 0 to 1.

        >>> rule = LinearRule.paper()
        >>> good = {"reward": [2.0], "understandability": [0.9], "naturalness": [0.9], "coherence": [0.9]}
        >>> round(rule.predict(good).item(), 5)
        -0.01619
        """
        slopes = {
            "reward": -0.0078,
            "understandability": 0.4421,
            "naturalness": -0.3212,
            "coherence": -0.1520,
        }
        return cls(intercept=0.0274, coefficients=slopes, r2=0.522)

    def predict(self, columns: Columns) -> Scores:
        """[rows] logarithms of the predicted loss.

        Raises:
            ArrayError: An indicator of the rule is missing, or columns are not as long as each other.
        """
        table = _table(columns, list(self.coefficients))
        out: Scores = self.intercept + table @ np.array(list(self.coefficients.values()))
        return out


def fit_rule(columns: Columns, losses: Sequence[float] | npt.NDArray[Any]) -> LinearRule:
    """Least squares of the logarithm of losses on indicators.

    Args:
        columns: For each indicator, [data sets] its mean over each data set.
        losses: [data sets] the evaluation loss of a model tuned on each.

    Raises:
        ArrayError: Lengths differ, or a loss is not above 0.
        UsageError: There are too few data sets, or one indicator follows from others, so that coefficients are not determined.

    >>> rule = fit_rule({"length": [1.0, 2.0, 3.0]}, np.exp([0.5, 0.75, 1.0]))
    >>> round(rule.intercept, 9), round(rule.coefficients["length"], 9), round(rule.r2, 9)
    (0.25, 0.25, 1.0)
    """
    names = list(columns)
    table = _table(columns, names)
    given = np.asarray(losses, np.float64)
    if given.shape != (len(table),):
        raise ArrayError(f"losses: shape {given.shape}, but indicators have {len(table)} rows")
    if not (np.isfinite(given).all() and (given > 0).all()):
        raise ArrayError("losses: each is above 0, and finite")
    if len(table) <= len(names):
        raise UsageError(
            f"columns: {len(names)} indicators need {len(names) + 1} data sets, not {len(table)}"
        )
    # Centred and scaled, so that the rank does not depend on the units of the indicators.
    centre, scale = table.mean(0), table.std(0)
    scale = np.where(scale > 0, scale, 1)
    design = np.column_stack([np.ones(len(table)), (table - centre) / scale])
    logs = np.log(given)
    found, _, rank, _ = np.linalg.lstsq(design, logs)
    if rank < design.shape[1]:
        raise UsageError(f"columns: {', '.join(names)} are not independent over these data sets")
    slopes = found[1:] / scale
    spread = float(((logs - logs.mean()) ** 2).sum())
    left = float(((logs - design @ found) ** 2).sum())
    return LinearRule(
        intercept=float(found[0] - centre @ slopes),
        coefficients=dict(zip(names, slopes.tolist(), strict=True)),
        r2=1 - left / spread if spread else 1.0,
    )


def indicators(
    data: Dataset,
    *,
    policy: Any = None,
    reward: Callable[[Sequence[Any]], Sequence[float]] | None = None,
    embed: Callable[[Sequence[str]], Any] | None = None,
    neighbour: int = 6,
) -> dict[str, Scores]:
    """The paper's indicators of each record, those that what is given allows.

    | name         | what                                              | needs    |
    |--------------|---------------------------------------------------|----------|
    | `length`     | words of the answer                               |          |
    | `mtld`       | lexical diversity of question and answer          |          |
    | `perplexity` | exp of the mean loss of the answer's tokens       | `policy` |
    | `reward`     | of question and answer                            | `reward` |
    | `knn`        | distance to the i-th neighbour, of the question   | `embed`  |

    Naturalness, coherence and understandability come from a model of their own (UniEval); add its columns to the dict.

    Args:
        data: Records with a question and an answer.
        policy: A model with its tokenizer.
        reward: Scores of records.
        embed: [texts, dim].
        neighbour: i.
    """
    answers = [response(record) for record in data]
    questions = [question(record) for record in data]
    found = {
        "length": np.array([len(text.split()) for text in answers], np.float64),
        "mtld": np.array([mtld(f"{q}\n{a}") for q, a in zip(questions, answers, strict=True)]),
    }
    if policy is not None:
        found["perplexity"] = _perplexity(data, policy)
    if reward is not None:
        found["reward"] = np.asarray(reward([completed(record) for record in data]), np.float64)
    if embed is not None:
        found["knn"] = neighbour_distance(embed(questions), neighbour)
    return found


def _perplexity(data: Dataset, policy: Any) -> Scores:
    from polmrs.data.encoding import examples

    found = []
    with policy.inference():
        for batch in examples([completed(record) for record in data], policy):
            given = batch.to(policy.device)
            total = (policy.logps(given).double() * given.weights).sum() / given.weights.sum()
            found.append(math.exp(-float(total)))
    return np.array(found)


def _table(columns: Columns, names: Sequence[str]) -> npt.NDArray[np.float64]:
    missing = [name for name in names if name not in columns]
    if missing or not names:
        raise ArrayError(f"columns: {', '.join(missing) or 'an indicator'} is missing")
    lengths = {name: len(columns[name]) for name in names}
    if len(set(lengths.values())) > 1:
        raise ArrayError(f"columns: lengths {lengths} differ")
    table = np.column_stack([np.asarray(columns[name], np.float64) for name in names])
    if not np.isfinite(table).all():
        raise ArrayError("columns: a number is not finite")
    return table
