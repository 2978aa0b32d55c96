"""The native half of polmrs, built from rust/py."""

from collections.abc import Callable, Sequence
from typing import Any

__version__: str

def cli(args: Sequence[str]) -> int: ...

class config:
    @staticmethod
    def parse(text: str, origin: str) -> str: ...
    @staticmethod
    def emit(json: str) -> str: ...

class merge:
    @staticmethod
    def merge_folder(
        config: str,
        origin: str,
        to: str,
        *,
        threads: int | None,
        shard_size: int,
        seed: int,
        overwrite: bool,
        allow_nonfinite: bool,
        progress: Callable[[int, int], object] | None,
    ) -> str: ...
    @staticmethod
    def plan_folder(config: str, origin: str, *, threads: int | None, shard_size: int, seed: int) -> str: ...
    @staticmethod
    def merge_arrays(
        config: str,
        models: list[tuple[str, list[tuple[str, str, Any]]]],
        *,
        threads: int | None,
        seed: int,
        allow_nonfinite: bool,
        progress: Callable[[int, int], object] | None,
    ) -> list[tuple[str, str, Any]]: ...
