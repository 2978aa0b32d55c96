"""Held-out loss of a model on each text, kept per sequence so that two models can be compared in pairs.

The mean difference d of two models over n sequences has the standard error std(d_i, ddof=1) / sqrt(n). Both
models read the same sequences, so what makes a sequence hard for both of them cancels.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import corpora
from stage import source


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the held-out passages are read: one sequence of `length` tokens each, `batch` at a time."""

    length: int = 128
    batch: int = 4


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of the paired differences, and its standard error."""

    mean: float
    standard_error: float


def inputs(model_key: str, texts: Sequence[corpora.Corpus], reading: Reading) -> dict[str, Any]:
    """Give what an evaluation depends on."""
    return {
        "code": source(__file__),
        "model": model_key,
        "texts": [corpus.inputs() for corpus in texts],
        "reading": asdict(reading),
        "torch": metadata.version("torch"),
        "transformers": metadata.version("transformers"),
    }


def losses(model: Path, texts: Sequence[corpora.Corpus], reading: Reading) -> dict[str, list[float]]:
    """Give the mean loss of each held-out sequence, in nats per predicted token, by the name of its text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    result: dict[str, list[float]] = {}
    for corpus in texts:
        ids_BT = torch.tensor(corpora.sequences(corpus.held_out, tokenizer, length=reading.length))
        result[corpus.name] = []
        for batch_BT in torch.split(ids_BT, reading.batch):
            with torch.inference_mode():
                logits_BTV = network(input_ids=batch_BT, use_cache=False).logits[:, :-1]
                loss_BT = torch.nn.functional.cross_entropy(
                    logits_BTV.transpose(1, 2), batch_BT[:, 1:], reduction="none"
                )
            result[corpus.name] += loss_BT.mean(dim=1).tolist()
    return result


def difference(model: Sequence[float], base: Sequence[float]) -> Difference:
    """Compare two lists of losses of the same sequences in the same order."""
    pairs = [m - b for m, b in zip(model, base, strict=True)]
    standard_error = statistics.stdev(pairs) / len(pairs) ** 0.5
    return Difference(mean=statistics.fmean(pairs), standard_error=standard_error)
