"""Vector search on one thread beside faiss, hnswlib, usearch and turbovec: CPU time a query, recall, build, load, size.

    python benches/search.py [--only NAME] [--no-peers] [--reps N] [--out FILE] [--rows N] [--dim N] [--names NAME ...]

NAME is `real` (20,000 MiniLM embeddings of `POLMRS_TEST_DATA`, if it names a folder) or `made` (clusters, see `tests/rag/made.py`).
`peers/ann.py` measures all in the form of ann-benchmarks. Every row is printed; a line of the history compares our fastest
setting with the fastest of a peer, of those that reach a recall of the true ten.
"""

import os

os.environ["POLMRS_NUM_THREADS"] = "1"  # before the first call

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from polmrs import rag
from record import HISTORY, ROOT, Measurement, record
from turns import ask, is_built

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "peers"))
from ann import Algorithm, K, measure
from rag.made import clustered

EXACT, NEARLY, GRAPH = 1.0, 0.999, 0.98
"""The recall that rows must reach: of exact scans, of quantized ones with defaults, of graphs and lists."""
OURS = [
    (rag.Flat(), (None,), EXACT),
    (rag.Quantized(), (None,), NEARLY),
    (rag.Quantized(bits=4), (None,), NEARLY),
    (rag.Quantized(bits=8), (None,), NEARLY),
    (rag.HNSW(), (16, 32, 48, 64, 96, 128, 256), GRAPH),
    (rag.HNSW(codes="bf16"), (16, 32, 48, 64, 96, 128, 256), GRAPH),
    (rag.IVF(), (8, 16, 32, 64, 128), GRAPH),
]
RIVALS = {
    EXACT: ["faiss Flat"],
    NEARLY: ["turbovec 4-bit + rescore"],
    GRAPH: ["faiss HNSW", "faiss IVF", "hnswlib", "usearch bf16", "usearch f32"],
}
PACKAGES = {"faiss": "faiss-cpu"}


class _Polmrs(Algorithm):
    """One of our kinds."""

    def __init__(self, kind: rag.Kind, arguments: Sequence[Any]) -> None:
        self.kind, self.arguments, self.effort = kind, tuple(arguments), None
        said = {"bits": "", "codes": ""} | {
            key: getattr(kind, key) for key in ("bits", "codes") if hasattr(kind, key)
        }
        self.name = " ".join(filter(None, ["polmrs", type(kind).__name__, str(said["bits"]), said["codes"]]))

    def fit(self, vectors: np.ndarray) -> None:
        self.index = rag.Index(vectors.shape[1], metric="ip", kind=self.kind)
        self.index.add(np.arange(len(vectors)), vectors)

    def set_query_arguments(self, argument: Any) -> None:
        self.effort = argument

    def batch_query(self, queries: np.ndarray) -> np.ndarray:
        return np.stack(self.index.search(queries, K, effort=self.effort).ids)

    def query(self, query: np.ndarray) -> np.ndarray:
        return np.asarray(self.index.search(query, K, effort=self.effort).ids)

    def save(self, path: Path) -> None:
        self.index.save(path)

    def load(self, path: Path) -> None:
        rag.Index.open(path)


def real(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray] | None:
    """Embeddings of real text, if they are at hand."""
    folder = Path(os.environ.get("POLMRS_TEST_DATA", "")) / "minilm"
    if not (folder / "docs_f16.npy").exists():
        print("real: POLMRS_TEST_DATA names no folder with minilm in it")
        return None
    vectors, queries = (
        np.load(folder / f"{name}_f16.npy").astype(np.float32) for name in ("docs", "queries")
    )
    return vectors[: args.rows or None], queries


def made(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of unit vectors."""
    vectors, queries = (
        clustered(args.rows or 100_000, args.dim, clusters=1000),
        clustered(1000, args.dim, seed=1, clusters=1000),
    )
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors, queries))


def compare(name: str, vectors: np.ndarray, queries: np.ndarray, args: argparse.Namespace) -> None:
    """Measures everyone on these vectors."""
    truth = np.stack(_exact(vectors).search(queries, K).ids)
    size = f"{len(vectors) // 1000}k x {vectors.shape[1]}"
    peers, versions = [], {}
    if not args.no_peers and is_built("ann"):
        cases = {"reps": args.reps, "names": args.names}
        answer = ask("ann", "ann", cases, vectors=vectors, queries=queries, truth=truth)
        peers, versions = answer.json["rows"], answer.json["versions"]
    for row in peers:
        show(row)
    for kind, arguments, target in OURS:
        rows = measure(_Polmrs(kind, arguments), vectors, queries, truth, args.reps)
        for row in rows:
            show(row)
        ours = best(rows, target)
        if ours is None:
            print(f"{rows[0]['name']}: no setting has a recall of {target}")
            continue
        title = f"search.{name}.{ours['name'].removeprefix('polmrs ').lower().replace(' ', '.')}"
        rivals = [best([row for row in peers if row["name"] == rival], target) for rival in RIVALS[target]]
        for rival in [one for one in rivals if one] or [None]:
            note(args.out, title, size, ours, rival, versions)


def _exact(vectors: np.ndarray) -> rag.Index:
    index = rag.Index(vectors.shape[1], metric="ip", kind=rag.Flat())
    index.add(np.arange(len(vectors)), vectors)
    return index


def best(rows: list[dict[str, Any]], target: float) -> dict[str, Any] | None:
    """The fastest setting that finds enough; a hundredth of a percent may be lost to equal scores."""
    enough = [row for row in rows if row["recall"] >= min(target, 0.9999)]
    return min(enough, key=lambda row: row["batch_us"], default=None)


def note(
    out: Path,
    title: str,
    size: str,
    ours: dict[str, Any],
    rival: dict[str, Any] | None,
    versions: dict[str, str],
) -> None:
    """A line for queries in a batch, one for a query alone, one for the build."""
    for what, key, unit in (
        ("batch", "batch_us", "us"),
        ("single", "single_us", "us"),
        ("build", "build_s", "s"),
    ):
        package = rival and PACKAGES.get(rival["name"].split()[0], rival["name"].split()[0])
        record(
            out,
            Measurement(
                name=f"{title}.{what}",
                size=size,
                median=ours[key],
                unit=unit,
                peer=rival and rival["name"],
                peer_version=rival and versions[package],
                peer_median=rival and rival[key],
                ratio=rival and rival[key] / max(ours[key], 1e-9),
            ),
        )


def show(row: dict[str, Any]) -> None:
    """A row of the table."""
    argument = "" if row["argument"] is None else row["argument"]
    print(
        f"{row['name']:26} {argument!s:>5}  recall {row['recall']:.4f}  batch {1e6 / row['batch_us']:8.0f} QPS"
        f"  alone {1e6 / row['single_us']:8.0f} QPS  build {row['build_s']:7.2f} s  load {row['load_ms']:7.1f} ms"
        f"  {row['bytes'] / 1e6:7.1f} MB"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Vector search beside other libraries.")
    parser.add_argument("--only", choices=["real", "made"], help="one set of vectors")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument("--names", nargs="*", help="these peers alone: faiss, hnswlib, usearch, turbovec")
    parser.add_argument("--reps", type=int, default=5, help="runs of each measurement")
    parser.add_argument("--rows", type=int, help="vectors, instead of all (real) or 100,000 (made)")
    parser.add_argument("--dim", type=int, default=384, help="the length of made vectors")
    parser.add_argument("--out", type=Path, default=HISTORY, help="the file of JSON lines to add to")
    args = parser.parse_args()
    for name, vectors in {"real": real, "made": made}.items():
        if args.only in (None, name) and (both := vectors(args)) is not None:
            compare(name, *both, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
