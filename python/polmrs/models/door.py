"""The model's door: ragged batches become what a transformers model takes, and its hidden states ragged again.

| door     | the model sees                                        | for                                            |
|----------|-------------------------------------------------------|------------------------------------------------|
| `Padded` | rows of one width, padded on the right, with mask     | any model                                      |
| `Packed` | one row; positions start again with every sequence    | models whose attention heeds that, as is proved |

Both give explicit positions, and neither tells padding by its id.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from polmrs.data.ragged import Batch

Tensor = torch.Tensor


class Door(Protocol):
    """Runs the body of a model on a batch."""

    def __call__(self, body: Callable[..., Any], batch: Batch, embeds: Tensor | None = None) -> Tensor:
        """[T, D] last hidden states; ``embeds`` [T, D] stands for the embeddings of the ids."""
        ...


@dataclass(frozen=True, kw_only=True)
class Padded:
    """Rows of one width, the longest sequence's.

    >>> Padded(pad_id=2).pad_id
    2
    """

    pad_id: int = 0
    """What stands in padding; nothing looks for it."""
    multiple_of: int = 1
    """Rounds the width up."""

    def __call__(self, body: Callable[..., Any], batch: Batch, embeds: Tensor | None = None) -> Tensor:
        """[T, D] last hidden states."""
        rows = batch.padded(self.pad_id, self.multiple_of)
        given: dict[str, Any] = {"attention_mask": rows.attention.long(), "position_ids": rows.positions}
        if bool(rows.attention.all()):
            del given["attention_mask"]  # lets attention take its fastest form
        if embeds is None:
            given["input_ids"] = rows.ids
        else:
            laid = embeds.new_zeros(rows.ids.numel(), embeds.shape[1]).index_put((rows.place,), embeds)
            given["inputs_embeds"] = laid.view(*rows.ids.shape, -1)
        hidden = _last_hidden(body, given)
        return hidden.reshape(-1, hidden.shape[-1])[rows.place]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """All sequences in one row. No token sees another sequence: with sdpa by a mask of blocks, with flash attention by
    ``cu_seqlens``.

    >>> Packed()
    Packed()
    """

    def __call__(self, body: Callable[..., Any], batch: Batch, embeds: Tensor | None = None) -> Tensor:
        """[T, D] last hidden states."""
        given: dict[str, Any] = {"position_ids": batch.positions[None]}
        if "flash" in str(getattr(getattr(body, "config", None), "_attn_implementation", "")):
            longest = int(batch.lengths.max())
            given |= {"cu_seq_lens_q": batch.cu_seqlens, "cu_seq_lens_k": batch.cu_seqlens}
            given |= {"max_length_q": longest, "max_length_k": longest}
        given |= {"input_ids": batch.ids[None]} if embeds is None else {"inputs_embeds": embeds[None]}
        return _last_hidden(body, given)[0]


def _last_hidden(body: Callable[..., Any], given: dict[str, Any]) -> Tensor:
    takes = inspect.signature(getattr(body, "forward", body)).parameters
    if "position_ids" not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        del given["position_ids"]
    if "use_cache" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        given["use_cache"] = False
    hidden: Tensor = body(**given, return_dict=True).last_hidden_state
    return hidden
