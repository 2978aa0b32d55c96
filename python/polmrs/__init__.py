"""polmrs: LLM post-training in one small library.

Importing polmrs imports neither torch nor numpy; a part is loaded when its name is first used.

>>> import polmrs as pm
>>> pm.merge.TIES(density=0.2).density
0.2
"""

import importlib
from typing import Any

_FUNCTIONS = {"fit": "polmrs.train", "load": "polmrs.models"}
_PARTS = [
    "align",
    "config",
    "data",
    "engine",
    "errors",
    "evaluate",
    "finetune",
    "generate",
    "merge",
    "models",
    "quantize",
    "rag",
    "rl",
    "train",
]

__all__ = ["__version__", *_FUNCTIONS, *_PARTS]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from polmrs import _core

        return _core.__version__
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _PARTS:
        return importlib.import_module(f"polmrs.{name}")
    raise AttributeError(f"module 'polmrs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
