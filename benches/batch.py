"""Time of the `data` kernels on one thread, beside the bytes they move and beside other libraries.

    python benches/batch.py [--only NAME] [--no-peers] [--reps N] [--out FILE]

NAME is `collate`, `pack`, `rouge` or `minhash`. A figure is the median of CPU milliseconds of the calling thread (calls that
work on a thread of their own, and peers: of the process). Results are compared in the same run.

| row | what stands beside it |
|---|---|
| collate: 1,024 pairs of 512 to 2,048 tokens, 5 bytes a token | the copy of as many bytes; the same from arrays and from lists; TRL's collator, lists to three int64 arrays |
| pack: 65,536 sequences of 512 to 2,048 into 4,096 | the plan of the other strategies; TRL's `bfd`, which plans and moves |
| rouge: the pool filter on 10,000 made instructions | the filter without pruning; rouge-score on 300 pairs, and rapidfuzz on 200,000, scaled to the pairs that all comparisons are |
| minhash: 100,000 documents of about 45 words | datasketch on the first 5,000, scaled; recall of both against every pair |
"""

import os
import re

os.environ["POLMRS_NUM_THREADS"] = "1"  # before the first call

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from polmrs import data
from record import HISTORY, ROOT, Measurement, record
from turns import Figure, ask, in_turns, is_built, version

sys.path.insert(0, str(ROOT / "tests"))
from data.made import documents, instructions

PAIRS = 1024
COLLATE_LIMIT, PACK_LIMIT_MS, ROUGE_LIMIT_S, MINHASH_LIMIT = 1.1, 10.0, 1.5, 5.0


def process_ms(work: Callable[[], object]) -> tuple[object, float]:
    """The answer of one call, and the CPU milliseconds of all threads of this process."""
    begun = time.process_time()
    answer = work()
    return answer, 1e3 * (time.process_time() - begun)


def collate(args: argparse.Namespace) -> list[str]:
    random = np.random.default_rng(0)
    totals = random.integers(512, 2049, (PAIRS, 2))
    prompts = np.minimum(random.integers(64, 1024, PAIRS), totals.min(1) - 1)
    lengths = np.stack([prompts, totals[:, 0] - prompts, totals[:, 1] - prompts], 1).reshape(-1)
    ids = random.integers(1, 50_000, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = data.TokenStore.flat(ids, offsets)
    rows = np.arange(0, 3 * PAIRS, 3)
    arrays = np.split(ids, offsets[1:-1])
    lists = [row.tolist() for row in arrays]
    columns = {"prompts": rows, "chosen": rows + 1, "rejected": rows + 2}

    def collated(source, out=None):
        return data.collate_pairs(source, out=out, **columns)

    batch = collated(tokens)
    size = 5 * len(batch.ids)
    source, copy = np.ones(size, np.uint8), np.ones(size, np.uint8)
    figures = in_turns(
        {
            "polmrs": lambda: collated(tokens, batch),
            "polmrs, new memory": lambda: collated(tokens),
            "copy": lambda: np.copyto(copy, source),
            "copy, new memory": source.copy,
            "polmrs, from arrays": lambda: collated(data.TokenStore.of(arrays), batch),
        },
        args.reps,
    )
    figures |= in_turns({"polmrs, from lists": lambda: collated(data.TokenStore.of(lists), batch)}, 5)
    if not args.no_peers and is_built("trl-1.12"):
        for size_of in (32, PAIRS):
            cases = {"reps": 15, "batch": size_of, "gamma": 1, "lam": 1}
            answer = ask("trl-1.12", "trl", cases, ids=ids, offsets=offsets)
            figures[f"TRL, batches of {size_of}"] = Figure(cpu=answer.times["collate"])
        # TRL puts all chosen before all rejected
        whole = np.split(batch.ids, batch.cu_seqlens[1:-1])
        assert np.array_equal(np.concatenate(whole[::2] + whole[1::2]), answer.arrays["collated_tokens"])
        targets = np.split(batch.target, batch.cu_seqlens[1:-1])
        assert np.array_equal(np.concatenate(targets[::2] + targets[1::2]), answer.arrays["collated_targets"])
        print(f"collate: {size:,} bytes, TRL {int(answer.arrays['collated_bytes']):,} in one batch")
    report(args, "collate", f"{PAIRS} pairs, {len(batch.ids):,} tokens", figures)
    ratio = figures["polmrs"].cpu / figures["copy"].cpu
    missed = (
        [] if ratio <= COLLATE_LIMIT else [f"collate: {ratio:.2f} times the copy, asked: <= {COLLATE_LIMIT}"]
    )
    return missed


def pack(args: argparse.Namespace) -> list[str]:
    n, capacity = 65_536, 4096
    lengths = np.random.default_rng(0).integers(512, 2049, n)
    strategies = ("best_fit_decreasing", "first_fit_decreasing", "first_fit", "sequential")
    plans = {name: (lambda s=name: data.pack(lengths, capacity, strategy=s)) for name in strategies}
    named = {"polmrs": plans["best_fit_decreasing"]} | {f"polmrs, {s}": plans[s] for s in strategies[1:]}
    figures = in_turns(named, args.reps)
    fills = {name: plan().fill for name, plan in plans.items()}
    print("pack: fill " + ", ".join(f"{name} {fill:.4f}" for name, fill in fills.items()))
    if not args.no_peers and is_built("trl-1.12"):
        cases = {"reps": 1, "capacity": capacity, "gamma": 1, "lam": 1}
        answer = ask("trl-1.12", "trl", cases, lengths=lengths)
        packs = int(answer.arrays["packs"])
        print(f"pack: TRL fill {lengths.sum() / (packs * capacity):.4f}")
        assert len(plans["best_fit_decreasing"]()) <= packs
        figures["TRL, bfd, plan and move"] = Figure(cpu=answer.times["pack"])
    report(args, "pack", f"{n} sequences into {capacity}", figures)
    ours = figures["polmrs"].cpu
    return [] if ours <= PACK_LIMIT_MS else [f"pack: {ours:.1f} ms, asked: <= {PACK_LIMIT_MS}"]


def rouge(args: argparse.Namespace) -> list[str]:
    texts = instructions(10_000)
    pruned, ours = process_ms(lambda: data.novel(texts))
    every, all_pairs = process_ms(lambda: data.novel(texts, prune=False))
    assert pruned.partner.tolist() == every.partner.tolist()
    assert pruned.score.tolist() == every.score.tolist()
    print(f"rouge: {len(pruned.kept)} kept; {pruned.compared:,} of {every.compared:,} pairs compared")
    figures = {"polmrs": Figure(cpu=ours), "polmrs, all pairs": Figure(cpu=all_pairs)}
    if not args.no_peers and is_built("rouge-score"):
        pairs = [[texts[i], texts[-1 - i]] for i in range(300)]
        answer = ask("rouge-score", "rouge", {"pairs": pairs, "words": []})
        scores = data.rouge_l([a for a, _ in pairs], [b for _, b in pairs]).fmeasure.tolist()
        assert scores == [score[0][2] for score in answer.json["scores"]]
        scaled = answer.json["ms_per_pair"] * every.compared
        figures["rouge-score, from a sample"] = Figure(cpu=scaled)
    if not args.no_peers and is_built("rapidfuzz"):
        figures["rapidfuzz, from a sample"] = Figure(cpu=rapidfuzz_ms(texts) * every.compared)
    report(args, "rouge", f"{len(texts)} instructions", figures)
    return [] if ours <= 1e3 * ROUGE_LIMIT_S else [f"rouge: {ours / 1e3:.2f} s, asked: <= {ROUGE_LIMIT_S}"]


def rapidfuzz_ms(texts: list[str]) -> float:
    """CPU milliseconds of one pair by rapidfuzz, from 200 x 1,000 rows of token numbers made outside the clock."""
    numbers: dict[str, int] = {}
    left, right = (
        [
            [numbers.setdefault(word, len(numbers)) for word in re.findall("[a-z0-9]+", text.lower())]
            for text in some
        ]
        for some in (texts[:200], texts[-1000:])
    )
    answer = ask("rapidfuzz", "rapidfuzz", {"left": left, "right": right})
    ours = data.rouge_l(texts[:200], texts[-200:]).fmeasure
    for row in range(200):
        theirs = 2 * answer.json["lengths"][row][800 + row] / (len(left[row]) + len(right[800 + row]))
        assert abs(ours[row] - theirs) < 1e-12
    return 1e3 * answer.json["seconds"] / (len(left) * len(right))


def minhash(args: argparse.Namespace) -> list[str]:
    sample, threshold, missed = 5_000, 0.8, []
    texts = documents(100_000)
    found, ours = process_ms(lambda: data.near_duplicates(texts, threshold=threshold))
    exact, exactly = process_ms(lambda: data.near_duplicates(texts, threshold=threshold, method="exact"))
    print(f"minhash: {len(found.dropped):,} dropped; the exact search drops {len(exact.dropped):,}")
    figures = {"polmrs": Figure(cpu=ours), "polmrs, exact": Figure(cpu=exactly)}
    every = {tuple(pair) for pair in pairs_of(texts[:sample], threshold, "exact")}
    mine = {tuple(pair) for pair in pairs_of(texts[:sample], threshold, "minhash")}
    print(
        f"minhash: recall {len(mine & every) / len(every):.4f} of {len(every)} pairs, {len(mine - every)} others"
    )
    if not args.no_peers and is_built("datasketch"):
        case = {"documents": texts[:sample], "n": 3, "threshold": threshold, "functions": 128}
        answer = ask("datasketch", "datasketch", case)
        theirs = {tuple(pair) for pair in answer.json["pairs"]}
        print(
            f"minhash: datasketch recall {len(theirs & every) / len(every):.4f}, {len(theirs - every)} others"
        )
        scaled = 1e3 * answer.json["seconds"] * len(texts) / sample
        figures["datasketch, from a sample"] = Figure(cpu=scaled)
        if scaled < MINHASH_LIMIT * ours:
            missed.append(f"minhash: {scaled / ours:.1f} times datasketch, asked: >= {MINHASH_LIMIT}")
    report(args, "minhash", f"{len(texts)} documents", figures)
    return missed


def pairs_of(texts, threshold, method):
    return data.near_pairs(texts, threshold=threshold, method=method)[0].tolist()


BENCHMARKS = {"collate": collate, "pack": pack, "rouge": rouge, "minhash": minhash}


def report(args: argparse.Namespace, name: str, size: str, figures: dict[str, Figure]) -> None:
    """Print a row for each contestant, and record those that stand beside ours."""
    ours = figures["polmrs"]
    versions = {
        "TRL": "trl-1.12",
        "rouge-score": "rouge-score",
        "rapidfuzz": "rapidfuzz",
        "datasketch": "datasketch",
    }
    for rival, figure in figures.items():
        print(
            f"| {name:8} | {rival:28} | {figure.cpu:12.3f} | {figure.best:9.3f} | {figure.cpu / ours.cpu:10.2f} |"
        )
        if rival == "polmrs":
            continue
        peer = versions.get(rival.split(",")[0])
        line = Measurement(
            name=f"data.{name}",
            size=size,
            median=ours.cpu,
            unit="ms CPU",
            cpu=ours.cpu / 1e3,
            peer=rival,
            peer_version=version(peer) if peer else None,
            peer_median=figure.cpu,
            peer_cpu=figure.cpu / 1e3,
            ratio=figure.cpu / ours.cpu,
        )
        record(args.out, line)


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the data kernels.")
    parser.add_argument("--only", choices=BENCHMARKS, help="one benchmark")
    parser.add_argument("--no-peers", action="store_true", help="leave other libraries out")
    parser.add_argument("--reps", type=int, default=51, help="runs of each contestant")
    parser.add_argument("--out", type=Path, default=HISTORY, help="the file of JSON lines to add to")
    args = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}; CPU ms (median), best wall ms, theirs / ours")
    missed = []
    for name, benchmark in BENCHMARKS.items():
        if args.only in (None, name):
            missed += benchmark(args)
    for miss in missed:
        print(f"MISSED {miss}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
