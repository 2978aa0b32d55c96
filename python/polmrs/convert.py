"""``convert``: a checkpoint of pickles to safetensors, without running what the pickles say.

torch reads the files with ``weights_only=True``, which builds tensors and containers and refuses everything else, and
maps them into memory, so about one output file is held at a time.
"""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polmrs.errors import CheckpointError, NotFoundError, OutputExistsError, UsageError

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TRAINING = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state")
_OTHER_WEIGHTS = (".safetensors", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".index.json")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_HEADS = ("lm_head.weight", "output.weight")


def convert(
    source: str | PathLike[str], *, to: str | PathLike[str], shard_size: int = 5_000_000_000
) -> dict[str, Any]:
    """Writes the tensors of ``source``, a model folder or one file of a state dict, as safetensors into the folder ``to``.

    A folder's config, tokenizer and other small files go along; the names ``adapter_model.*`` of a peft adapter stay.
    Tensors that share memory become copies, but for an output head that is the input embedding, which is left out where
    the config does not say that they are apart. ``to`` appears whole at the end, or not at all. Memory: about
    ``shard_size`` bytes (a file in torch's format of before 1.6 is read whole).

    Returns ``{"schema": "polmrs.convert/1", "to", "tensors", "bytes", "files", "tied"}``, where ``tied`` is each name
    left out and the one that stands for it. Raises ``NotFoundError`` where there is no pickle, ``CheckpointError`` for
    one that holds more than tensors, ``OutputExistsError`` if ``to`` exists.
    """
    source, out = Path(source), Path(to)
    if shard_size < 1:
        raise UsageError(f"shard_size: {shard_size} is not at least 1")
    if out.exists() or out.is_symlink():
        raise OutputExistsError(f"{out}: is there already; give another folder")
    files = _files(source)
    tensors = _load(files)
    tied = _tied(tensors, source if source.is_dir() else source.parent)
    for name in tied:
        del tensors[name]
    stem = "adapter_model" if files[0].name.startswith("adapter_model.") else "model"
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{out.name}.", suffix=".partial", dir=out.parent))
    try:
        written = _write(tensors, partial, stem, shard_size)
        if source.is_dir():
            _copy_sidecars(source, partial)
        partial.chmod(0o755)  # a temporary folder is private, a model is not
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return {
        "schema": "polmrs.convert/1",
        "to": fspath(out),
        "tensors": len(tensors),
        "bytes": sum(tensor.nbytes for tensor in tensors.values()),
        "files": written,
        "tied": tied,
    }


def _files(source: Path) -> list[Path]:
    """The pickles of a model: those of its index, else the usual name, else the only one."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise NotFoundError(f"{source}: no such file or folder")
    index = source / "pytorch_model.bin.index.json"
    if index.is_file():
        shards = sorted(set(_weight_map(index).values()))
        if any("/" in shard or "\\" in shard or shard.startswith(".") for shard in shards):
            raise CheckpointError(f"{index}: a shard lies beside its index, so its name is a plain file name")
        missing = [shard for shard in shards if not (source / shard).is_file()]
        if missing:
            raise NotFoundError(f"{source}: shard {missing[0]!r} of the index is missing")
        return [source / shard for shard in shards]
    found = [
        path
        for path in sorted(source.iterdir())
        if path.suffix in _PICKLES and not path.name.startswith(_TRAINING)
    ]
    usual = [path for path in found if path.name in ("pytorch_model.bin", "adapter_model.bin")]
    if len(usual or found) > 1:
        raise CheckpointError(
            f"{source}: holds {', '.join(path.name for path in usual or found)}; name one of them"
        )
    if not found:
        raise NotFoundError(f"{source}: holds no {', '.join(_PICKLES)} file of tensors")
    return usual or found


def _weight_map(index: Path) -> dict[str, str]:
    mapped = _json(index).get("weight_map")
    if (
        not isinstance(mapped, dict)
        or not mapped
        or not all(isinstance(shard, str) for shard in mapped.values())
    ):
        raise CheckpointError(f"{index}: weight_map: not names of tensors and of files")
    return mapped


def _json(file: Path) -> dict[str, Any]:
    """An object in a JSON file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return value


def _load(files: list[Path]) -> Tensors:
    tensors: Tensors = {}
    for file in files:
        for name, tensor in _state_dict(file).items():
            if name in tensors:
                raise CheckpointError(f"{file}: tensor {name!r} is in an earlier file too")
            tensors[name] = tensor
    if not tensors:
        raise CheckpointError(f"{files[0]}: holds no tensor")
    return tensors


def _state_dict(file: Path) -> Tensors:
    """The tensors of one pickle; one wrapped as ``{"state_dict": tensors, ...}`` is unwrapped."""
    loaded = _unpickle(file)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{file}: holds a {type(loaded).__name__}, not a dict of tensors")
    for wrapper in _WRAPPERS:
        if isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    import torch

    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{file}: {name!r} is a {type(value).__name__}, not a tensor")
        if value.layout is not torch.strided or value.is_quantized:
            raise CheckpointError(
                f"{file}: tensor {name!r} is sparse or quantized, which safetensors does not hold"
            )
    return {name: value.detach() for name, value in loaded.items()}


def _unpickle(file: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise UsageError("convert: needs torch and safetensors: pip install 'polmrs[train]'") from None
    with file.open("rb") as opened:
        zipped = opened.read(4) == b"PK\x03\x04"  # torch's format since 1.6; older ones cannot be mapped
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{file}: not a file of tensors alone, so it was not loaded: {reason}"
        ) from None


def _tied(tensors: Tensors, folder: Path) -> dict[str, str]:
    """Output heads that are the very memory of another tensor, and that tensor's name."""
    config = folder / "config.json"
    if config.is_file() and _json(config).get("tie_word_embeddings") is False:
        return {}
    tied = {}
    for name, tensor in tensors.items():
        if name.endswith(_HEADS):
            twins = (other for other in tensors if other != name and _same_memory(tensors[other], tensor))
            twin = next(twins, None)
            if twin is not None:
                tied[name] = twin
    return tied


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    same_form = (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
    return same_form and a.numel() > 0 and a.data_ptr() == b.data_ptr()


def _write(tensors: Tensors, folder: Path, stem: str, shard_size: int) -> list[str]:
    """Writes the files and, where there are several, their index; gives the files' names."""
    from safetensors.torch import save_file

    shards = list(_shards(tensors, shard_size))
    files = [f"{stem}.safetensors"]
    if len(shards) > 1:
        files = [f"{stem}-{at + 1:05}-of-{len(shards):05}.safetensors" for at in range(len(shards))]
        total = sum(tensor.nbytes for tensor in tensors.values())
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(
            json.dumps(index, indent=2) + "\n", encoding="utf-8"
        )
    for file, names in zip(files, shards, strict=True):
        own = {name: tensors[name].contiguous().clone() for name in names}
        save_file(own, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
    return files


def _shards(tensors: Tensors, shard_size: int) -> Iterator[list[str]]:
    """The names in order, in runs of at most ``shard_size`` bytes, but for a tensor that is larger by itself."""
    names: list[str] = []
    held = 0
    for name, tensor in tensors.items():
        if names and held + tensor.nbytes > shard_size:
            yield names
            names, held = [], 0
        names.append(name)
        held += tensor.nbytes
    yield names


def _copy_sidecars(source: Path, folder: Path) -> None:
    """Copies what lies beside the weights, but for other weights and hidden files."""
    for path in sorted(source.iterdir()):
        weights = path.name.endswith((*_PICKLES, *_OTHER_WEIGHTS))
        if path.is_file() and not weights and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)
