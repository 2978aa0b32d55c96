"""Search on one thread beside faiss, hnswlib, usearch, turbovec, bm25s and tantivy: CPU time a query, recall, build, load, size,
memory.

    python benches/search.py [--only NAME] [--no-peers] [--reps N] [--out FILE] [--rows N] [--names NAME ...]

| NAME | searched |
|---|---|
| `real` | 20,000 MiniLM embeddings of `POLMRS_TEST_DATA`, if it names a folder |
| `made` | 100,000 vectors of 384 in clusters (`tests/rag/made.py`) |
| `wide` | 100,000 of 768, by scans, which need no minutes to build |
| `words` | 20,000 texts (`search_words.py`), by words |

`peers/ann.py` measures all in the form of ann-benchmarks. Every row is printed; a line of the history compares our fastest
setting with the fastest of a peer, of those that reach a recall of the true ten. Rows of a set that was measured whole replace
those in `search_curves.json` beside the history, of which `search_plot.py` makes pictures and a page.
"""

import os

# Before the first call of anything. Peers inherit it.
os.environ |= dict.fromkeys(
    ("POLMRS_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
)

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from polmrs import rag
from record import HISTORY, ROOT, Measurement, commit, machine, record
from turns import ask, is_built

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "peers"))
from ann import Algorithm, K, measure
from rag.made import clustered
from search_ours import K1, B, Vectors, Words
from search_words import best_ten, made_texts, text

EF, PROBES = (16, 32, 48, 64, 96, 128, 256), (8, 16, 32, 64, 128)
EXACT, NEARLY, GRAPH = 1.0, 0.999, 0.98
"""The recall that rows must reach: of exact scans, of quantized ones with defaults, of graphs and lists."""
ONE_THREAD = 1.1
"""What a clock may see of one."""


@dataclass(frozen=True)
class Entry:
    """One of ours, the recall that its setting must reach, and whom it is compared with."""

    algorithm: Algorithm
    recall: float
    rivals: tuple[str, ...]


def ours(kinds: Sequence[rag.Kind], *, mapped: bool = False) -> list[Entry]:
    """Entries of kinds of vector indexes."""
    graphs = ("faiss HNSW", "hnswlib", "usearch bf16")
    how: dict[type, tuple[tuple[Any, ...], float, tuple[str, ...]]] = {
        rag.Flat: ((None,), EXACT, ("faiss Flat",)),
        rag.Quantized: ((None,), NEARLY, ("turbovec 4-bit + rescore",)),
        rag.HNSW: (EF, GRAPH, graphs),
        rag.IVF: (PROBES, GRAPH, ("faiss IVF",)),
    }
    settings = [(kind, *how[type(kind)]) for kind in kinds]
    return [Entry(Vectors(kind, arguments, mapped=mapped), *rest) for kind, arguments, *rest in settings]


SCANS = [rag.Flat(), rag.Quantized(), rag.Quantized(bits=4), rag.Quantized(bits=8)]
SCANNERS = ["faiss Flat", "turbovec 4-bit + rescore"]


def real(args: argparse.Namespace) -> None:
    """Embeddings of real text, if they are at hand, by everyone."""
    folder = Path(os.environ.get("POLMRS_TEST_DATA", "")) / "minilm"
    if not (folder / "docs_f16.npy").exists():
        print("real: POLMRS_TEST_DATA names no folder with minilm in it")
        return
    docs, queries = (unit(np.load(folder / f"{name}_f16.npy")) for name in ("docs", "queries"))
    others = [rag.IVF(), rag.HNSW(), rag.HNSW(codes="bf16")]
    entries = ours([*SCANS, *others]) + ours([rag.HNSW()], mapped=True)
    peers = [*SCANNERS, "faiss IVF", "faiss HNSW", "hnswlib", "usearch bf16", "usearch f32"]
    compare("real", docs[: args.rows or None], queries, entries, peers, args)


def made(args: argparse.Namespace) -> None:
    """Clusters; of graphs, which take a minute each to build, two of peers and one of ours."""
    peers = [*SCANNERS, "faiss IVF", "faiss HNSW", "usearch bf16"]
    compare("made", *clusters(args, 384), ours([*SCANS, rag.IVF(), rag.HNSW()]), peers, args)


def wide(args: argparse.Namespace) -> None:
    """Twice as long, by scans."""
    compare("wide", *clusters(args, 768), ours(SCANS), SCANNERS, args)


def clusters(args: argparse.Namespace, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, and queries like them."""
    rows = args.rows or 100_000
    return unit(clustered(rows, dim, clusters=1000)), unit(clustered(1000, dim, seed=1, clusters=1000))


def unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def compare(
    name: str,
    vectors: np.ndarray,
    queries: np.ndarray,
    entries: list[Entry],
    wanted: list[str],
    args: argparse.Namespace,
) -> None:
    """Measures everyone on these vectors."""
    exact = rag.Index(vectors.shape[1], metric="ip", kind=rag.Flat())
    exact.add(np.arange(len(vectors)), vectors)
    truth = np.stack(exact.search(queries, K).ids)
    cases = {"names": [one for one in wanted if not args.names or one.split()[0] in args.names]}
    peers = asked("ann", cases, args, vectors=vectors, queries=queries, truth=truth)
    size = f"{len(vectors) // 1000}k x {vectors.shape[1]}"
    conclude(name, size, entries, (vectors, queries, truth), peers, args)


def by_words(args: argparse.Namespace) -> None:
    """Texts, by words."""
    bags, queries = made_texts(args.rows or 20_000, 1000)
    truth = best_ten(bags, queries)
    texts, asking = ([text(one) for one in some] for some in (bags, queries))
    cases = {"documents": texts, "queries": asking, "k1": K1, "b": B}
    peers = asked("words", cases, args, truth=truth)
    entries = [Entry(Words(), NEARLY, ("bm25s", "tantivy"))]
    conclude("words", f"{len(texts) // 1000}k texts", entries, (texts, asking, truth), peers, args)


def asked(oracle: str, cases: dict[str, Any], args: argparse.Namespace, **arrays: Any) -> dict[str, Any]:
    """The rows and versions of peers."""
    if args.no_peers or not is_built("ann"):
        return {"rows": [], "versions": {}}
    answer: dict[str, Any] = ask("ann", oracle, {"reps": args.reps, **cases}, **arrays).json
    for row in answer["rows"]:
        show(row)
    return answer


def conclude(
    name: str,
    size: str,
    entries: list[Entry],
    given: tuple[Any, Any, np.ndarray],
    peers: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Measures ours, and writes lines and rows."""
    everyone = list(peers["rows"])
    for entry in entries:
        rows = measure(entry.algorithm, *given, args.reps)
        for row in rows:
            show(row)
        everyone += rows
        mine = best(rows, entry.recall)
        if mine is None:
            print(f"{rows[0]['name']}: no setting has a recall of {entry.recall}")
            continue
        title = f"search.{name}.{mine['name'].removeprefix('polmrs ').lower().replace(' ', '.')}"
        # tantivy rounds lengths, so its ten are others, whatever one sets.
        least = 0.0 if name == "words" else entry.recall
        rivals = [
            best([row for row in peers["rows"] if row["name"] == rival], least) for rival in entry.rivals
        ]
        for rival in [one for one in rivals if one] or [None]:
            note(args.out, title, size, mine, rival, peers["versions"])
    args.busy += sorted({row["name"] for row in everyone if row["threads"] > ONE_THREAD})
    if peers["rows"] and not args.rows and not args.names:
        curves = args.out.with_name("search_curves.json")
        known = json.loads(curves.read_text()) if curves.exists() else {}
        about = {
            "commit": commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
        }
        known[name] = {"size": size, **about, "versions": peers["versions"], "rows": everyone}
        curves.write_text(json.dumps(known, indent=1) + "\n")


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
    """A line each for queries in a batch, a query alone, the build, opening a file, its size, and memory."""
    for what, key, unit in (
        ("batch", "batch_us", "us"),
        ("single", "single_us", "us"),
        ("build", "build_s", "s"),
        ("load", "load_ms", "ms"),
        ("file", "bytes", "B"),
        ("memory", "memory", "B each"),
    ):
        package = rival and {"faiss": "faiss-cpu"}.get(rival["name"].split()[0], rival["name"].split()[0])
        record(
            out,
            Measurement(
                name=f"{title}.{what}",
                size=size,
                median=float(ours[key]),
                unit=unit,
                peer=rival and rival["name"],
                peer_version=rival and versions[package],
                peer_median=rival and float(rival[key]),
                ratio=rival and rival[key] / max(ours[key], 1e-9),
            ),
        )


def show(row: dict[str, Any]) -> None:
    """A row of the table."""
    argument = "" if row["argument"] is None else row["argument"]
    print(
        f"{row['name']:26} {argument!s:>5}  recall {row['recall']:.4f}  batch {1e6 / row['batch_us']:8.0f} QPS"
        f"  alone {1e6 / row['single_us']:8.0f} QPS  build {row['build_s']:7.2f} s  load {row['load_ms']:7.1f} ms"
        f"  {row['bytes'] / 1e6:7.1f} MB  {row['memory']:6.0f} B each in memory  {row['threads']:.2f} threads"
    )


def main() -> int:
    sets = {"real": real, "made": made, "wide": wide, "words": by_words}
    parser = argparse.ArgumentParser(description="Search beside other libraries.")
    parser.add_argument("--only", choices=list(sets), help="one set")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument("--names", nargs="*", help="these peers alone: faiss, hnswlib, usearch, turbovec")
    parser.add_argument("--reps", type=int, default=3, help="runs of each measurement")
    parser.add_argument("--rows", type=int, help="vectors or texts, instead of all")
    parser.add_argument("--out", type=Path, default=HISTORY, help="the file of JSON lines to add to")
    args = parser.parse_args()
    args.busy = []
    for name, work in sets.items():
        if args.only in (None, name):
            work(args)
    for name in args.busy:
        print(f"{name} was at work on more than one thread", file=sys.stderr)
    return 1 if args.busy else 0


if __name__ == "__main__":
    sys.exit(main())
