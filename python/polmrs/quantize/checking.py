"""``check``: what a loader would trip over in a quantized checkpoint."""

from __future__ import annotations

import json
from os import PathLike, fspath
from typing import Any

from polmrs import _core


def check(path: str | PathLike[str]) -> dict[str, Any]:
    """Looks at a folder in compressed-tensors, GPTQ, AWQ, bitsandbytes or FP8-in-blocks format, whoever wrote it; reads no
    codes.

    Returns:
        ``{"schema": "polmrs.check/1", "format", "quantized", "findings"}``: the format that its config names, the number of
        quantized layers, and what is wrong: ``{"place", "what"}``, the place a module or ``config.json``.

    Raises:
        NotFoundError: There is no checkpoint.
        CheckpointError: Its files cannot be read as one.

    >>> import tempfile, numpy as np
    >>> from safetensors.numpy import save_file
    >>> from polmrs import quantize
    >>> folder = tempfile.mkdtemp()
    >>> save_file({"up_proj.qweight": np.zeros((8, 64), np.int32)}, f"{folder}/model.safetensors")
    >>> quantize.check(folder)["findings"][0]["place"]
    'config.json'
    """
    found: dict[str, Any] = json.loads(_core.quant.check_folder(fspath(path)))
    return found
