"""``quantize``: from a model to a folder that other runtimes load."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, TypeAlias

from polmrs import _core
from polmrs.quantize.format import Format
from polmrs.quantize.schemes import RTN
from polmrs.quantize.setting import Method, Scheme

Progress: TypeAlias = Callable[[int, int], object]
"""Called a few times a second with (done, total), in bytes."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """As the native half takes it."""

    source: str
    scheme: str
    method: str
    format: str | None
    exclude: list[str]
    rules: list[str]
    compat: bool
    stats: str | None


def _asked(
    model: str | PathLike[str],
    scheme: Scheme,
    method: Method | None,
    format: Format | None,
    rules: Mapping[str, Scheme | None] | None,
    exclude: Sequence[str],
    compat: bool,
    stats: str | PathLike[str] | None,
) -> _Asked:
    ruled = (rules or {}).items()
    return _Asked(
        source=fspath(model),
        scheme=str(scheme),
        method=str(method or RTN()),
        format=format,
        exclude=list(exclude),
        rules=[f"{pattern}={'none' if other is None else other}" for pattern, other in ruled],
        compat=compat,
        stats=None if stats is None else fspath(stats),
    )


def quantize(
    model: str | PathLike[str],
    *,
    scheme: Scheme,
    to: str | PathLike[str],
    method: Method | None = None,
    format: Format | None = None,
    rules: Mapping[str, Scheme | None] | None = None,
    exclude: Sequence[str] = (),
    compat: bool = False,
    stats: str | PathLike[str] | None = None,
    threads: int | None = None,
    shard_size: int = 5_000_000_000,
    overwrite: bool = False,
    resume: bool = False,
    sync_every: int = 1 << 28,
    verify: bool = False,
    report: bool = False,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Quantizes the linear layers of a model into a folder that other runtimes load.

    Embeddings, the output layer and the routers of experts stay as they are unless a rule names them. The work streams:
    memory is a few blocks of rows for each thread, whatever the model. The same input gives the same bits for any number of
    threads.

    Args:
        model: A folder, a .safetensors file, ``org/name`` of the Hugging Face Hub, or ``MODEL+ADAPTER``.
        scheme: What weights become, such as ``W4A16(group=64)``.
        to: The folder to write; it appears whole at the end.
        method: How codes are found: ``RTN()`` if not given.
        format: What the files look like; if not given ``compressed-tensors``, ``bnb`` for NF4 and LLM.int8(), ``fp8`` for FP8 in
            blocks.
        rules: Patterns (regular expressions that find a module's name) and the schemes they get, ``None`` for none; the first
            that finds a name decides.
        exclude: Patterns of modules that stay as they are, whatever rules say.
        compat: Compute in the weights' own type, for llm-compressor's codes of bf16 weights; by default in float32.
        stats: A statistics file of ``collect``: the report, which is then written, also says what codes do to each layer's
            output (``output``: the norm of the error over that of the output, on the texts of the file).
        threads: All cores, or ``POLMRS_NUM_THREADS``, if not given.
        shard_size: The most bytes of tensors in one file.
        overwrite: Replace ``to`` if it is a model folder already.
        resume: Go on with what a run that was interrupted left, if there is such.
        sync_every: Bytes of output between two points from which ``resume`` can go on.
        verify: Read the result back and compare it with what was written.
        report: Write ``polmrs_report.json``: how far each weight is from what its codes stand for.
        max_memory: The most bytes of buffers to hold at once.
        progress: Called with the bytes done and all bytes.

    Returns:
        The report (``polmrs.quantize/1``): scheme, method, tensors, bytes, bits a weight, seconds.

    Raises:
        UsageError: A rule that finds nothing, settings that do not go together.
        ConfigError: A format that does not hold the scheme, a group that does not divide a row.
        CheckpointError: Nothing to quantize, codes without a config that says what they are, or statistics of another model.
        NonFiniteError: A weight holds a NaN or an infinity.
        OutputExistsError: ``to`` exists (unless ``overwrite``).

    >>> import tempfile, numpy as np
    >>> from safetensors.numpy import save_file
    >>> from polmrs import quantize
    >>> folder = tempfile.mkdtemp()
    >>> weights = {"mlp.up_proj.weight": np.ones((8, 128), np.float32), "norm.weight": np.ones(8, np.float32)}
    >>> save_file(weights, f"{folder}/model.safetensors")
    >>> done = quantize.quantize(folder, scheme=quantize.W4A16(group=64), to=f"{folder}/int4")
    >>> done["quantized"], done["bits_per_weight"]
    (1, 4.625)
    """
    done: dict[str, Any] = json.loads(
        _core.quant.quantize_folder(
            _asked(model, scheme, method, format, rules, exclude, compat, stats),
            fspath(to),
            threads=threads,
            shard_size=shard_size,
            overwrite=overwrite,
            resume=resume,
            sync_every=sync_every,
            verify=verify,
            report=report,
            max_memory=max_memory,
            progress=progress,
        )
    )
    return done


def plan(
    model: str | PathLike[str],
    *,
    scheme: Scheme,
    method: Method | None = None,
    format: Format | None = None,
    rules: Mapping[str, Scheme | None] | None = None,
    exclude: Sequence[str] = (),
    compat: bool = False,
    stats: str | PathLike[str] | None = None,
    threads: int | None = None,
    shard_size: int = 5_000_000_000,
    max_memory: int | None = None,
) -> dict[str, Any]:
    """What ``quantize`` of the same arguments will read, write and need (``polmrs.plan/1``), from headers alone."""
    asked = _asked(model, scheme, method, format, rules, exclude, compat, stats)
    described: dict[str, Any] = json.loads(
        _core.quant.plan_folder(asked, threads=threads, shard_size=shard_size, max_memory=max_memory)
    )
    return described
