"""Checkpoints that the benchmarks merge, made from random numbers once and kept in `.bench/`.

    python benches/checkpoints.py        # makes all of them: 11 GB, a minute or two

A base holds w ~ N(0, 0.02) in bfloat16; a fine-tune of it w + d with d ~ N(0, 1e-3), rounded to bfloat16. (Real
fine-tunes move less: at d ~ N(0, 1e-4) most bfloat16 weights stay as they are, and what moves ties in magnitude.)

| checkpoint | tensors | what for |
|---|---|---|
| LLAMA | those of a Llama of 506 M parameters, base + 3 | time, equality with the peer, memory |
| LARGE | one of 2 GB, base + 2; its content repeats every 32 MB | memory of a tensor larger than the buffers |
| holes | those of a Llama of 7 billion, all zero, in files without blocks | memory of a model larger than it |
| MANY | 2,000 small ones of four shapes, base + 3 | memory where tensors are many |
| CROWD | 20,000 of 256 to 16,384 elements, base + 3 | time where tensors are many |
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HOME = Path(__file__).resolve().parents[1] / ".bench"

Bits = NDArray[np.uint16]
Shapes = Mapping[str, tuple[int, ...]]

CHUNK = 1 << 24  # elements made at a time

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}


def llama(config: Mapping[str, int]) -> Shapes:
    """Name every tensor of a Llama, in the order of its layers."""
    hidden, inter, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width, kv_width = heads * config["head_dim"], kv_heads * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        parts: Shapes = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (width, hidden),
            "self_attn.k_proj": (kv_width, hidden),
            "self_attn.v_proj": (kv_width, hidden),
            "self_attn.o_proj": (hidden, width),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (inter, hidden),
            "mlp.up_proj": (inter, hidden),
            "mlp.down_proj": (hidden, inter),
        }
        shapes |= {f"model.layers.{layer}.{part}.weight": shape for part, shape in parts.items()}
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A base and its fine-tunes, before they are on the disk."""

    folder: str
    fine_tunes: int
    shapes: Shapes
    repeats: bool = (
        False  # every chunk of a tensor has the numbers of its first: quick to make, and still dense
    )

    @property
    def elements(self) -> int:
        """How many parameters one model has."""
        return sum(map(math.prod, self.shapes.values()))

    def models(self) -> list[Path]:
        """The folders of base and fine-tunes, made if they are not there yet."""
        home = HOME / self.folder
        names = ["base", *(f"tune{number}" for number in range(1, self.fine_tunes + 1))]
        if not home.is_dir():
            print(f"making {home}: {len(names)} models of {self.elements:,} parameters", flush=True)
            partial = home.with_name(f"{self.folder}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            for name in names:
                (partial / name).mkdir(parents=True)
            write([partial / name for name in names], self)
            partial.rename(home)
        return [home / name for name in names]


LLAMA = Checkpoint(
    folder="llama-506m",
    fine_tunes=3,
    shapes=llama({key: value for key, value in CONFIG.items() if isinstance(value, int)}),
)
LARGE = Checkpoint(folder="one-2gb", fine_tunes=2, shapes={"model.weight": (32768, 32768)}, repeats=True)
MANY = Checkpoint(
    folder="many-2000",
    fine_tunes=3,
    shapes={
        f"model.{at:04}.weight": [(256,), (64, 64), (256, 256), (200, 400)][at % 4] for at in range(2000)
    },
)
CROWD = Checkpoint(
    folder="crowd-20000",
    fine_tunes=3,
    shapes={f"model.{at:05}.weight": [(256,), (64, 64), (128, 128)][at % 3] for at in range(20_000)},
)


def holes(folder: str, count: int) -> list[Path]:
    """Give the folders of models of 7 billion parameters, all zero, in files of holes that take no space."""
    shapes = llama(
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "vocab_size": 32000,
        }
    )
    header = safetensors_header(shapes)
    models = [HOME / folder / f"model{number}" for number in range(count)]
    for model in models:
        model.mkdir(parents=True, exist_ok=True)
        with (model / "model.safetensors").open("wb") as file:
            file.write(header)
            file.truncate(len(header) + 2 * sum(map(math.prod, shapes.values())))
    return models


def write(folders: list[Path], checkpoint: Checkpoint) -> None:
    """Write all models side by side, so that no more than a chunk of each is in memory."""
    rng = np.random.Generator(np.random.SFC64(20260101))
    header = safetensors_header(checkpoint.shapes)
    with ExitStack() as stack:
        files = [stack.enter_context((folder / "model.safetensors").open("wb")) for folder in folders]
        for file in files:
            file.write(header)
        for shape in checkpoint.shapes.values():
            for models in chunks(rng, math.prod(shape), len(files), repeats=checkpoint.repeats):
                for file, bits in zip(files, models, strict=True):
                    file.write(bits.data)
    for folder in folders:
        (folder / "config.json").write_text(json.dumps(CONFIG, indent=2))
        for name, content in tokenizer().items():
            (folder / name).write_text(json.dumps(content, indent=2))


def chunks(
    rng: np.random.Generator, elements: int, models: int, *, repeats: bool
) -> Iterator[tuple[Bits, ...]]:
    """Give the bits of one tensor, a chunk of every model at a time."""
    made: tuple[Bits, ...] = ()
    for start in range(0, elements, CHUNK):
        count = min(CHUNK, elements - start)
        if not made or not repeats:
            base = narrow(rng.standard_normal(count, np.float32) * np.float32(0.02))
            tunes = (
                narrow(wide(base) + rng.standard_normal(count, np.float32) * np.float32(1e-3))
                for _ in range(models - 1)
            )
            made = (base, *tunes)
        yield tuple(bits[:count] for bits in made)


def narrow(x: NDArray[np.float32]) -> Bits:
    """Round finite float32 to the bits of bfloat16, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def wide(bits: Bits) -> NDArray[np.float32]:
    """Widen the bits of bfloat16 to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def safetensors_header(shapes: Shapes) -> bytes:
    """Lay out bfloat16 tensors in the order of their names here."""
    offset = 0
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read(folder: Path) -> dict[str, Bits]:
    """Map the bfloat16 tensors of a model folder, in one file or many."""
    found: dict[str, Bits] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        data = np.memmap(path, np.uint8, "r", offset=8 + length)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "BF16":
                raise ValueError(f"{path}: '{name}' is {entry['dtype']}, not BF16")
            first, end = entry["data_offsets"]
            found[name] = data[first:end].view(np.uint16)
    return found


def tokenizer() -> dict[str, object]:
    """The files of the smallest tokenizer that transformers, and so mergekit, will load."""
    special = ["<unk>", "<s>", "</s>"]
    words = [*special, *(f"w{number}" for number in range(61))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": at, "content": token, **flags} for at, token in enumerate(special)],
            "normalizer": None,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": None,
            "decoder": None,
            "model": {
                "type": "WordLevel",
                "vocab": {word: at for at, word in enumerate(words)},
                "unk_token": "<unk>",
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
        },
    }


if __name__ == "__main__":
    for checkpoint in (LLAMA, LARGE, MANY):
        checkpoint.models()
