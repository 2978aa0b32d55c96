"""polmrs: LLM post-training in one small library.

Importing polmrs imports neither torch nor numpy; a part is loaded when its name is first used.

>>> import polmrs as pm
>>> pm.merge.TIES(density=0.2).density
0.2
"""

import importlib
from typing import Any

__all__ = ["__version__", "config", "data", "errors", "load", "merge", "models", "quantize", "rl"]

_FUNCTIONS = {"load": "polmrs.models"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from polmrs import _core

        return _core.__version__
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in __all__:
        return importlib.import_module(f"polmrs.{name}")
    raise AttributeError(f"module 'polmrs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
