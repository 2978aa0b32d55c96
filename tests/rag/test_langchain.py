"""The vector store of LangChain, by LangChain's own tests."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.peer("langchain")
def test_the_standard_tests_of_langchain_pass_whole(peer, tmp_path):
    command = [
        peer("langchain"),
        "-m",
        "pytest",
        "--quiet",
        "-c",
        tmp_path / "pytest.ini",
        "--rootdir",
        tmp_path,
    ]
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    told = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--basetemp", tmp_path / "t", ROOT / "peers/langchain_store.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stdout[-4000:] + told.stderr[-2000:]
    passed = re.search(r"(\d+) passed", told.stdout)
    assert passed
    assert int(passed[1]) >= 2 * 25 + 5
    assert not re.search(r"failed|skipped|xfailed|error", told.stdout)
