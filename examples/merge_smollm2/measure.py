"""Run a command and measure it from outside: wall clock, CPU seconds, peak memory.

Peak memory is sampled from `/proc/PID/status` every 3 ms. `private` is RssAnon + RssShmem, what the process
asked for; `resident` is VmHWM, which counts mapped file pages too. `ru_maxrss` of wait4 would be wrong here:
Linux lets a child start from the peak of the process that forked it, and this one has held a model and its
optimizer.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PERIOD_S = 0.003


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one run of a command took; the peaks are None where there is no `/proc`."""

    seconds: float
    cpu_seconds: float
    peak_private_mib: float | None
    peak_resident_mib: float | None


class CommandFailed(Exception):
    """The command ended with an exit code other than 0; it has said why on stderr."""


def measured(command: Sequence[str], *, cwd: Path) -> Cost:
    """Run `command` in `cwd`, its output going to stderr; raise CommandFailed unless it exits with 0."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, stdout=sys.stderr)
    private = resident = 0
    try:
        while True:
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            sample = _status_kib(process.pid)
            private = max(private, sample.get("RssAnon", 0) + sample.get("RssShmem", 0))
            resident = max(resident, sample.get("VmHWM", 0))
            time.sleep(PERIOD_S)
    except KeyboardInterrupt:
        _stop(process)
        raise
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise CommandFailed(f"{' '.join(command)}: exit code {process.returncode}, its message is above")
    return Cost(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_private_mib=private / 1024 if private else None,
        peak_resident_mib=resident / 1024 if resident else None,
    )


def _status_kib(pid: int) -> dict[str, int]:
    """Read the lines of `/proc/PID/status` that are sizes, in KiB; nothing once the process has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines)
    return {name: int(value.split()[0]) for name, _, value in fields if value.endswith("kB")}


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a child that the terminal has interrupted with us; press harder if it does not end."""
    for signum, patience_s in ((signal.SIGINT, 2.0), (signal.SIGKILL, 5.0)):
        try:
            process.wait(timeout=patience_s)
            return
        except subprocess.TimeoutExpired:
            process.send_signal(signum)
    process.wait()
