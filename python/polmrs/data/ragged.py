"""What an objective trains on: ragged sequences as torch tensors, with a loss weight for every predicted token.

An example is what an objective looks at together: one sequence for fine-tuning, two for a preference pair (chosen, then
rejected), K for a ranking (best first). It is a batch of one example; ``Batch.cat`` lays examples end to end. A stream of
batches is an iterator of *lists of examples*, each list the examples of one optimizer step, of all ranks; where it has
``state_dict`` and ``load_state_dict``, training resumes at its position.

``polmrs.data.Collated`` is the numpy form that collation makes; ``Batch.collated`` takes it over without copying ids twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch

from polmrs.errors import ArrayError

if TYPE_CHECKING:
    from polmrs.data.collated import Collated

Tensor = torch.Tensor


class Rows(NamedTuple):
    """A batch with padding: every tensor is [sequences, width] but ``place``."""

    ids: Tensor
    attention: Tensor
    """bool: not padding"""
    positions: Tensor
    place: Tensor
    """[T]: where token t stands in the flattened rows"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """B sequences of T tokens in all, laid end to end.

    >>> pair = Batch.of([[5, 6, 7], [5, 8]], weights=[[0, 1, 1], [0, 1]])
    >>> both = Batch.cat([pair, pair])
    >>> both.cu_seqlens.tolist(), both.example.tolist(), both.positions.tolist()
    ([0, 3, 5, 8, 10], [0, 0, 1, 1], [0, 1, 2, 0, 1, 0, 1, 2, 0, 1])
    """

    ids: Tensor
    """[T] int64"""
    cu_seqlens: Tensor
    """[B + 1] int32; sequence i is the tokens ``cu_seqlens[i]`` to ``cu_seqlens[i + 1]``."""
    weights: Tensor
    """[T] float32: how much predicting token t, from the tokens before it, counts; 0 for no loss. 0 on first tokens."""
    example: Tensor
    """[B] int64, 0, 0, 1, ...: the example that each sequence belongs to."""
    per_token: Mapping[str, Tensor] = field(default_factory=dict)
    """[T, ...]: more for each token, such as a reference model's log-probabilities."""
    per_sequence: Mapping[str, Tensor] = field(default_factory=dict)
    """[B, ...]: more for each sequence, such as a score or a class."""
    per_example: Mapping[str, Tensor] = field(default_factory=dict)
    """[examples, ...]: more for each example, such as the margin of a pair."""
    names: tuple[str, ...] = ()
    """Where each example came from, as ``file:line`` or empty; for messages."""

    @classmethod
    def of(
        cls,
        sequences: Sequence[Sequence[int] | Tensor],
        weights: Sequence[Sequence[float] | Tensor] | None = None,
        *,
        name: str = "",
        per_token: Mapping[str, Sequence[Any]] | None = None,
        per_sequence: Mapping[str, Any] | None = None,
        per_example: Mapping[str, Any] | None = None,
    ) -> Self:
        """One example.

        Args:
            sequences: Token ids, one or more sequences.
            weights: As many, as long; without them every token but the first of a sequence counts 1.
            name: Where it came from.
            per_token: More for each token, one list a sequence.
            per_sequence: More for each sequence, [sequences, ...].
            per_example: More for the example.

        Raises:
            ArrayError: A sequence is empty, a first token has a weight, or lengths differ.

        >>> Batch.of([[5, 6, 7]]).weights
        tensor([0., 1., 1.])
        """
        rows = [torch.as_tensor(row, dtype=torch.int64).reshape(-1) for row in sequences]
        lengths = torch.tensor([len(row) for row in rows])
        if not rows or not bool(lengths.all()):
            raise ArrayError(f"sequences: {name or 'the example'} has an empty sequence, or none")
        cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
        ids = torch.cat(rows)
        if weights is None:
            counted = torch.ones(len(ids))
            counted[cu_seqlens[:-1].long()] = 0
        else:
            counted = _joined("weights", weights, lengths).float()
        made = cls(
            ids=ids,
            cu_seqlens=cu_seqlens,
            weights=counted,
            example=torch.zeros(len(rows), dtype=torch.int64),
            per_token={key: _joined(key, value, lengths) for key, value in (per_token or {}).items()},
            per_sequence={key: torch.as_tensor(value) for key, value in (per_sequence or {}).items()},
            per_example={key: torch.as_tensor(value)[None] for key, value in (per_example or {}).items()},
            names=(name,),
        )
        made.check()
        return made

    @classmethod
    def collated(cls, batch: Collated) -> Self:
        """A batch of ``collate_pairs``, ``collate_lists``, ``collate_completions`` or ``collate_rows``: targets weigh 1.

        >>> from polmrs import data
        >>> tokens = data.TokenStore.of([[1, 2], [3, 4]])
        >>> Batch.collated(data.collate_completions(tokens, prompts=[0], completions=[1])).weights
        tensor([0., 0., 1., 1.])
        """
        example = torch.as_tensor(batch.example)
        order = torch.unique_consecutive(example, return_inverse=True)[1] if len(example) else example
        return cls(
            ids=torch.as_tensor(batch.ids).long(),
            cu_seqlens=torch.as_tensor(batch.cu_seqlens),
            weights=torch.as_tensor(batch.target).float(),
            example=order,
            names=("",) * (int(order[-1]) + 1 if len(order) else 0),
        )

    @classmethod
    def cat(cls, batches: Sequence[Self]) -> Self:
        """Batches end to end, examples numbered on.

        Raises:
            ArrayError: There is none, or they do not carry the same extras.
        """
        if not batches:
            raise ArrayError("batches: there is none")
        if len(batches) == 1:
            return batches[0]
        ends, numbers, at, before = [batches[0].cu_seqlens[:1]], [], 0, 0
        for batch in batches:
            ends.append(batch.cu_seqlens[1:] + at)
            numbers.append(batch.example + before)
            at, before = at + len(batch.ids), before + batch.examples
        joined: dict[str, Any] = {}
        for kind in ("per_token", "per_sequence", "per_example"):
            keys = {tuple(getattr(batch, kind)) for batch in batches}
            if len({frozenset(key) for key in keys}) > 1:
                raise ArrayError(f"{kind}: batches carry different extras: {sorted(keys)}")
            joined[kind] = {
                key: torch.cat([getattr(batch, kind)[key] for batch in batches]) for key in keys.pop()
            }
        return cls(
            ids=torch.cat([batch.ids for batch in batches]),
            cu_seqlens=torch.cat(ends),
            weights=torch.cat([batch.weights for batch in batches]),
            example=torch.cat(numbers),
            names=tuple(name for batch in batches for name in batch.names),
            **joined,
        )

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self.cu_seqlens) - 1

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return int(self.example[-1]) + 1 if len(self) else 0

    @property
    def lengths(self) -> Tensor:
        """[B] int64."""
        return (self.cu_seqlens[1:] - self.cu_seqlens[:-1]).long()

    @property
    def sequence(self) -> Tensor:
        """[T] int64: the sequence that each token belongs to."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.ids.device), self.lengths)

    @property
    def positions(self) -> Tensor:
        """[T] int64: 0, 1, 2, ... in every sequence."""
        return (
            torch.arange(len(self.ids), device=self.ids.device) - self.cu_seqlens[:-1].long()[self.sequence]
        )

    @property
    def ends(self) -> Tensor:
        """[B] int64: the last token with a weight in each sequence, where a reward is read.

        Raises:
            ArrayError: A sequence has none.
        """
        at = torch.arange(len(self.ids), device=self.ids.device)
        counted = torch.where(self.weights != 0, at, at.new_tensor(-1))
        ends = at.new_full((len(self),), -1).scatter_reduce(0, self.sequence, counted, "amax")
        if bool((ends < 0).any()):
            bad = int((ends < 0).nonzero()[0])
            raise ArrayError(
                f"weights: sequence {bad}{self.named(int(self.example[bad]))} has none that counts"
            )
        return ends

    def sums(self, values: Tensor) -> Tensor:
        """[B], of the dtype of ``values``: the sum of [T] values over the tokens of each sequence."""
        return values.new_zeros(len(self)).index_add(0, self.sequence, values)

    def named(self, example: int) -> str:
        """`` (file:line)`` of an example, or nothing."""
        return f" ({self.names[example]})" if self.names and self.names[example] else ""

    def to(self, device: torch.device | str) -> Self:
        """The batch on a device."""
        moved: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Tensor):
                moved[one.name] = value.to(device, non_blocking=True)
            elif isinstance(value, Mapping):
                moved[one.name] = {key: x.to(device, non_blocking=True) for key, x in value.items()}
        return replace(self, **moved)

    def padded(self, pad_id: int = 0, multiple_of: int = 1) -> Rows:
        """The batch as rows of one width, padded on the right. What stands in padding is never looked at.

        >>> rows = Batch.of([[5, 6, 7], [5, 8]]).padded(pad_id=0)
        >>> rows.ids.tolist(), rows.place.tolist()
        ([[5, 6, 7], [5, 8, 0]], [0, 1, 2, 3, 4])
        """
        width = -(-int(self.lengths.max()) // multiple_of) * multiple_of
        positions = self.positions
        place = self.sequence * width + positions

        def rows(values: Tensor, filler: int | bool) -> Tensor:
            flat = values.new_full((len(self) * width,), filler)
            flat[place] = values
            return flat.view(len(self), width)

        attention = rows(torch.ones_like(self.ids, dtype=torch.bool), False)
        return Rows(rows(self.ids, pad_id), attention, rows(positions, 0), place)

    def check(self) -> None:
        """Refuses what no objective may see.

        Raises:
            ArrayError: A first token has a weight, which nothing predicts; a weight is negative or not finite.
        """
        first = self.weights[self.cu_seqlens[:-1].long()]
        if bool(first.any()):
            bad = int(first.nonzero()[0])
            raise ArrayError(
                f"weights: {first[bad]:g} on the first token of sequence {bad}, which nothing predicts"
            )
        if not bool(torch.isfinite(self.weights).all()) or bool((self.weights < 0).any()):
            raise ArrayError("weights: each is 0 or more, and finite")


def _joined(name: str, rows: Sequence[Any], lengths: Tensor) -> Tensor:
    made = [torch.as_tensor(row) for row in rows]
    if [len(row) for row in made] != lengths.tolist():
        raise ArrayError(
            f"{name}: lengths {[len(row) for row in made]}, but sequences have {lengths.tolist()}"
        )
    return torch.cat(made)
