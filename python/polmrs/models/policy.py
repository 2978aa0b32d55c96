"""A policy: a transformers model seen through its door, asked for log-probabilities, hidden states or scores.

Everything passes ``forward`` of one module, so that what wraps a module (``fully_shard``) sees every use of a weight.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from polmrs.data.ragged import Batch
from polmrs.errors import CheckpointError, UsageError
from polmrs.models.door import Door, Packed, Padded
from polmrs.models.projection import TokenStats, token_stats

Tensor = torch.Tensor

PROBE_TOKENS = 8
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Relative, of what must be equal by construction; half precision: 0.05."""


class Policy(nn.Module):
    """A model, its tokenizer and its door. ``polmrs.load`` makes one; so does the constructor, from any model of
    transformers, or of peft around one.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> shape = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    >>> policy = Policy(LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=1, **shape)))
    >>> policy.logps(Batch.of([[1, 2, 3], [4, 5]])).shape
    torch.Size([5])
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None, *, door: Door | None = None) -> None:
        """Takes a model as it is.

        Args:
            model: ``AutoModelForCausalLM``, or ``...ForSequenceClassification`` or ``...ForTokenClassification`` for scores.
            tokenizer: Saved with the model, and used to generate text.
            door: ``Padded()`` unless given.
        """
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.door: Door = door or Padded()
        self._adapters_off = False
        self._proved: set[str] = set()
        self._noise = 0.0

    @property
    def plain(self) -> Any:
        """The transformers model, without peft's wrapper; adapters stay in its layers."""
        inner: Any = self.model
        return inner.get_base_model() if hasattr(inner, "get_base_model") else inner

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.plain.config

    @property
    def body(self) -> Any:
        """What gives hidden states: the model without its head."""
        return self.plain.base_model

    @property
    def head(self) -> nn.Module:
        """What turns hidden states into logits: of tokens, classes, or one score.

        Raises:
            UsageError: The model has none that polmrs knows.
        """
        found = self.plain.get_output_embeddings()
        for name in ("score", "classifier"):
            found = getattr(self.plain, name, None) if found is None else found
        if not isinstance(found, nn.Module):
            raise UsageError(
                f"model: {type(self.plain).__name__} has neither output embeddings nor a score head"
            )
        return found

    @property
    def context(self) -> int | None:
        """The most tokens of a sequence, where the configuration says."""
        longest = getattr(self.config, "max_position_embeddings", None)
        return int(longest) if longest else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def logps(self, batch: Batch, where: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """[T] log-probability of each token from those before it, float32 or wider; 0 where it is not asked for.

        Args:
            batch: The sequences.
            where: [T] bool, which tokens; by default those with a weight. Never the first of a sequence.
            temperature: Divides the logits.
        """
        return self.stats(batch, where, temperature=temperature).logp

    def stats(
        self,
        batch: Batch,
        where: Tensor | None = None,
        *,
        temperature: float = 1.0,
        with_mean: bool = False,
        with_entropy: bool = False,
    ) -> TokenStats:
        """Log-probabilities and, on demand, what label smoothing and entropy terms need; each [T]."""
        given = {"scale": 1 / temperature, "with_mean": with_mean, "with_entropy": with_entropy}
        out: tuple[Tensor, Tensor, Tensor] = self("stats", batch, where, given)
        return TokenStats(*out)

    def hidden(self, batch: Batch) -> Tensor:
        """[T, D] last hidden states."""
        out: Tensor = self("hidden", batch, None, {})
        return out

    def scores(self, batch: Batch, at: Tensor | None = None) -> Tensor:
        """[n, outputs] of the head, float32 or wider, at tokens ``at`` [n]; by default at ``batch.ends``.

        The head of an encoder (a ``classifier`` behind a pooler) is read once a sequence, as its model does.
        """
        out: Tensor = self("scores", batch, at, {})
        return out

    def forward(self, what: str, batch: Batch, where: Tensor | None, given: dict[str, Any]) -> Any:
        """The one doorway; call the methods above instead."""
        self._check(batch)
        with self._frozen_state():
            self._prove(what, batch)
            if what == "scores":
                return self._scores(batch, where)
            hidden = self._hidden(batch)
            return hidden if what == "hidden" else self._stats(hidden, batch, where, given)

    def frozen(self) -> Frozen:
        """This policy as it is now, without gradients: a reference.

        Under adapters of peft it is the same model with the adapters off, and costs nothing; otherwise a copy of the weights.
        """
        if hasattr(self.model, "disable_adapter"):
            same = Frozen(self.model, self.tokenizer, door=self.door)
            same._adapters_off = True
            return same
        model = copy.deepcopy(self.model).requires_grad_(False)
        return Frozen(model, self.tokenizer, door=self.door)

    @contextmanager
    def embedding_noise(self, alpha: float) -> Iterator[None]:
        r"""NEFTune (arXiv:2310.05914): inside, embeddings get noise from $$U(-1, 1) \cdot \alpha / \sqrt{L D}$$.

        L is the sequence's own length, whatever it is padded to.
        """
        self._noise = alpha
        try:
            yield
        finally:
            self._noise = 0.0

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Inside: no gradients, no dropout; training mode is as it was afterwards."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with torch.no_grad(), self._frozen_state():
                yield
        finally:
            for module in training:
                module.training = True

    def _frozen_state(self) -> Any:
        return nullcontext()

    def _hidden(self, batch: Batch, door: Door | None = None) -> Tensor:
        embeds = None
        if self._noise and self.training:
            embeds = self.plain.get_input_embeddings()(batch.ids)
            size = (self._noise / (batch.lengths * embeds.shape[1]).sqrt())[batch.sequence, None]
            embeds = embeds + (torch.rand_like(embeds) * 2 - 1) * size.to(embeds.dtype)
        hidden = (door or self.door)(self.body, batch, embeds)
        kind = hidden.device.type
        return hidden.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden

    def _stats(self, hidden: Tensor, batch: Batch, where: Tensor | None, given: dict[str, Any]) -> TokenStats:
        at = (batch.weights != 0 if where is None else where).nonzero()[:, 0]
        if where is not None and bool(torch.isin(batch.cu_seqlens[:-1].long(), at).any()):
            raise UsageError("where: it has the first token of a sequence, which nothing predicts")
        found = self._project(hidden[at - 1], batch.ids[at], given)
        return TokenStats(*(part.new_zeros(len(batch.ids)).index_put((at,), part) for part in found))

    def _project(self, hidden: Tensor, targets: Tensor, given: dict[str, Any]) -> TokenStats:
        head: Any = self.head
        scale, softcap = logit_form(self.config)
        given = given | {"scale": given.get("scale", 1.0) * scale, "softcap": softcap}
        if softcap is not None and given["scale"] != scale:
            raise UsageError("temperature: not for a model with capped logits")
        if type(head) is nn.Linear:
            return token_stats(hidden, head.weight, targets, bias=head.bias, **given)
        return TokenStats(*checkpoint(_through, head, hidden, targets, given, use_reentrant=False))

    def _scores(self, batch: Batch, at: Tensor | None) -> Tensor:
        if hasattr(self.plain, "classifier") and at is None and not hasattr(self.plain, "score"):
            rows = batch.padded()
            logits: Tensor = self.plain(input_ids=rows.ids, attention_mask=rows.attention.long()).logits
        else:
            hidden = self._hidden(batch)[batch.ends if at is None else at]
            logits = self.head(hidden)
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits

    def _check(self, batch: Batch) -> None:
        longest = self.context
        if longest is not None and int(batch.lengths.max()) > longest:
            row = int(batch.lengths.argmax())
            raise UsageError(
                f"sequence {row}{batch.named(int(batch.example[row]))}: {int(batch.lengths[row])} tokens, but the "
                f"model's context (max_position_embeddings) is {longest}; cut it or drop it"
            )

    @torch.no_grad()
    def _prove(self, what: str, batch: Batch) -> None:
        """At first use: a packed pair's hidden states equal the padded ones; the head gives the model's own logits."""
        claims = {"packed"} if isinstance(self.door, Packed) else set()
        claims |= {"head"} if what == "stats" else set()
        if claims <= self._proved:
            return
        n = min(PROBE_TOKENS, self.context or PROBE_TOKENS)
        ids = batch.ids[: 2 * n - 3] if len(batch.ids) > 5 else batch.ids.repeat(6)[: 2 * n - 3]
        probe = Batch.of([ids[: n // 2].cpu(), ids[n // 2 :].cpu()]).to(batch.ids.device)
        training = {name: module.training for name, module in self.named_modules()}
        self.eval()
        try:
            padded = self._hidden(probe, Padded())
            if "packed" in claims - self._proved:
                self._same("packed", self._hidden(probe, Packed()), padded)
            if "head" in claims - self._proved:
                rows = probe.padded()
                full = self.plain(
                    input_ids=rows.ids, attention_mask=rows.attention.long(), use_cache=False
                ).logits
                wide = torch.promote_types(full.dtype, torch.float32)
                logp = full.to(wide).log_softmax(-1).flatten(0, 1)[rows.place]
                at = probe.weights.nonzero()[:, 0]
                ours = self._stats(padded, probe, None, {}).logp[at]
                self._same("head", ours, logp[at - 1].gather(1, probe.ids[at, None])[:, 0])
        finally:
            for name, module in self.named_modules():
                module.training = training[name]

    def _same(self, claim: str, ours: Tensor, theirs: Tensor) -> None:
        if not bool(torch.isfinite(theirs).all()):
            return  # nothing to compare; the loss will say so
        allowed = TOLERANCE.get(theirs.dtype, 0.05)
        if torch.is_autocast_enabled(theirs.device.type) or self.plain.dtype not in TOLERANCE:
            allowed = 0.05
        off = float((ours - theirs).abs().max() / theirs.abs().max())
        if not off <= allowed:
            what = {
                "packed": "packed hidden states differ from padded ones; use door=Padded()",
                "head": HEAD,
            }[claim]
            raise CheckpointError(
                f"model: {type(self.plain).__name__}: {what} (by {off:.1e}, {allowed:.0e} is allowed)"
            )
        self._proved.add(claim)


HEAD = "its logits are not those of its head on its last hidden states"


class Frozen(Policy):
    """A policy that never changes: no gradients, no dropout, adapters off where there are any."""

    def _frozen_state(self) -> Any:
        return self._quiet()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        adapters: Any = (
            getattr(self.model, "disable_adapter", nullcontext) if self._adapters_off else nullcontext
        )
        try:
            with torch.no_grad(), adapters():
                yield
        finally:
            for module in training:
                module.training = True

    def frozen(self) -> Self:
        """Itself."""
        return self


def logit_form(config: Any) -> tuple[float, float | None]:
    """The factor of a model's logits and their soft cap, by its configuration."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = getattr(text, "logit_scale", None) or 1 / (getattr(text, "logits_scaling", None) or 1)
    return float(scale), getattr(text, "final_logit_softcapping", None)


def _through(head: nn.Module, hidden: Tensor, targets: Tensor, given: dict[str, Any]) -> tuple[Tensor, ...]:
    """Any other head, such as one with an adapter: its logits whole, computed again in the backward pass."""
    z = head(hidden)
    z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
    z = z * given["scale"]
    if given["softcap"] is not None:
        z = given["softcap"] * torch.tanh(z / given["softcap"])
    logp = z.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1) if given.get("with_entropy") else logp.new_zeros(len(logp))
    return logp.gather(1, targets[:, None])[:, 0], logp.mean(-1), entropy
