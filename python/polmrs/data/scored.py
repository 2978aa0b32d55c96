"""Steps of examples with the log-probabilities of a reference policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from polmrs.data.encoding import TooLong, examples
from polmrs.data.epochs import Epochs
from polmrs.data.ragged import Batch
from polmrs.errors import UsageError

if TYPE_CHECKING:
    from polmrs.data.dataset import Dataset
    from polmrs.models import Policy


class Scored:
    """A stream of steps whose examples carry ``per_token["reference"]``: log-probabilities under another policy, 0 where no
    token counts.

    They are computed as a step is asked for, without gradient, and not kept: memory is that of one step.
    """

    def __init__(self, stream: Any, policy: Policy, *, micro: int = 8) -> None:
        """Wraps a stream.

        Args:
            stream: Gives lists of examples; where it has ``state_dict``, so has this.
            policy: The reference.
            micro: Examples of one forward pass.

        Raises:
            UsageError: ``micro`` is below 1.
        """
        if micro < 1:
            raise UsageError(f"micro: {micro} is not 1 or more")
        self.stream, self.policy, self.micro = stream, policy, micro

    def __iter__(self) -> Iterator[list[Batch]]:
        """Itself: two loops over it share one position."""
        return self

    def __next__(self) -> list[Batch]:
        """The examples of the next step."""
        step: list[Batch] = next(self.stream)
        return [
            one for at in range(0, len(step), self.micro) for one in self._scored(step[at : at + self.micro])
        ]

    @torch.no_grad()
    def _scored(self, batches: list[Batch]) -> list[Batch]:
        logps = self.policy.logps(Batch.cat(batches).to(self.policy.device)).cpu()
        parts = torch.split(logps, [len(one.ids) for one in batches])
        return [
            replace(one, per_token={**one.per_token, "reference": part})
            for one, part in zip(batches, parts, strict=True)
        ]

    def state_dict(self) -> Any:
        """The position of the stream within."""
        return self.stream.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Goes to a position."""
        self.stream.load_state_dict(state)


def scored_by(
    data: Dataset,
    policy: Policy,
    *,
    batch: int = 8,
    epochs: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    micro: int = 8,
    max_length: int | None = None,
    too_long: TooLong = "refuse",
) -> Scored:
    """Records as steps for ``polmrs.fit``, with a reference's log-probabilities.

    Args:
        data: The records.
        policy: The reference, ``policy.frozen()`` for the one before training. Its tokenizer makes the ids.
        batch: Examples of one optimizer step, over all ranks.
        epochs: How many; for ever if not given.
        seed: Of the orders.
        shuffle: Whether to draw orders.
        micro: Examples of one forward pass of the reference.
        max_length: The most tokens of a sequence; never more than the policy's context.
        too_long: What becomes of longer ones; see ``polmrs.data.encoding.examples``.
    """
    made = examples(data.records, policy, max_length=max_length, too_long=too_long)
    return Scored(Epochs(made, batch=batch, epochs=epochs, seed=seed, shuffle=shuffle), policy, micro=micro)
