"""Models of transformers as policies, and back into folders that transformers loads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from polmrs.errors import CheckpointError, NotFoundError, OutputExistsError, UsageError
from polmrs.models.door import Door
from polmrs.models.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The head of a language model.

    >>> Tokens()
    Tokens()
    """


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A linear head that is read once a sequence: one output for a reward, C for classes.

    >>> Scores(outputs=3).outputs
    3
    """

    outputs: int = 1


@dataclass(frozen=True, kw_only=True)
class StepScores:
    """A linear head that is read at chosen tokens: the ends of steps of a process reward model.

    >>> StepScores().outputs
    2
    """

    outputs: int = 2


Head: TypeAlias = Tokens | Scores | StepScores


def load(
    model: str | os.PathLike[str],
    *,
    head: Head | None = None,
    dtype: torch.dtype | None = torch.float32,
    door: Door | None = None,
    attention: str | None = None,
    seed: int = 0,
) -> Policy:
    """A policy from a folder or a name of the Hugging Face Hub. safetensors only; no code of the model's runs.

    A folder of quantized weights, in any format that ``polmrs.merge`` reads, is loaded as the dense weights that its codes
    stand for; they are written to a temporary folder for the time of loading.

    Args:
        model: The folder or name.
        head: ``Tokens()`` unless given. A head that the checkpoint lacks is drawn anew, from ``seed``.
        dtype: Of the weights; None for the checkpoint's own. Training wants float32 here and ``precision="bf16"`` there.
        door: ``Padded()`` unless given.
        attention: An implementation of transformers, such as ``flash_attention_2``; its own choice unless given.
        seed: Of a new head.

    Raises:
        NotFoundError: There is no such model.
        CheckpointError: It cannot be read, or lacks weights other than the head's.

    >>> load("/nowhere")
    Traceback (most recent call last):
    ...
    polmrs.errors.NotFoundError: model: /nowhere is no folder with a config.json
    """
    name = os.fspath(model)
    if Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1 or Path(name).is_dir():
        _expect_model(Path(name))
    head = head or Tokens()
    kind, asked = auto_class(head)
    try:
        with torch.random.fork_rng(devices=[]), _dense(name) as folder:
            torch.manual_seed(seed)
            made, report = kind.from_pretrained(
                folder,
                dtype="auto" if dtype is None else dtype,
                attn_implementation=attention,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **asked,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"model: {name}: {error}") from error
    missing = [
        key for key in report["missing_keys"] if not key.startswith(("score.", "classifier.", "pooler."))
    ]
    if missing or (report["missing_keys"] and isinstance(head, Tokens)):
        keys = sorted(missing or report["missing_keys"])
        raise CheckpointError(f"model: {name} lacks {len(keys)} weights, {keys[0]} the first")
    # What an adapter names as its base: not the folder that dense weights of a quantized checkpoint passed through.
    made.name_or_path = made.config.name_or_path = name
    return Policy(made, tokenizer(name), door=door)


def auto_class(head: Head) -> tuple[Any, dict[str, Any]]:
    """The class of transformers that has such a head, and what its configuration says of it."""
    import transformers as hf

    kind: Any = {
        Tokens: hf.AutoModelForCausalLM,
        Scores: hf.AutoModelForSequenceClassification,
        StepScores: hf.AutoModelForTokenClassification,
    }[type(head)]
    return kind, {} if isinstance(head, Tokens) else {"num_labels": head.outputs}


def tokenizer(name: str) -> Any:
    """The tokenizer beside a model, or None where there is none."""
    import transformers as hf

    folder = Path(name)
    if folder.is_dir() and not any((folder / file).exists() for file in TOKENIZER_FILES):
        return None
    try:
        return hf.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"model: the tokenizer of {name}: {error}") from error


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def save(
    policy: Policy,
    to: str | os.PathLike[str],
    *,
    weights: dict[str, torch.Tensor] | None = None,
    overwrite: bool = False,
) -> None:
    """The model (or adapter) and tokenizer as transformers (or peft) loads them; the folder appears whole or not at all.

    Args:
        policy: What to save.
        to: The folder.
        weights: The model's state dict, where it is not in the policy itself: gathered from shards, or averaged.
        overwrite: Whether the folder may be there already.

    Raises:
        OutputExistsError: It is there, and ``overwrite`` is not set.
    """
    out = Path(to)
    if out.exists() and not overwrite:
        raise OutputExistsError(f"to: {out} is there already; pass overwrite=True, or another folder")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    model: Any = policy.model
    if getattr(policy.plain.config, "pad_token_id", None) is None and policy.tokenizer is not None:
        policy.plain.config.pad_token_id = (
            policy.tokenizer.pad_token_id
        )  # where transformers looks for a sequence's end
    model.save_pretrained(partial, state_dict=weights)
    (partial / "README.md").unlink(missing_ok=True)  # peft's card, a form that nobody has filled in
    if policy.tokenizer is not None:
        policy.tokenizer.save_pretrained(partial)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)


@contextmanager
def _dense(name: str) -> Iterator[str]:
    """Where the model's dense weights are: there, or in a folder that is gone afterwards."""
    file = Path(name) / "config.json"
    if not file.is_file() or "quantization_config" not in json.loads(file.read_text(encoding="utf-8")):
        yield name
        return
    from polmrs.merge import Passthrough, merge

    with tempfile.TemporaryDirectory(prefix="polmrs-dense-") as home:
        merge([name], method=Passthrough(), to=Path(home) / "model")
        yield str(Path(home) / "model")


def _expect_model(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise NotFoundError(f"model: {folder} is no folder with a config.json")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"model: {folder / 'config.json'}: {error}") from error
    if (folder / "adapter_config.json").is_file():
        raise UsageError(f"model: {folder} is an adapter; load its base, then peft.PeftModel.from_pretrained")
