r"""LoRA in a recipe: the model's weights stay, and chosen linear layers learn a product of two small matrices, by peft.

$$h = W x + \frac{\alpha}{r} B A x$$

with A [r, in] drawn and B [out, r] zero to begin with (arXiv:2106.09685, eq. 3); $$\alpha / \sqrt r$$ with ``rslora``
(arXiv:2312.03732); with ``dora`` direction and length of the rows learn apart (arXiv:2402.09353). What a run saves is
peft's folder, which ``polmrs merge base+adapter`` reads; a head that is drawn anew (scores, classes) is trained and saved whole,
and only peft loads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from polmrs.config import nearest
from polmrs.errors import ConfigError
from polmrs.models.loading import Head, Scores, StepScores, Tokens

TASKS: dict[type, str] = {Tokens: "CAUSAL_LM", Scores: "SEQ_CLS", StepScores: "TOKEN_CLS"}


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """The key ``lora`` of a recipe; defaults are peft's.

    >>> LoRA(r=16, alpha=32, targets=["q_proj", "v_proj"]).dropout
    0.0
    """

    r: int = 8
    alpha: int = 8
    dropout: float = 0.0
    targets: str | list[str] | None = None
    """The last names of linear layers; ``all-linear`` for all but the head; any other text is a regular expression on
    whole names. peft's choice for the architecture unless given, in most the paper's: the projections of queries and values."""
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        for name in ("r", "alpha"):
            if getattr(self, name) < 1:
                raise ConfigError(f"lora.{name}: {getattr(self, name)} is not 1 or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout: {self.dropout} is not in [0, 1)")

    def on(self, model: nn.Module, head: Head, seed: int) -> nn.Module:
        """The model with an adapter, which alone is trained, and the new head if it has one.

        Args:
            model: Of transformers.
            head: What the model ends in.
            seed: Of the drawn matrices.

        Raises:
            ConfigError: A target is no linear layer of the model, or peft knows none of its architecture.
        """
        from peft import LoraConfig, get_peft_model

        self._check(model)
        given: dict[str, Any] = {"r": self.r, "lora_alpha": self.alpha, "lora_dropout": self.dropout}
        given |= {"use_rslora": self.rslora, "use_dora": self.dora, "target_modules": self.targets}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                made: nn.Module = get_peft_model(model, LoraConfig(task_type=TASKS[type(head)], **given))
            except ValueError as error:
                raise ConfigError(f"lora.targets: {self.targets}: {error}") from error
        return made

    def _check(self, model: nn.Module) -> None:
        if not isinstance(self.targets, list):
            return
        from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

        linear = (nn.Linear, Conv1D)
        layers = [name for name, module in model.named_modules() if isinstance(module, linear)]
        for target in self.targets:
            if not any(name == target or name.endswith(f".{target}") for name in layers):
                known = {name.rpartition(".")[2] for name in layers}
                raise ConfigError(
                    f"lora.targets: {target!r} is no linear layer of {type(model).__name__}{nearest(target, known)}"
                )
