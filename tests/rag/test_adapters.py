"""The vector stores of LangChain and LlamaIndex, and indexes in servers, in the environments of those."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def passed(python, tests, folder):
    """How many tests of a file pass in another environment, where all must."""
    settings = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    (folder / "pytest.ini").write_text(settings)
    command = [python, "-m", "pytest", "--quiet", "-c", folder / "pytest.ini", "--rootdir", folder]
    told = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--basetemp", folder / "made", ROOT / "peers" / tests],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stdout[-4000:] + told.stderr[-2000:]
    assert not re.search(r"failed|skipped|xfailed|error", told.stdout)
    return int(re.findall(r"(\d+) passed", told.stdout)[0])


@pytest.mark.peer("langchain")
def test_the_standard_tests_of_langchain_pass_whole(peer, tmp_path):
    assert passed(peer("langchain"), "langchain_store.py", tmp_path) >= 2 * 25 + 5


@pytest.mark.peer("llamaindex")
def test_the_store_of_llamaindex_finds_what_its_own_finds(peer, tmp_path):
    assert passed(peer("llamaindex"), "llamaindex_store.py", tmp_path) >= 46


@pytest.mark.peer("qdrant")
def test_a_collection_of_qdrant_finds_what_an_index_finds(peer, tmp_path):
    assert passed(peer("qdrant"), "server_index.py", tmp_path) == 15


@pytest.mark.peer("pgvector")
def test_a_table_of_postgres_finds_what_an_index_finds(peer, tmp_path):
    assert passed(peer("pgvector"), "server_index.py", tmp_path) == 15
