"""Rows of a token store as one ragged batch: pairs, ranked lists, rollouts, completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from polmrs import _core
from polmrs._arrays import integers
from polmrs._tensor import Array
from polmrs.data.collated import Collated
from polmrs.data.store import TokenStore
from polmrs.errors import ArrayError

RowNumbers: TypeAlias = Sequence[int] | Array
TooLong: TypeAlias = Literal["refuse", "drop", "prompt_start", "prompt_end", "completion_end"]


def collate_pairs(
    tokens: TokenStore,
    *,
    prompts: RowNumbers,
    chosen: RowNumbers,
    rejected: RowNumbers,
    max_length: int | None = None,
    too_long: TooLong = "refuse",
    out: Collated | None = None,
) -> Collated:
    """Preference pairs: sequence 2i is prompt and chosen answer of pair i, sequence 2i + 1 prompt and rejected answer.

    The prompt is stored once and shared: what it loses, it loses in both.

    | ``too_long``       | a sequence longer than ``max_length``                                     |
    |--------------------|---------------------------------------------------------------------------|
    | ``refuse``         | is an error                                                               |
    | ``drop``           | takes its example out of the batch, into ``Collated.dropped``                |
    | ``prompt_start``   | loses the beginning of its prompt; an error if no token of it would stay  |
    | ``prompt_end``     | loses the end of its prompt; likewise                                     |
    | ``completion_end`` | loses the end of its completion; likewise                                 |

    ``Collated.cut`` counts what every sequence lost.

    Args:
        tokens: The source. Its mask, if any, says which tokens of an answer are targets.
        prompts: [pairs], the row of each prompt; -1 for none.
        chosen: [pairs], the row of each chosen answer.
        rejected: [pairs], the row of each rejected answer.
        max_length: The most tokens of a sequence.
        too_long: What becomes of longer ones.
        out: A batch that is no longer needed; its memory is used again where it suffices.

    Raises:
        ArrayError: A row is none of the source's, or a sequence is too long for the rule.

    >>> tokens = TokenStore.of([[1, 2, 3], [10, 11], [20]])
    >>> batch = collate_pairs(
    ...     tokens, prompts=[0], chosen=[1], rejected=[2], max_length=4, too_long="prompt_start"
    ... )
    >>> batch.ids.tolist(), batch.cut.tolist()
    ([2, 3, 10, 11, 2, 3, 20], [1, 1])
    """
    better, worse = integers("chosen", chosen), integers("rejected", rejected)
    if better.shape != worse.shape:
        raise ArrayError(f"rejected: {worse.size} rows, but chosen has {better.size}")
    answers = np.stack([better, worse], axis=1).reshape(-1)
    members = np.arange(0, answers.size + 1, 2)
    return _collated(tokens, prompts, answers, members, max_length, too_long, out)


def collate_lists(
    tokens: TokenStore,
    *,
    prompts: RowNumbers,
    completions: Sequence[RowNumbers],
    max_length: int | None = None,
    too_long: TooLong = "refuse",
    out: Collated | None = None,
) -> Collated:
    """Several completions for each prompt: ranked answers, best first, or the rollouts of a group.

    ``Collated.example`` is the prompt that a sequence belongs to, ``Collated.place`` its rank.

    Args:
        tokens: The source.
        prompts: [examples], the row of each prompt; -1 for none.
        completions: For each prompt, the rows of its completions; any number of them.
        max_length: The most tokens of a sequence.
        too_long: What becomes of longer ones; see ``collate_pairs``.
        out: A batch that is no longer needed; its memory is used again where it suffices.

    Raises:
        ArrayError: A row is none of the source's, or a sequence is too long for the rule.

    >>> tokens = TokenStore.of([[1], [10], [20, 21], [30]])
    >>> collate_lists(tokens, prompts=[0], completions=[[3, 1, 2]]).ids.tolist()
    [1, 30, 1, 10, 1, 20, 21]
    """
    lists = [integers(f"completions[{i}]", rows) for i, rows in enumerate(completions)]
    members = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    answers = np.concatenate(lists) if lists else np.empty(0, np.int64)
    return _collated(tokens, prompts, answers, members, max_length, too_long, out)


def collate_completions(
    tokens: TokenStore,
    *,
    prompts: RowNumbers,
    completions: RowNumbers,
    max_length: int | None = None,
    too_long: TooLong = "refuse",
    out: Collated | None = None,
) -> Collated:
    """One completion for each prompt; targets are the completion's tokens.

    Args:
        tokens: The source.
        prompts: [examples], the row of each prompt; -1 for none.
        completions: [examples], the row of each completion.
        max_length: The most tokens of a sequence.
        too_long: What becomes of longer ones; see ``collate_pairs``.
        out: A batch that is no longer needed; its memory is used again where it suffices.

    Raises:
        ArrayError: A row is none of the source's, or a sequence is too long for the rule.

    >>> tokens = TokenStore.of([[1, 2], [3, 4]])
    >>> batch = collate_completions(tokens, prompts=[0], completions=[1])
    >>> batch.target
    array([False, False,  True,  True])
    """
    answers = integers("completions", completions)
    return _collated(tokens, prompts, answers, np.arange(answers.size + 1), max_length, too_long, out)


def collate_rows(
    tokens: TokenStore,
    rows: RowNumbers,
    *,
    max_length: int | None = None,
    too_long: TooLong = "refuse",
    out: Collated | None = None,
) -> Collated:
    """Whole rows, as for language modelling, or one pack of a plan: every token but the first of a row is a target.

    Args:
        tokens: The source. Its mask, if any, takes targets away.
        rows: The rows, in order.
        max_length: The most tokens of a sequence.
        too_long: What becomes of longer ones: ``refuse``, ``drop`` or ``completion_end``.
        out: A batch that is no longer needed; its memory is used again where it suffices.

    Raises:
        ArrayError: A row is none of the source's, or is too long for the rule.

    >>> tokens = TokenStore.of([[1, 2, 3], [4, 5]])
    >>> collate_rows(tokens, [1, 0]).target
    array([False,  True, False,  True,  True])
    """
    numbers = integers("rows", rows)
    prompts = np.full(numbers.size, -1)
    return _collated(tokens, prompts, numbers, np.arange(numbers.size + 1), max_length, too_long, out)


def _collated(
    tokens: TokenStore,
    prompts: RowNumbers,
    completions: Any,
    members: Any,
    max_length: int | None,
    too_long: TooLong,
    out: Collated | None,
) -> Collated:
    ids, target, cu_seqlens, example, place, cut, dropped = _core.data.collate(
        tokens.ids,
        tokens.offsets,
        tokens.mask,
        integers("prompts", prompts),
        np.ascontiguousarray(completions),
        np.ascontiguousarray(members),
        max_length,
        too_long,
        None if out is None else out.memory,
    )
    size = int(cu_seqlens[-1])
    return Collated(
        ids=ids[:size],
        cu_seqlens=cu_seqlens,
        target=target[:size].view(np.bool_),
        example=example,
        place=place,
        cut=cut,
        dropped=dropped,
        memory=(ids, target),
    )
