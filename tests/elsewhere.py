"""Work in another process, where environment variables that polmrs reads once can be others."""

import os
import subprocess
import sys


def digest_of(module, **environment):
    """What ``digest()`` of a test module gives in a process with these environment variables."""
    path = os.pathsep.join(p for p in sys.path if p)
    child = subprocess.run(
        [sys.executable, "-c", f"from {module} import digest; print(digest())"],
        env={**os.environ, **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return child.stdout.strip()
