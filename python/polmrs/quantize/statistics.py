"""``collect``: what passes through a model's linear layers, as the statistics file that merging, GPTQ and pruning read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from polmrs.errors import CheckpointError, ConfigError, NonFiniteError, OutputExistsError, UsageError

if TYPE_CHECKING:
    import torch

Text: TypeAlias = str | Sequence[int]
"""A text, or the ids of its tokens."""


def collect(
    model: Any,
    texts: Iterable[Text],
    *,
    to: str | PathLike[str],
    gram: bool = True,
    fisher: bool = False,
    max_tokens: int = 2048,
    save_every: int = 32,
    source: str = "texts",
    overwrite: bool = False,
) -> dict[str, Any]:
    r"""Measures the inputs of every linear layer, one text after the other.

    For the weight `W` of a layer, over all tokens $x$ that pass through it: `W::sumsq` ($\sum x^2$), `W::mean`, `W::absmax`,
    `W::count`, and `W::gram` ($\sum x x^\top$), whose double over the count is the Hessian of the layer's squared error
    (GPTQ, arXiv:2210.17323, section 3). With ``fisher``, `W::fisher` for every parameter: the mean over texts of the squared
    gradient of a text's loss (the empirical Fisher information, arXiv:2111.09832, eq. 4).

    Memory beside the model's: 4 bytes for each element of the file, which is ``in`` x ``in`` for a layer with ``in`` inputs
    if ``gram``, and the parameters if ``fisher`` (and once more for gradients).

    A run that was interrupted leaves ``TO.partial``, written every ``save_every`` texts; the same call goes on from there, to
    the same sums.

    Args:
        model: A ``Policy``, a transformers model, or the path of a model folder.
        texts: Texts (the model must then bring a tokenizer: a ``Policy`` with one, or a path), or sequences of token ids.
        to: The file to write.
        gram: Whether to keep the products of inputs.
        fisher: Whether to run backwards too.
        max_tokens: Tokens of a text that are read.
        save_every: Texts between two points to go on from.
        source: What the file says that it was measured on.
        overwrite: Replace ``to``.

    Returns:
        ``{"schema": "polmrs.collect/1", "texts", "tokens", "layers", "bytes"}``.

    Raises:
        OutputExistsError: ``to`` exists (unless ``overwrite``).
        ConfigError: No text has a token.
        NonFiniteError: A layer's input is not finite.

    >>> import tempfile, torch
    >>> from polmrs.quantize import collect
    >>> layer = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 2))
    >>> done = collect(layer, [[1, 2, 3], [4, 5]], to=f"{tempfile.mkdtemp()}/stats.safetensors")
    >>> done["texts"], done["tokens"], done["layers"]
    (2, 5, 1)
    """
    target = Path(to)
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target}: exists; overwrite=True replaces it")
    module, tokenizer = _opened(model)
    sums = _Sums(module, gram=gram, fisher=fisher)
    partial = target.with_name(target.name + ".partial")
    asked = {
        "model": _fingerprint(module),
        "source": source,
        "gram": gram,
        "fisher": fisher,
        "tokens": max_tokens,
    }
    sums.resume(partial, asked)
    for at, text in enumerate(texts):
        if at < sums.texts:
            continue
        ids = _ids(text, tokenizer)[:max_tokens]
        sums.read(ids)
        if sums.texts % save_every == 0:
            sums.keep(partial, asked)
    if not sums.tokens:
        raise ConfigError("texts: none has a token")
    tensors = sums.finished()
    about = {"schema": "polmrs.stats/1", "model": str(asked["model"]), "source": source}
    _save(tensors, target, about)
    partial.unlink(missing_ok=True)
    return {
        "schema": "polmrs.collect/1",
        "texts": sums.texts,
        "tokens": sums.tokens,
        "layers": len(sums.layers),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    }


def _opened(model: Any) -> tuple[torch.nn.Module, Any]:
    """The module, and a tokenizer if there is one."""
    if isinstance(model, str | PathLike):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = fspath(model)
        return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    tokenizer = getattr(model, "tokenizer", None)
    return getattr(model, "plain", model), tokenizer


def _ids(text: Text, tokenizer: Any) -> list[int]:
    if not isinstance(text, str):
        return [int(token) for token in text]
    if tokenizer is None:
        raise UsageError("texts: this model brings no tokenizer; pass token ids, a Policy, or a model folder")
    return list(tokenizer(text)["input_ids"])


def _fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 of the names, types and shapes of all parameters."""
    rows = sorted(f"{name} {value.dtype} {list(value.shape)}" for name, value in module.named_parameters())
    return "sha256:" + hashlib.sha256("\n".join(rows).encode()).hexdigest()


class _Sums:
    """Sums over the inputs of each layer; a layer that was not reached has none."""

    def __init__(self, module: torch.nn.Module, *, gram: bool, fisher: bool) -> None:
        import torch

        kind = torch.nn.Linear
        self.module = module
        self.layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, kind)}
        if not self.layers:
            raise CheckpointError("model: has no linear layer")
        self.gram, self.fisher = gram, fisher
        self.sums: dict[str, torch.Tensor] = {}
        self.texts = self.tokens = 0

    def read(self, ids: Sequence[int]) -> None:
        """Runs one text through the model."""
        import torch

        self.texts += 1
        if not ids:
            return
        self.tokens += len(ids)
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None
        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs, name=name: self._see(name, inputs[0]))
            for name, layer in self.layers.items()
        ]
        was_training = self.module.training
        self.module.eval()
        try:
            device = next(self.module.parameters()).device
            ids_BT = torch.tensor([list(ids)], device=device)
            with torch.enable_grad() if self.fisher else torch.inference_mode():
                output = self.module(ids_BT)
                if self.fisher and len(ids) > 1:
                    self._backward(getattr(output, "logits", output), ids_BT)
        finally:
            self.module.train(was_training)
            for hook in hooks:
                hook.remove()

    def _see(self, name: str, x: torch.Tensor) -> None:
        x_TD = x.detach().flatten(0, -2).float()
        if not bool(x_TD.isfinite().all()):
            raise NonFiniteError(f"{name}: an input of text {self.texts - 1} is not finite")
        weight = f"{name}.weight"
        self._add(f"{weight}::sumsq", x_TD.square().sum(0))
        self._add(f"{weight}::sum", x_TD.sum(0))
        self._add(f"{weight}::count", x_TD.new_tensor(len(x_TD), dtype=_int64()))
        most = x_TD.abs().amax(0)
        known = self.sums.get(f"{weight}::absmax")
        self.sums[f"{weight}::absmax"] = most if known is None else known.maximum(most)
        if self.gram:
            # q, k and v, and gate and up, read the same tensor one after the other.
            if self._last is None or self._last[0] is not x:
                self._last = (x, x_TD.T @ x_TD)
            self._add(f"{weight}::gram", self._last[1])

    def _backward(self, logits_BTV: torch.Tensor, ids_BT: torch.Tensor) -> None:
        import torch

        loss = torch.nn.functional.cross_entropy(logits_BTV[0, :-1].float(), ids_BT[0, 1:])
        wanted = [(name, value) for name, value in self.module.named_parameters() if value.requires_grad]
        found = torch.autograd.grad(loss, [value for _, value in wanted], allow_unused=True)
        for (name, _), gradient in zip(wanted, found, strict=True):
            if gradient is not None:
                self._add(f"{name}::fisher", gradient.float().square())

    def _add(self, name: str, value: torch.Tensor) -> None:
        if name in self.sums:
            self.sums[name] += value
        else:
            self.sums[name] = value.clone()

    def keep(self, path: Path, asked: dict[str, Any]) -> None:
        """Writes all sums, to go on from."""
        about = {"schema": "polmrs.stats.partial/1", "asked": json.dumps(asked, sort_keys=True)}
        _save(self.sums, path, {**about, "texts": str(self.texts), "tokens": str(self.tokens)})

    def resume(self, path: Path, asked: dict[str, Any]) -> None:
        """Takes up sums that an interrupted run of the same call has left."""
        from safetensors import safe_open

        if not path.exists():
            return
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("asked") != json.dumps(asked, sort_keys=True):
                raise OutputExistsError(f"{path}: is of another call; remove it, or repeat that call")
            self.sums = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        self.texts, self.tokens = int(about["texts"]), int(about["tokens"])

    def finished(self) -> dict[str, torch.Tensor]:
        """The tensors of the file."""
        made = {}
        for name, value in self.sums.items():
            weight, _, kind = name.rpartition("::")
            count = self.sums.get(f"{weight}::count")
            if kind == "sum" and count is not None:
                made[f"{weight}::mean"] = value / count
            elif kind == "fisher":
                made[name] = value / self.texts
            elif kind == "gram":
                made[name] = (value + value.T) / 2
            else:
                made[name] = value
        return {name: value.cpu().contiguous() for name, value in made.items()}


def _int64() -> torch.dtype:
    import torch

    return torch.int64


def _save(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Writes a file whole or not at all."""
    from safetensors.torch import save_file

    new = path.with_name(path.name + ".new")
    copies = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(copies, new, metadata=metadata)
    new.replace(path)
