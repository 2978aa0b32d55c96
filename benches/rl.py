"""Time of the `rl` kernels on one thread, beside the bytes they move and the usual numpy and torch forms.

    python benches/rl.py [--only NAME] [--no-peers] [--reps N] [--out FILE]

NAME is `gae`, `group`, `kl` or `whiten`. A figure is the median of the CPU milliseconds of the calling thread, which a
loaded machine disturbs less than the clock; the shortest run by the clock stands beside it. The contestants of a row run
in turns, results are compared, and outputs are reused unless a row says `new arrays`.

| row | what stands beside it |
|---|---|
| gae, 1024 x 2048, 57 % real tokens, ragged | the copy of three padded arrays read and two written; the copy of the ragged bytes; a torch loop from the last column to the first, with a mask |
| the same rows padded | the loop of TRL 1.12's PPO trainer; verl 0.9.1, which whitens too; torchrl's loop and its vectorised form |
| group, 8192 x 16 | numpy on the reshaped array: mean, std, quotient; TRL's lines; verl's loop and its vectorised form |
| kl (k3), whiten, 1.2 M tokens | the formula in numpy; torch |
"""

import os

os.environ["POLMRS_NUM_THREADS"] = "1"  # before the first call

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polmrs.rl as rl
import torch
from record import HISTORY, Measurement, record
from turns import Figure, ask, in_turns, is_built, version

ROWS, COLUMNS = 1024, 2048
GAMMA, LAM = 1.0, 0.95
GAE_LIMIT_MS, GROUP_LIMIT_MS = 2.2, 0.7


def torch_gae(rewards, values, mask):
    """The usual loop: one column at a time, from the last to the first, over all rows at once."""
    after, running, reversed_advantages = torch.zeros(ROWS), torch.zeros(ROWS), []
    for t in range(COLUMNS - 1, -1, -1):
        here = mask[:, t]
        delta = rewards[:, t] + GAMMA * after - values[:, t]
        running = torch.where(here, delta + GAMMA * LAM * running, running)
        after = torch.where(here, values[:, t], after)
        reversed_advantages.append(running)
    advantages = torch.stack(reversed_advantages[::-1], dim=1)
    return advantages, advantages + values


Benchmark = tuple[str, dict[str, Callable[[], object]], dict[str, Figure]]
"""Size, contestants in this process, figures of peers."""


def gae(peers: bool) -> Benchmark:
    random = np.random.default_rng(0)
    lengths = random.integers(286, COLUMNS + 1, ROWS)  # 57 % of 2048 on average
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    tokens = int(cu_seqlens[-1])
    rewards, values = random.normal(size=(2, tokens)).astype(np.float32)
    holes = random.random(tokens) < 0.9
    out, out2 = (np.ones_like(rewards), np.ones_like(rewards)), np.ones((2, tokens), np.float32)
    ragged, padded, padded2 = (
        np.ones((2, tokens), np.float32),
        *np.ones((2, 5 * ROWS * COLUMNS // 2), np.float32),
    )
    settings = {"gamma": GAMMA, "lam": LAM}
    contestants: dict[str, Callable[[], object]] = {
        "polmrs": lambda: rl.gae(rewards, values, cu_seqlens, out=out, **settings),
        "polmrs, new arrays": lambda: rl.gae(rewards, values, cu_seqlens, **settings),
        "polmrs, 10 % holes": lambda: rl.gae(rewards, values, cu_seqlens, mask=holes, out=out, **settings),
        "copy, padded": lambda: np.copyto(padded2, padded),
        "copy, ragged": lambda: np.copyto(out2, ragged),
    }
    if peers:
        mask = torch.arange(COLUMNS) < torch.from_numpy(lengths)[:, None]
        padded_rewards, padded_values = torch.zeros(ROWS, COLUMNS), torch.zeros(ROWS, COLUMNS)
        padded_rewards[mask], padded_values[mask] = torch.from_numpy(rewards), torch.from_numpy(values)
        contestants["torch loop"] = lambda: torch_gae(padded_rewards, padded_values, mask)
        theirs = torch_gae(padded_rewards, padded_values, mask)
        for ours, its in zip(rl.gae(rewards, values, cu_seqlens, **settings), theirs, strict=True):
            assert np.allclose(ours, its[mask].numpy(), rtol=1e-4, atol=1e-4)
    figures = padded_gae(rewards, values, cu_seqlens, mask.numpy()) if peers else {}
    return f"{ROWS}x{COLUMNS}, {tokens / (ROWS * COLUMNS):.0%} real, f32", contestants, figures


def padded_gae(rewards, values, cu_seqlens, mask) -> dict[str, Figure]:
    """What peers take for the padded arrays; each result is compared where tokens are."""
    ours, returns = rl.gae(rewards, values, cu_seqlens, gamma=GAMMA, lam=LAM)
    arrays = {"rewards": np.zeros(mask.shape, np.float32), "values": np.zeros(mask.shape, np.float32)}
    arrays["rewards"][mask], arrays["values"][mask] = rewards, values
    cases, figures = {"gamma": GAMMA, "lam": LAM, "reps": 5}, {}
    if is_built("trl-1.12"):
        answer = ask("trl-1.12", "trl", cases, **arrays)
        assert np.allclose(ours, answer.arrays["advantages"][mask], rtol=1e-4, atol=1e-4)
        figures["TRL, PPO loop"] = Figure(cpu=answer.times["gae"])
    if is_built("torchrl"):
        answer = ask("torchrl", "torchrl", cases, **arrays)
        assert np.allclose(ours, answer.arrays["advantages"][mask], rtol=1e-4, atol=1e-4)
        figures["torchrl, loop"] = Figure(cpu=answer.times["gae"])
        figures["torchrl, vectorised"] = Figure(cpu=answer.times["gae_vectorised"])
    if is_built("verl-0.9"):
        answer = ask("verl-0.9", "verl", cases, mask=mask, **arrays)
        assert np.allclose(returns, answer.arrays["returns"][mask], rtol=1e-4, atol=1e-4)
        figures["verl, and whitening"] = Figure(cpu=answer.times["gae"])
    return figures


def group(peers: bool) -> Benchmark:
    groups, size = 8192, 16
    rewards = np.random.default_rng(0).normal(size=groups * size).astype(np.float32)
    ids = np.repeat(np.arange(groups), size)
    shuffled = np.random.default_rng(1).permutation(ids)
    out = np.empty_like(rewards)

    def numpy_form():
        grouped = rewards.reshape(groups, size)
        return (grouped - grouped.mean(1, keepdims=True)) / (grouped.std(1, ddof=1, keepdims=True) + 1e-4)

    def torch_form():
        grouped = torch.from_numpy(rewards).view(groups, size)
        return (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)

    assert np.allclose(rl.group_advantages(rewards, ids), numpy_form().reshape(-1), rtol=1e-4, atol=1e-5)
    contestants: dict[str, Callable[[], object]] = {
        "polmrs": lambda: rl.group_advantages(rewards, ids, out=out),
        "polmrs, new arrays": lambda: rl.group_advantages(rewards, ids),
        "polmrs, shuffled ids": lambda: rl.group_advantages(rewards, shuffled, out=out),
        "numpy": numpy_form,
    }
    if peers:
        contestants["torch"] = torch_form
    figures = {}
    ours = rl.group_advantages(rewards, ids)
    for peer, oracle, names in (
        ("trl-1.12", "trl", {"group": "TRL"}),
        ("verl-0.9", "verl", {"group": "verl", "group_vectorised": "verl, vectorised"}),
    ):
        if peers and is_built(peer):
            answer = ask(
                peer, oracle, {"reps": 11, "gamma": 1, "lam": 1}, scores=rewards.reshape(groups, size)
            )
            for key, name in names.items():
                assert np.allclose(ours, answer.arrays[key], rtol=1e-3, atol=1e-4), name
                figures[name] = Figure(cpu=answer.times[key])
    return f"{groups}x{size}, f32", contestants, figures


def kl(peers: bool) -> Benchmark:
    tokens = 1_200_000
    logp, ref = np.random.default_rng(0).normal(size=(2, tokens)).astype(np.float32)
    out = np.empty_like(logp)

    def numpy_form():
        d = logp - ref
        return np.expm1(-d) + d

    def torch_form():
        d = torch.from_numpy(logp) - torch.from_numpy(ref)
        return torch.expm1(-d) + d

    assert np.allclose(rl.kl_estimate(logp, ref), numpy_form(), rtol=1e-4, atol=1e-5)
    contestants: dict[str, Callable[[], object]] = {
        "polmrs": lambda: rl.kl_estimate(logp, ref, out=out),
        "numpy": numpy_form,
    }
    if peers:
        contestants["torch"] = torch_form
    return f"k3, {tokens:,} tokens, f32", contestants, {}


def whiten(peers: bool) -> Benchmark:
    tokens = 1_200_000
    x = np.random.default_rng(0).normal(size=tokens).astype(np.float32)
    out = np.empty_like(x)

    def numpy_form():
        return (x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-8)

    def torch_form():
        t = torch.from_numpy(x)
        return (t - t.mean()) * torch.rsqrt(t.var() + 1e-8)

    assert np.allclose(rl.whiten(x), numpy_form(), rtol=1e-3, atol=1e-4)
    contestants: dict[str, Callable[[], object]] = {
        "polmrs": lambda: rl.whiten(x, out=out),
        "numpy": numpy_form,
    }
    if peers:
        contestants["torch"] = torch_form
    return f"{tokens:,} tokens, f32", contestants, {}


BENCHMARKS = {"gae": gae, "group": group, "kl": kl, "whiten": whiten}


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the rl kernels.")
    parser.add_argument("--only", choices=BENCHMARKS, help="one benchmark")
    parser.add_argument("--no-peers", action="store_true", help="leave torch out")
    parser.add_argument("--reps", type=int, default=101, help="runs of each contestant")
    parser.add_argument("--out", type=Path, default=HISTORY, help="the file of JSON lines to add to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    missed = []
    print(f"load average {os.getloadavg()[0]:.1f}\n")
    print(f"| {'row':28} | {'contestant':22} | CPU ms, median | best ms | theirs / ours |")
    print(f"|{'-' * 30}|{'-' * 24}|{'-' * 16}|{'-' * 9}|{'-' * 15}|")
    for name, benchmark in BENCHMARKS.items():
        if args.only not in (None, name):
            continue
        size, contestants, theirs = benchmark(not args.no_peers)
        figures = in_turns(contestants, args.reps) | theirs
        ours = figures["polmrs"].cpu
        for rival, figure in figures.items():
            ratio = figure.cpu / ours
            row = f"{name} {size}"[:28]
            print(f"| {row:28} | {rival:22} | {figure.cpu:14.3f} | {figure.best:7.3f} | {ratio:13.2f} |")
            if rival != "polmrs":
                record(args.out, line(name, size, figures["polmrs"], rival, figure))
        limit = {"gae": GAE_LIMIT_MS, "group": GROUP_LIMIT_MS}.get(name)
        if limit is not None and ours > limit:
            missed.append(f"{name}: {ours:.2f} ms, asked: <= {limit} ms")
        if name == "group" and ours > figures["numpy"].cpu:
            missed.append(f"group: {ours:.2f} ms, asked: <= numpy's {figures['numpy'].cpu:.2f} ms")
    for miss in missed:
        print(f"MISSED {miss}", file=sys.stderr)
    return 1 if missed else 0


def line(name: str, size: str, ours: Figure, rival: str, theirs: Figure) -> Measurement:
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    versions |= {"TRL": version("trl-1.12"), "verl": version("verl-0.9"), "torchrl": version("torchrl")}
    return Measurement(
        name=f"rl.{name}",
        size=size,
        median=ours.cpu,
        unit="ms CPU",
        cpu=ours.cpu / 1e3,
        peer=rival,
        peer_version=versions.get(rival.split()[0].strip(",")),
        peer_median=theirs.cpu,
        peer_cpu=theirs.cpu / 1e3,
        ratio=theirs.cpu / ours.cpu,
    )


if __name__ == "__main__":
    sys.exit(main())
