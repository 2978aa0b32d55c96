"""Every method that is listed runs, and a test is marked with its ledger row."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import polmrs

ROOT = Path(__file__).parent.parent
LISTED = json.loads((ROOT / "python/polmrs/methods.json").read_text())["methods"]
LEDGER = {line.split("\t")[0] for line in (ROOT / "docs/ledger.tsv").read_text().splitlines()[1:]}


def test_a_listed_method_has_a_test_that_is_marked_with_its_id():
    assert len(LISTED) >= 7
    for row in LISTED:
        text = (ROOT / row["test"]).read_text()
        assert re.search(rf'mark\.method\("{re.escape(row["id"])}"\)', text), row["name"]


def test_a_listed_id_is_a_row_of_the_ledger_or_marked_extra():
    assert len(LEDGER) >= 395
    for row in LISTED:
        assert (row["id"] in LEDGER) != row["extra"], row["id"]


def test_a_listed_class_is_public():
    for row in LISTED:
        assert row["class"] in importlib.import_module(row["module"]).__all__


def test_the_list_is_shipped_with_the_package():
    shipped = Path(polmrs.__file__).parent / "methods.json"
    assert json.loads(shipped.read_text())["schema"] == "polmrs.methods/1"


def test_the_command_lists_the_same_methods():
    printed = subprocess.run(
        [sys.executable, "-m", "polmrs.cli", "methods", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(printed.stdout)["methods"] == LISTED
