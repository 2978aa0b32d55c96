"""The native half of polmrs, built from rust/py."""

from collections.abc import Callable, Sequence
from typing import Any

__version__: str

def cli(args: Sequence[str]) -> int: ...
def python_verb(args: Sequence[str]) -> str | None: ...

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
        function: tuple[str, Callable[..., Any]] | None,
        threads: int | None,
        shard_size: int,
        seed: int,
        overwrite: bool,
        resume: bool,
        sync_every: int,
        verify: bool,
        report: bool,
        max_memory: int | None,
        allow_nonfinite: bool,
        progress: Callable[[int, int], object] | None,
    ) -> str: ...
    @staticmethod
    def greedy_recipe(
        count: int, maximize: bool, score: Callable[[list[int]], float]
    ) -> tuple[list[int], float, list[tuple[int, float, float, bool]]]: ...
    @staticmethod
    def soup_folder(
        models: list[str],
        to: str,
        *,
        score: Callable[..., Any] | str | Sequence[str],
        maximize: bool,
        dtype: str | None,
        out_dtype: str | None,
        threads: int | None,
        shard_size: int,
        overwrite: bool,
        resume: bool,
        sync_every: int,
        verify: bool,
        report: bool,
        max_memory: int | None,
        allow_nonfinite: bool,
        progress: Callable[[int, int], object] | None,
    ) -> str: ...
    @staticmethod
    def sweep_folder(
        config: str,
        origin: str,
        to: str,
        *,
        over: str,
        score: Callable[..., Any] | str | Sequence[str],
        maximize: bool,
        threads: int | None,
        shard_size: int,
        seed: int,
        overwrite: bool,
        resume: bool,
        sync_every: int,
        verify: bool,
        report: bool,
        max_memory: int | None,
        allow_nonfinite: bool,
        progress: Callable[[int, int], object] | None,
    ) -> str: ...
    @staticmethod
    def plan_folder(
        config: str,
        origin: str,
        *,
        function: tuple[str, Callable[..., Any]] | None,
        threads: int | None,
        shard_size: int,
        seed: int,
        max_memory: int | None,
    ) -> str: ...
    @staticmethod
    def merge_arrays(
        config: str,
        models: list[tuple[str, list[tuple[str, str, Any]]]],
        *,
        function: tuple[str, Callable[..., Any]] | None,
        threads: int | None,
        seed: int,
        max_memory: int | None,
        allow_nonfinite: bool,
        progress: Callable[[int, int], object] | None,
    ) -> list[tuple[str, str, Any]]: ...

class rl:
    @staticmethod
    def gae(
        rewards: Any,
        values: Any,
        cu_seqlens: Any,
        mask: Any | None,
        bootstrap: Any | None,
        gamma: float,
        lam: float,
        lam_value: float,
        holes: str,
        advantages: Any,
        returns: Any,
    ) -> None: ...
    @staticmethod
    def discounted_returns(
        rewards: Any,
        cu_seqlens: Any,
        mask: Any | None,
        bootstrap: Any | None,
        gamma: float,
        holes: str,
        out: Any,
    ) -> None: ...
    @staticmethod
    def vtrace(
        columns: list[Any],
        cu_seqlens: Any,
        mask: Any | None,
        bootstrap: Any | None,
        gamma: float,
        lam: float,
        rho_bar: float,
        c_bar: float,
        holes: str,
        outputs: list[Any],
    ) -> None: ...
    @staticmethod
    def group_advantages(
        rewards: Any, groups: Any, scale: str, ddof: int, eps: float, missing: str, alone: str, out: Any
    ) -> tuple[int, int, int, int, int, int, float]: ...
    @staticmethod
    def process_advantages(
        rewards: Any,
        step_ends: Any,
        cu_seqlens: Any,
        groups: Any,
        scale: str,
        ddof: int,
        eps: float,
        out: Any,
    ) -> None: ...
    @staticmethod
    def leave_one_out(rewards: Any, groups: Any, missing: str, alone: str, out: Any) -> None: ...
    @staticmethod
    def opo(rewards: Any, lengths: Any, groups: Any, missing: str, alone: str, out: Any) -> None: ...
    @staticmethod
    def maxrl(rewards: Any, groups: Any, missing: str, out: Any) -> None: ...
    @staticmethod
    def passk_advantages(rewards: Any, groups: Any, k: int, missing: str, out: Any) -> None: ...
    @staticmethod
    def passk_training_advantages(rewards: Any, groups: Any, k: int, missing: str, out: Any) -> None: ...
    @staticmethod
    def pass_at_k(samples: Any, correct: Any, k: int, out: Any) -> None: ...
    @staticmethod
    def maj_at_k(answers: Any, correct: Any, groups: Any, k: int, ties: str) -> list[float]: ...
    @staticmethod
    def moments_of(x: Any, mask: Any | None) -> tuple[float, float, float]: ...
    @staticmethod
    def whiten(
        x: Any,
        mask: Any | None,
        moments: tuple[float, float, float],
        ddof: float,
        eps: float,
        center: bool,
        out: Any,
    ) -> None: ...
    @staticmethod
    def kl_tokens(logp: Any, ref_logp: Any, mask: Any | None, estimator: str, out: Any) -> None: ...
    @staticmethod
    def kl_shaped_rewards(
        scores: Any,
        logp: Any,
        ref_logp: Any,
        cu_seqlens: Any,
        mask: Any | None,
        estimator: str,
        beta: float,
        out: Any,
    ) -> None: ...
    @staticmethod
    def adaptive_entropy(
        rewards: Any, cu_seqlens: Any, step_ends: Any | None, alpha: float, beta: float, mode: str, out: Any
    ) -> bool: ...
    @staticmethod
    def trajectory_pruning(
        values: Any, cu_seqlens: Any, step_ends: Any | None, ratio: float, kept: Any, pruned: Any
    ) -> None: ...

Weight = tuple[str, Any, int]
"""A weight's torch type, its elements as bits, and the length of a row."""

Given = tuple[str, str, list[int], Any]
"""A tensor's name, its torch type, its shape, and its elements as bits."""

class quant:
    @staticmethod
    def quantize_folder(
        asked: Any,
        to: str,
        *,
        threads: int | None,
        shard_size: int,
        overwrite: bool,
        resume: bool,
        sync_every: int,
        verify: bool,
        report: bool,
        max_memory: int | None,
        progress: Callable[[int, int], object] | None,
    ) -> str: ...
    @staticmethod
    def plan_folder(asked: Any, *, threads: int | None, shard_size: int, max_memory: int | None) -> str: ...
    @staticmethod
    def check_folder(path: str) -> str: ...
    @staticmethod
    def pack(codes: Any, columns: int, width: int, out: Any) -> None: ...
    @staticmethod
    def unpack(packed: Any, columns: int, width: int, out: Any) -> None: ...
    @staticmethod
    def encode_int(
        weight: Weight,
        width: int,
        span: str,
        group: int,
        scale_dtype: str,
        clip: tuple[int, float] | None,
        scales: Any,
        zeros: Any,
        packed: Any,
    ) -> None: ...
    @staticmethod
    def encode_hqq(
        weight: Weight,
        width: int,
        group: int,
        search: tuple[float, float, float, int],
        scales: Any,
        zeros: Any,
        packed: Any,
    ) -> None: ...
    @staticmethod
    def decode_int(
        packed: Any, width: int, group: int, scales: Any, zeros: Any, columns: int, out: Any
    ) -> None: ...
    @staticmethod
    def encode_fp8(weight: Weight, group: int, scale_dtype: str, scales: Any, bytes: Any) -> None: ...
    @staticmethod
    def decode_fp8(bytes: Any, group: int, scales: Any, columns: int, out: Any) -> None: ...
    @staticmethod
    def encode_mxfp4(weight: Weight, exponents: Any, packed: Any) -> None: ...
    @staticmethod
    def decode_mxfp4(packed: Any, exponents: Any, columns: int, out: Any) -> None: ...
    @staticmethod
    def encode_nvfp4(weight: Weight, given: float | None, scales: Any, packed: Any) -> float: ...
    @staticmethod
    def decode_nvfp4(packed: Any, global_: float | None, scales: Any, columns: int, out: Any) -> None: ...
    @staticmethod
    def encode_nf4(weight: Weight, block: int, scales: Any, packed: Any) -> None: ...
    @staticmethod
    def decode_nf4(packed: Any, block: int, scales: Any, out: Any) -> None: ...
    @staticmethod
    def nest(scales: Any, codes: Any, nested: Any) -> float: ...
    @staticmethod
    def unnest(codes: Any, nested: Any, offset: float | None, scales: Any) -> None: ...
    @staticmethod
    def encode_int8(weight: Weight, scales: Any, packed: Any) -> None: ...
    @staticmethod
    def decode_int8(packed: Any, scales: Any, columns: int, out: Any) -> None: ...
    @staticmethod
    def to_format(
        spec: Any,
        shape: tuple[int, ...],
        packed: Any,
        scales: Any | None,
        bytes: Any | None,
        zeros: Any | None,
        global_: float,
    ) -> list[tuple[str, str, list[int], Any]]: ...
    @staticmethod
    def format_config(spec: Any, ignore: Sequence[str]) -> str: ...
    @staticmethod
    def format_shape(
        format: str, tensors: Sequence[Given], bits: int | None, block: tuple[int, int] | None
    ) -> tuple[int, int]: ...
    @staticmethod
    def from_format(
        format: str, tensors: Sequence[Given], bits: int | None, block: tuple[int, int] | None, out: Any
    ) -> None: ...

class data:
    class Writer:
        def __init__(self, path: str, with_mask: bool, overwrite: bool, append: bool) -> None: ...
        def push(self, ids: Any, offsets: Any, mask: Any | None) -> int: ...
        def finish(self) -> None: ...
        def discard(self) -> None: ...

    class Tokenizer:
        def __init__(
            self, path: str, special_tokens: bool, eos: str | None, max_length: int | None
        ) -> None: ...
        def rows(self, texts: list[str], first: int) -> tuple[Any, Any]: ...

    @staticmethod
    def open_store(path: str) -> tuple[int, int, int, int, int | None]: ...
    @staticmethod
    def verify_store(path: str) -> None: ...
    @staticmethod
    def flatten(rows: list[Any]) -> tuple[Any, Any]: ...
    @staticmethod
    def narrow(ids: Any) -> Any: ...
    @staticmethod
    def collate(
        ids: Any,
        offsets: Any,
        mask: Any | None,
        prompts: Any,
        completions: Any,
        members: Any,
        max_length: int | None,
        too_long: str,
        out: tuple[Any, Any] | None,
    ) -> tuple[Any, Any, Any, Any, Any, Any, Any]: ...
    @staticmethod
    def pad(values: Any, cu_seqlens: Any, width: int, side: str, filler: int, out: Any) -> None: ...
    @staticmethod
    def pack(
        lengths: Any, capacity: int, strategy: str, too_long: str, seed: int | None
    ) -> tuple[Any, Any, Any]: ...
    @staticmethod
    def token_batches(
        lengths: Any, max_tokens: int, padded: bool, window: int, too_long: str, seed: int | None
    ) -> tuple[Any, Any, Any]: ...
    @staticmethod
    def balance(costs: Any, ranks: int, method: str, equal: bool) -> tuple[Any, Any, Any]: ...
    @staticmethod
    def porter_stem(word: str) -> str: ...
    @staticmethod
    def rouge_l(predictions: list[str], references: list[str], stemmer: bool) -> tuple[Any, Any, Any]: ...
    @staticmethod
    def rouge_l_pool(candidate: str, pool: list[str], stemmer: bool) -> tuple[Any, Any, Any]: ...
    @staticmethod
    def novel(
        candidates: list[str],
        pool: list[str],
        threshold: float,
        stemmer: bool,
        prune: bool,
        progress: Callable[[int, int], object] | None,
    ) -> tuple[Any, Any, int]: ...
    @staticmethod
    def near_duplicates(
        documents: Any, unit: str, n: int, threshold: float, search: tuple[str, int, float, int]
    ) -> tuple[Any, Any, int, int]: ...
    @staticmethod
    def near_pairs(
        documents: Any, unit: str, n: int, threshold: float, search: tuple[str, int, float, int]
    ) -> tuple[Any, Any, Any]: ...
    @staticmethod
    def contamination(
        train: Any, tests: Any, unit: str, n: int, least: int, common: int | None
    ) -> tuple[list[tuple[int, int, int, int, int]], list[int], int]: ...
    @staticmethod
    def words(text: str, unit: str) -> list[tuple[int, int]]: ...

class search:
    @staticmethod
    def split(text: str) -> list[str]: ...
    class Bm25:
        def __init__(
            self, variant: str, k1: float, b: float, delta: float, stopwords: list[str], note: str
        ) -> None: ...
        def __len__(self) -> int: ...
        @staticmethod
        def open(path: str, mapped: bool, verify: bool) -> search.Bm25: ...
        def save(self, path: str) -> None: ...
        def sync(self) -> tuple[int, int]: ...
        def settings(self) -> tuple[str, float, float, float, list[str], str]: ...
        def add(self, ids: Any, texts: list[str] | list[list[str]], metadata: str | None) -> None: ...
        def delete(self, ids: Any) -> int: ...
        def delete_where(self, filter: str) -> int: ...
        def metadata(self, ids: Any) -> str: ...
        def search(
            self,
            texts: list[str] | list[list[str]],
            k: int,
            filter: str | None,
            min_score: float | None,
        ) -> tuple[Any, Any, Any]: ...
        def stats(self) -> tuple[int, int, int]: ...

    class Index:
        def __init__(self, dim: int, metric: str, storage: str, kind: str) -> None: ...
        def __len__(self) -> int: ...
        def bytes(self) -> int: ...
        @staticmethod
        def open(path: str, mapped: bool, verify: bool) -> search.Index: ...
        def save(self, path: str) -> None: ...
        def sync(self) -> tuple[int, int]: ...
        def settings(self) -> tuple[int, str, str, str]: ...
        def add(
            self,
            ids: Any,
            dtype: str,
            vectors: Any,
            metadata: str | None,
            progress: Callable[[int, int], object] | None,
        ) -> None: ...
        def delete(self, ids: Any) -> int: ...
        def delete_where(self, filter: str) -> int: ...
        def metadata(self, ids: Any) -> str: ...
        def vectors(self, ids: Any) -> tuple[Any, Any]: ...
        def search(
            self,
            dtype: str,
            queries: Any,
            k: int,
            filter: str | None,
            bounds: tuple[float | None, int | None, bool],
        ) -> tuple[Any, Any, Any]: ...
