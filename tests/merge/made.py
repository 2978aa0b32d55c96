"""Made data for the tests of merging: tensors of every awkward kind, model folders, and how far apart results lie."""

import json
import zlib
from pathlib import Path

import numpy as np
import polmrs.merge as pm
import torch
from safetensors.torch import load_file, save_file

SIZES = [1, 7, 1000, 65_536, 2 * 65_536 + 12_345]
KINDS = ["continuous", "tied", "sparse"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


def fine_tunes(kind, size, count=3, dtype=torch.float32):
    """A base and ``count`` models of it.

    ``continuous`` deltas are all different, ``tied`` ones have a handful of magnitudes, ``sparse`` ones are mostly zero
    (and so is the base here and there).
    """
    random = np.random.default_rng(zlib.crc32(f"{kind} {size} {count} {dtype}".encode()))
    base = random.normal(size=size)
    deltas = random.normal(size=(count, size)) / 4
    if kind == "tied":
        base, deltas = np.round(base * 4) / 4, np.round(deltas * 4) / 4
    if kind == "sparse":
        base *= random.random(size) < 0.5
        deltas *= random.random((count, size)) < 0.1
    return torch.tensor(base).to(dtype), [torch.tensor(base + delta).to(dtype) for delta in deltas]


def merged(method, models, base=None, **options):
    """One tensor, merged in memory."""
    named = {f"m{at}": {"w": model} for at, model in enumerate(models)}
    return pm.merge(named, base=None if base is None else {"w": base}, method=method, **options)["w"]


def floats(*tensors):
    """Tensors as flat float32 arrays."""
    return [tensor.float().numpy().reshape(-1) for tensor in tensors]


def same_bits(a, b):
    """Whether two tensors have the same type, shape and bits."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def ulps(a, b):
    """How many numbers of their type lie between the elements of two tensors; 0 and -0 are one number."""
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32}[a.element_size()]

    def rank(x):
        bits = x.view(integer).long()
        return torch.where(bits < 0, -(bits & torch.iinfo(integer).max), bits)

    return (rank(a) - rank(b)).abs()


def folder(path, tensors, *, config=None, **files):
    """A model folder: weights in one file, a config, and other files by name (dots written as ``__``)."""
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} if config is None else config
    (path / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


def weights(path):
    """Every tensor of a model folder, whatever its shards."""
    found = {}
    for shard in sorted(Path(path).glob("*.safetensors")):
        found |= load_file(shard)
    return found


def assert_close(a, b, magnitude):
    """Within one number of their type, or within rounding of the ``magnitude`` that was added up to them."""
    far = (ulps(a, b) > 1) & ((a.float() - b.float()).abs() > 1e-6 * torch.as_tensor(magnitude))
    assert not far.any(), f"element {int(far.nonzero()[0])}: {a[far][0]} and {b[far][0]}"


def statistics(path, tensors):
    """A statistics file with these tensors, ``weight::statistic`` by name."""
    save_file(tensors, path, metadata={"schema": "polmrs.stats/1", "model": "made", "source": "made"})
    return path
