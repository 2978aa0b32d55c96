"""Texts as vectors, by any encoder of transformers or sentence-transformers on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from polmrs.errors import CheckpointError, NotFoundError, UsageError
from polmrs.rag.index import Floats, PathLike

if TYPE_CHECKING:
    import torch

Pooling: TypeAlias = Literal["mean", "cls", "last", "max", "mean-sqrt"]

_MODES: Mapping[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean-sqrt",
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
    "max": "max",
    "mean_sqrt_len_tokens": "mean-sqrt",
}


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """[B, D] one vector a text from the hidden states of its tokens; what ``mask`` leaves out changes nothing.

    ``mean``, ``max``: over tokens. ``mean-sqrt``: the sum over the root of their number. ``cls``: the first token's. ``last``:
    the last token's. float32, whatever the model computes in.

    Args:
        hidden: [B, T, D].
        mask: [B, T], 1 for a token; every text has one at least.
        pooling: How.

    >>> import torch
    >>> hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    >>> [pool(hidden, torch.tensor([[1, 1, 0]]), how).item() for how in ("mean", "cls", "last", "max")]
    [2.0, 1.0, 3.0, 3.0]
    """
    import torch

    states, there = hidden.float(), mask.bool()
    count = there.sum(1, keepdim=True)
    if pooling in ("mean", "mean-sqrt"):
        total = torch.where(there[..., None], states, 0).sum(1)
        return total / (count if pooling == "mean" else count.sqrt())
    if pooling == "max":
        return states.masked_fill(~there[..., None], -torch.inf).amax(1)
    order = torch.arange(mask.shape[1], device=mask.device)
    at = torch.where(there, order, -1).amax(1) if pooling == "last" else there.int().argmax(1)
    return states[torch.arange(len(states), device=mask.device), at]


class Embedder:
    """Texts to float32 vectors, by a model in a folder.

    A folder of sentence-transformers says how itself: pooling and normalisation (``modules.json``, ``1_Pooling``), the longest
    text (``sentence_bert_config.json``) and prompts (``config_sentence_transformers.json``) are read from it. For a plain
    folder of transformers, say how. safetensors only; no code of the model's runs. Texts are batched by length, so little is
    padding; what stands beside a text in its batch changes its vector by rounding at most.

    >>> embed = Embedder("models/all-MiniLM-L6-v2")  # doctest: +SKIP
    >>> embed(["A sentence.", "Another one."]).shape  # doctest: +SKIP
    (2, 384)
    """

    def __init__(
        self,
        model: PathLike,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt: str | None = None,
        max_length: int | None = None,
        batch_tokens: int = 8192,
        device: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Loads the model.

        Args:
            model: The folder.
            pooling: ``mean``, ``cls``, ``last``, ``max`` or ``mean-sqrt``; the folder's own, or ``mean``.
            normalize: Whether vectors get length 1; the folder's own, or yes.
            prompts: Texts to put before texts, by name: ``{"query": "query: "}``; the folder's own, or none.
            default_prompt: The name of the one that stands there when a call names none, ``""`` for none;
                the folder's own, or none.
            max_length: The most tokens of a text, special ones too; the rest is cut off. The folder's own, or what the model
                can take.
            batch_tokens: The most tokens of a batch, padding too.
            device: Of torch; the CPU if nothing is said.
            dtype: Of the weights; float32 if nothing is said.

        Raises:
            NotFoundError: There is no such folder.
            CheckpointError: It cannot be read, or wants a module that is none of transformer, pooling, normalisation.
            UsageError: A setting is out of range.
        """
        import torch
        import transformers as hf

        folder = Path(os.fspath(model))
        own = _settings(folder)
        inner = own["folder"]
        if not (inner / "config.json").is_file():
            raise NotFoundError(f"model: {inner} is no folder with a config.json")
        self.pooling: Pooling = pooling or own["pooling"] or "mean"
        if self.pooling not in get_args(Pooling):
            raise UsageError(f"pooling: {self.pooling!r} is not one of {', '.join(get_args(Pooling))}")
        self.normalize: bool = own["normalize"] if normalize is None else normalize
        self.prompts: dict[str, str] = dict(own["prompts"] if prompts is None else prompts)
        self.default_prompt: str | None = own["default_prompt"] if default_prompt is None else default_prompt
        if self.default_prompt:
            self._prompt("default_prompt", self.default_prompt)
        self.batch_tokens = batch_tokens
        try:
            self.model: Any = hf.AutoModel.from_pretrained(
                inner, dtype=dtype or torch.float32, trust_remote_code=False, use_safetensors=True
            )
            self.tokenizer: Any = hf.AutoTokenizer.from_pretrained(inner, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"model: {folder}: {error}") from error
        self.model.eval().to(device or "cpu")
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        limits = [
            getattr(self.model.config, "max_position_embeddings", None),
            self.tokenizer.model_max_length,
        ]
        longest = min(limit for limit in limits if limit)
        self.max_length = int(max_length or own["max_length"] or longest)
        if not 1 <= self.max_length <= longest:
            raise UsageError(f"max_length: {self.max_length} is not in 1..={longest}, the model's")
        if batch_tokens < 1:
            raise UsageError(f"batch_tokens: {batch_tokens} is not at least 1")

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self.model.config.hidden_size)

    def __call__(self, texts: str | Sequence[str], *, prompt: str | None = None) -> Floats:
        """[n, dim] float32, or [dim] for one text.

        Args:
            texts: One text, or many.
            prompt: The name of a prompt to put before each; ``""`` for none, where there is a default one.

        Raises:
            UsageError: There is no such prompt, or a text has no tokens.
        """
        import torch

        name = self.default_prompt if prompt is None else prompt
        before = self._prompt("prompt", name) if name else ""
        given = [before + text for text in ([texts] if isinstance(texts, str) else texts)]
        out = np.empty((len(given), self.dim), np.float32)
        if given:
            rows = self.tokenizer(given, truncation=True, max_length=self.max_length)["input_ids"]
            if not all(rows):
                at = next(row for row, ids in enumerate(rows) if not ids)
                raise UsageError(f"texts[{at}]: {given[at]!r} has no tokens")
            order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
            with torch.inference_mode():
                for batch in _batches(order, [len(row) for row in rows], self.batch_tokens):
                    out[batch] = self._vectors([rows[row] for row in batch])
        return out[0] if isinstance(texts, str) else out

    def _prompt(self, argument: str, name: str) -> str:
        if name not in self.prompts:
            raise UsageError(f"{argument}: {name!r} is not one of {', '.join(self.prompts) or 'none'}")
        return self.prompts[name]

    def _vectors(self, rows: Sequence[Sequence[int]]) -> Floats:
        import torch

        padded = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(self.model.device)
        hidden = self.model(**padded).last_hidden_state
        vectors = pool(hidden, padded["attention_mask"], self.pooling)
        if self.normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        found: Floats = vectors.cpu().numpy()
        return found


def _batches(order: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Rows in order, longest first, as many as fit when padded."""
    batches: list[list[int]] = []
    for row in order:
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def _settings(folder: Path) -> dict[str, Any]:
    """What a folder says of itself."""
    own: dict[str, Any] = {
        "folder": folder,
        "pooling": None,
        "normalize": True,
        "max_length": None,
        "prompts": {},
        "default_prompt": None,
    }
    modules = _json(folder / "modules.json")
    if modules is None:
        return own
    own["normalize"] = False
    for module in modules:
        kind, place = str(module["type"]).rsplit(".", 1)[-1], folder / module["path"]
        if not place.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(f"{folder}/modules.json: path {module['path']!r} leads out of the folder")
        if kind == "Transformer":
            own["folder"] = place
        elif kind == "Pooling":
            own["pooling"] = _pooling(place / "config.json")
        elif kind == "Normalize":
            own["normalize"] = True
        else:
            raise CheckpointError(
                f"{folder}/modules.json: {module['type']} is none of Transformer, Pooling, Normalize"
            )
    bert = _json(own["folder"] / "sentence_bert_config.json") or {}
    own["max_length"] = bert.get("max_seq_length")
    if bert.get("do_lower_case"):
        raise CheckpointError(f"{own['folder']}/sentence_bert_config.json: do_lower_case is not supported")
    said = _json(folder / "config_sentence_transformers.json") or {}
    own["prompts"], own["default_prompt"] = said.get("prompts") or {}, said.get("default_prompt_name")
    return own


def _pooling(path: Path) -> Pooling:
    said = _json(path)
    if said is None:
        raise CheckpointError(f"{path}: there is no such file")
    if said.get("include_prompt") is False:
        raise CheckpointError(f"{path}: include_prompt false is not supported")
    chosen = [name for name, value in said.items() if name.startswith("pooling_mode_") and value is True]
    chosen = chosen or [str(said.get("pooling_mode"))]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise CheckpointError(
            f"{path}: pooling {' and '.join(chosen)} is not one of {', '.join(get_args(Pooling))}"
        )
    return _MODES[chosen[0]]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
