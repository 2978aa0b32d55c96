"""What every test may ask for: a hypothesis profile, a peer's interpreter, the folder of third-party data."""

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))  # `from merge.twin import ...`: tests share twins and made data
# Interpreters that tests start keep what they compile: a peer's imports take minutes of it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# transformers asks the Hub about models that are in its cache, and where there is no network it asks for 23 seconds.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Workers of pytest-xdist share the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# `fast` is the same in every run; `--hypothesis-profile=thorough` looks further, and elsewhere each time.
settings.register_profile("fast", max_examples=30, deadline=None, derandomize=True, database=None)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile("fast")


def find_peer(name):
    """The interpreter of a peer; without it the test is skipped, or fails if POLMRS_PEERS promises the peer."""
    python = TESTS.parent / ".peers" / name / "bin" / "python"
    if python.exists():
        return python
    if name in os.environ.get("POLMRS_PEERS", "").split():
        pytest.fail(f"peer {name}: {python} is missing, and POLMRS_PEERS names it", pytrace=False)
    pytest.skip(f"peer {name} is not built: make peers NAME={name}")


def pytest_runtest_setup(item):
    for mark in item.iter_markers("peer"):
        find_peer(*mark.args)


@pytest.fixture(scope="session")
def peer():
    """``peer(name)`` gives the path of the peer's Python interpreter."""
    return find_peer


@pytest.fixture(scope="session")
def data():
    """The folder of third-party data that POLMRS_TEST_DATA names."""
    folder = os.environ.get("POLMRS_TEST_DATA")
    if not folder:
        pytest.skip("POLMRS_TEST_DATA is not set")
    if not Path(folder).is_dir():
        pytest.fail(f"POLMRS_TEST_DATA: {folder} is not a folder", pytrace=False)
    return Path(folder)


@pytest.fixture
def tmpfs():
    """Mounts a tmpfs at a new path until the test ends; skips where mounting is not allowed."""
    mounted = []

    def mount(path, options):
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a tmpfs cannot be mounted here")
        mounted.append(path)
        return path

    yield mount
    gc.collect()  # lets go of files that are mapped
    for path in mounted:
        subprocess.run(["umount", path], check=True)
