"""What codes do to search: the share of the ten nearest passages that a quantized encoder still finds.

The encoder is MiniLM, the passages are of the documentation of Python, and each asks for those nearest to it among the others.
The true ten are those of the encoder in full precision.
"""

import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "rag_pydoc"))  # last: it has a run.py too

import minilm
import neighbours
import numpy as np
from schemes import Quantizer, weights_size
from stage import Stage, digest, source, stage

PASSAGES, TOKENS, SEED = 400, 64, 0


def full(work: Path, at: str) -> Stage:
    """The encoder's vectors, and the size of its weights."""
    folder = minilm.encoder()

    def build(out: Path) -> dict[str, Any]:
        out.mkdir(parents=True)
        np.save(out / "vectors.npy", vectors(folder, passages(folder)))
        return {"bytes": weights_size(folder)}

    return stage(work, at, _inputs(), build)


def recall(work: Path, at: str, said: Sequence[str], quantizer: Quantizer, true: Stage) -> Mapping[str, Any]:
    """Recall of the encoder in a scheme, and its size."""
    folder = minilm.encoder()

    def build(out: Path) -> dict[str, Any]:
        out.mkdir(parents=True)
        dense = out / "dense"
        told = quantizer.dense(folder, dense, said)
        found = neighbours.nearest(vectors(dense, passages(folder)))
        shutil.rmtree(dense)
        return {
            "recall": neighbours.shared(found, neighbours.nearest(np.load(true.folder / "vectors.npy"))),
            "bytes": told["bytes"],
        }

    return stage(work, at, {"codes": quantizer.inputs(true.key, said), **_inputs()}, build).facts


def passages(encoder: Path) -> list[str]:
    """Some of all passages, no two alike."""
    from pydoc_data.topics import topics

    from polmrs import rag
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    cut = [
        chunk.text.strip()
        for name in sorted(topics)
        for chunk in rag.chunks(topics[name], TOKENS, tokenizer=tokenizer)
    ]
    return random.Random(SEED).sample(list(dict.fromkeys(cut)), PASSAGES)


def vectors(encoder: Path, texts: Sequence[str]) -> Any:
    """[n, dim] of length 1."""
    from polmrs import rag

    return rag.Embedder(encoder, pooling="mean", normalize=True)(texts)


def _inputs() -> dict[str, Any]:
    from pydoc_data.topics import topics

    text = "\0".join(topics[name] for name in sorted(topics))
    code = [source(file) for file in (__file__, neighbours.__file__)]
    return {
        "code": code,
        "polmrs": metadata.version("polmrs"),
        "encoder": minilm.SHA256,
        "texts": digest(text.encode()),
    }
