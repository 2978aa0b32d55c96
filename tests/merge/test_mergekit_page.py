"""The page for those who come from mergekit names every command and every option that it has, by its sources."""

import ast
import configparser
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "mergekit.md"


@pytest.fixture(scope="module")
def sources(peer):
    """The folder of its packages."""
    [found] = Path(peer("mergekit")).parents[1].glob("lib/python*/site-packages")
    return found


def commands(sources):
    """Every command with the file that holds it."""
    [installed] = sources.glob("mergekit-*.dist-info/entry_points.txt")
    points = configparser.ConfigParser()
    points.read(installed)
    for name, place in points["console_scripts"].items():
        yield name, sources / f"{place.split(':')[0].replace('.', '/')}.py"


def options(file):
    """The long names of the options that a file declares, without their negations."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "option":
            for word in node.args:
                if isinstance(word, ast.Constant) and str(word.value).startswith("--"):
                    yield str(word.value).split("/")[0]


def shared(file):
    """The options that all commands share: fields of one class."""
    [fields] = [
        node for node in ast.parse(file.read_text()).body if getattr(node, "name", "") == "MergeOptions"
    ]
    names = [node.target.id for node in fields.body if isinstance(node, ast.AnnAssign)]
    return ["-v" if name == "verbosity" else f"--{name.replace('_', '-')}" for name in names]


@pytest.mark.peer("mergekit")
def test_every_command_and_every_option_is_mapped(sources):
    page = PAGE.read_text().replace("--[no-]", "--")
    seen = 0
    for command, file in commands(sources):
        assert re.search(rf"`{command}[ `]", page), command
        for option in options(file):
            assert re.search(rf"{option}[`, ]", page), f"{command} {option}"
            seen += 1
    assert seen > 50
    found = shared(sources / "mergekit" / "options.py")
    assert len(found) > 20
    for option in found:
        assert re.search(rf"`{option}[` ]", page), option
