"""How the oracles take time: the median CPU milliseconds of this process."""

import time
from collections.abc import Callable


def median_ms(work: Callable[[], object], reps: int) -> float:
    """Of `reps` runs, after one that does not count."""
    work()
    times = []
    for _ in range(reps):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return 1e3 * sorted(times)[len(times) // 2]
