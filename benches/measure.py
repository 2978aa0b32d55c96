"""Run a command and measure it from outside: wall clock, CPU seconds, peak memory.

Memory is RssAnon + RssShmem of `/proc/PID/status`: what the process asked for, without the pages of files that it maps.
It is sampled, so a peak between two samples is missed; and sampling takes a little time, so timed runs go without.
"""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

from record import ROOT

SAMPLE_S = 0.005

Command = Sequence[str | Path]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run of a command, or the median of several, took."""

    wall: float
    cpu: float
    peak_mib: float = 0.0
    stdout: str = ""

    @classmethod
    def median(cls, runs: Sequence[Self]) -> "Run":
        """The median of each figure by itself."""
        return Run(
            wall=median(run.wall for run in runs),
            cpu=median(run.cpu for run in runs),
            peak_mib=max(run.peak_mib for run in runs),
        )


def measured(command: Command, *, sample_s: float = 0.0, env: dict[str, str] | None = None) -> Run:
    """Run a command that must succeed, in the root of the project; sample its memory every `sample_s` seconds, if that is not 0."""
    words = [str(word) for word in command]
    start = time.perf_counter()
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    ) as process:
        ended = threading.Event()
        peaks: list[int] = [0]
        sampler = threading.Thread(target=watch, args=(process.pid, sample_s, ended, peaks))
        if sample_s:
            sampler.start()
        assert process.stdout is not None
        stdout = process.stdout.read()  # until the process closes it, which is when it ends
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        if sample_s:
            sampler.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}\nexit code {process.returncode}\n{stdout[-4000:]}")
    return Run(wall=wall, cpu=usage.ru_utime + usage.ru_stime, peak_mib=max(peaks) / 1024, stdout=stdout)


def watch(pid: int, sample_s: float, ended: threading.Event, peaks: list[int]) -> None:
    """Note the memory of a process, in KiB, until it has ended."""
    status = Path(f"/proc/{pid}/status")
    while not ended.wait(sample_s):
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        sizes = (line.split() for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
        peaks.append(sum(int(words[1]) for words in sizes))


def warm(paths: Sequence[Path]) -> None:
    """Bring files into the page cache by reading them."""
    buffer = bytearray(1 << 22)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
