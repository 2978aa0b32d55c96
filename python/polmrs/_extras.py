"""Packages that only some callers need, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from polmrs.errors import UsageError


def extra(module: str, package: str, name: str) -> Any:
    """The module, or the command that installs what has it.

    >>> extra("no_such_module", "some-package", "extra")
    Traceback (most recent call last):
    ...
    polmrs.errors.UsageError: some-package is not installed: pip install 'polmrs[extra]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is there, and something that it needs is not
        raise UsageError(f"{package} is not installed: pip install 'polmrs[{name}]'") from error
