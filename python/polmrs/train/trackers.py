"""Metrics to TensorBoard, Weights & Biases or trackio, where a run asks for it; each is a listener of ``fit``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polmrs.errors import UsageError
from polmrs.train.record import Listener, Row


def tracker(name: str, folder: Path, configuration: Mapping[str, Any]) -> Listener:
    """A listener that passes every number of a row on.

    Args:
        name: ``tensorboard``, ``wandb`` or ``trackio``.
        folder: Of the run; TensorBoard's files go to ``tensorboard`` in it, and its name is the run's.
        configuration: What the tracker shows beside the run.

    Raises:
        UsageError: The package is not installed.
    """
    try:
        if name == "tensorboard":
            writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter(folder / name)

            def note(row: Row) -> None:
                for key, value in _numbers(row).items():
                    writer.add_scalar(key, value, row["step"])
                writer.flush()

            return note
        service: Any = importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"track: {name} is not installed: pip install {name}") from error
    run: Any = service.init(project="polmrs", name=folder.name, config=dict(configuration))
    return lambda row: run.log(_numbers(row), step=row["step"])


def _numbers(row: Row) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, int | float) and key != "step"}
