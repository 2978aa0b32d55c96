"""mergekit's own tests of merging, with `merge_state_dicts` replaced by polmrs.

    .venv/bin/python peers/mergekit_sdist.py [--markdown FILE]

Downloads mergekit's source archive (pip; LGPL-3.0-only, so it is run where it lies and nothing of it is kept), and runs
two files of its tests in the environment of the peer. A test that never calls the function is set aside, and so is one
that FOREIGN names with a reason; every other test must pass, and one that FOREIGN names must fail, or the exit code is 1.
`merge_tensors`, its function for one tensor, is in neither of the files: that is checked.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".peers" / "mergekit" / "bin" / "python"
VERSION = "0.1.5"
FILES = ("test_merge_method_regressions.py", "test_batched_merges.py")

GRADIENTS = "asks for gradients of the result; polmrs merges weights, without autograd"
# Tests that call the function and ask for something that is mergekit's own, and why.
FOREIGN = {
    "test_nuslerp_mixed_collinear_rows_have_finite_gradients": GRADIENTS,
    "test_karcher_differentiates_output_scale": GRADIENTS,
    "test_karcher_below_tolerance_keeps_zero_gradients": GRADIENTS,
    "test_spherical_merge_gradients_match_finite_differences": GRADIENTS,
    "test_task_arithmetic_values_and_gradients": GRADIENTS,
    "test_module_buffers_are_not_numerically_merged": "asserts the words of mergekit's message; polmrs refuses in others",
}


def main() -> int:
    """Run the tests, print every verdict, and say whether all is as it should be."""
    parser = argparse.ArgumentParser(description="mergekit's tests with polmrs inside.")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--markdown", type=Path, help="also write the list as a page of the documentation")
    args = parser.parse_args()
    if args.inside:
        return run_inside(args.inside)
    with tempfile.TemporaryDirectory() as folder:
        tests = download(Path(folder))
        command = [PEER, __file__, "--inside", tests]
        env = {**os.environ, "PYTHONPATH": "", "TOKENIZERS_PARALLELISM": "false"}
        subprocess.run(command, cwd=tests, env=env, stdout=sys.stderr, check=False)
        outcomes: dict[str, list[str]] = json.loads((tests / "outcomes.json").read_text())
    verdicts = {node: verdict(node, *outcome) for node, outcome in sorted(outcomes.items())}
    for node, (status, reason) in verdicts.items():
        say(f"{status:14} {node}{f'  ({reason})' if reason else ''}")
    counts = {status: sum(found == status for found, _ in verdicts.values()) for status in STATUSES}
    say(", ".join(f"{count} {status}" for status, count in counts.items()))
    if args.markdown:
        args.markdown.write_text(page(verdicts, counts))
    return int(counts["WRONG"] > 0 or counts["passed"] == 0)


def say(line: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(line + "\n")


STATUSES = ("passed", "not applicable", "WRONG")


def verdict(node: str, outcome: str, calls: str) -> tuple[str, str]:
    """What a test's outcome means: a status, and a reason unless it passed."""
    name = node.split("::")[1].split("[")[0]
    if outcome == "skipped":
        return "not applicable", "skips itself here: it needs a GPU"
    if calls == "0":
        return "not applicable", "does not call merge_state_dicts"
    if name in FOREIGN:
        return (
            ("WRONG", "passes, yet FOREIGN names it")
            if outcome == "passed"
            else ("not applicable", FOREIGN[name])
        )
    return ("passed", "") if outcome == "passed" else ("WRONG", "fails")


def download(folder: Path) -> Path:
    """The folder of mergekit's tests."""
    wanted = [
        "--no-deps",
        "--no-binary",
        "mergekit",
        f"mergekit=={VERSION}",
        "--dest",
        str(folder),
        "--quiet",
    ]
    subprocess.run(["python3", "-m", "pip", "download", *wanted], check=True, stdout=sys.stderr)
    with tarfile.open(folder / f"mergekit-{VERSION}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    tests = folder / f"mergekit-{VERSION}" / "tests"
    for file in FILES:
        if "merge_tensors" in (tests / file).read_text():
            raise SystemExit(f"{file}: calls merge_tensors, which is not replaced here")
    return tests


def page(verdicts: Mapping[str, tuple[str, str]], counts: Mapping[str, int]) -> str:
    """The list, passed tests one by one, the others by reason."""
    lines = [
        "<!-- Written by `python peers/mergekit_sdist.py --markdown docs/mergekit_tests.md`. -->",
        "# mergekit's own tests",
        "",
        f"The tests of mergekit {VERSION} in `{FILES[0]}` and `{FILES[1]}`, run with `merge_state_dicts` replaced by",
        f"`polmrs.merge.merge`: {counts['passed']} pass, {counts['not applicable']} are not applicable. No test of the two files calls",
        "`merge_tensors`.",
        "",
        "`test_task_arithmetic_peak_memory` counts what torch allocates, which is no more than the result here; the memory of",
        "polmrs is measured by `benches/merge.py --only memory`.",
        "",
        "## Passed",
        "",
        *(f"- `{node}`" for node, (status, _) in verdicts.items() if status == "passed"),
        "",
        "## Not applicable",
    ]
    for reason in dict.fromkeys(reason for status, reason in verdicts.values() if status != "passed"):
        lines += ["", f"{reason[0].upper()}{reason[1:]}:", ""]
        lines += [f"- `{node}`" for node, found in verdicts.items() if found[1] == reason]
    return "\n".join(lines) + "\n"


def run_inside(tests: Path) -> int:
    """In the peer's environment: the tests, with our function; outcomes and calls by test go to a file."""
    import mergekit.merge_methods

    sys.path.append(str(ROOT / "python"))
    sys.path.append(
        str(next((ROOT / ".venv" / "lib").glob("python*/site-packages")))
    )  # pytest; the peer's come first
    import pytest

    seen = Outcomes()

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.calls += 1
        return merge_state_dicts(*args, **kwargs)

    mergekit.merge_methods.merge_state_dicts = counted
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tests), "--tb", "line"]
    pytest.main([*options, *(str(tests / file) for file in FILES)], plugins=[seen])
    (tests / "outcomes.json").write_text(json.dumps(seen.found))
    return 0


class Outcomes:
    """A plug-in of pytest: how every test went, and how often it called the function."""

    def __init__(self) -> None:
        self.calls = 0
        self.found: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logstart(self) -> None:
        """Begin to count anew."""
        self.calls = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note what the call came to, or that it was never reached."""
        node = report.nodeid.rsplit("/", 1)[-1]
        if report.when == "call" or report.outcome != "passed":
            self.found[node] = (report.outcome, str(self.calls))


def merge_state_dicts(
    models: Any,
    method: Any,
    *,
    parameters: Mapping[str, Any] | None = None,
    base: Hashable | None = None,
    dtype: Any = None,
    out_dtype: Any = None,
) -> dict[str, Any]:
    """`polmrs.merge.merge`, called as mergekit's function is."""
    import polmrs.merge as pm

    classes = {
        value.name: value for value in vars(pm).values() if hasattr(getattr(value, "name", None), "lower")
    }
    chosen = classes[method if isinstance(method, str) else method.spec.name]
    named = models.items() if isinstance(models, Mapping) else enumerate(models)
    states = {key: state.state_dict() if hasattr(state, "state_dict") else state for key, state in named}
    based = base if chosen.base != "none" else None
    tensors = {
        str(key): {name: tensor.detach().contiguous() for name, tensor in state.items()}
        for key, state in states.items()
    }
    names = list(next(iter(tensors.values())))

    def merged(only: str | None) -> dict[str, Any]:
        own = configured(chosen, parameters or {}, list(states), based, names.index(only) if only else None)
        part = {key: {only: state[only]} for key, state in tensors.items()} if only else tensors
        kinds = {
            name: str(kind).removeprefix("torch.")
            for name, kind in (("dtype", dtype), ("out_dtype", out_dtype))
            if kind
        }
        return pm.merge(part, base=None if based is None else str(based), method=chosen(**own), **kinds)

    by_group = any(type(value).__name__ == "PerGroupValues" for value in (parameters or {}).values())
    if not by_group:
        return merged(None)
    return {name: tensor for only in names for name, tensor in merged(only).items()}


def configured(
    chosen: Any, parameters: Mapping[str, Any], keys: list[Hashable], base: Hashable | None, group: int | None
) -> dict[str, Any]:
    """Turn parameters into fields: per-model values in the order of the models that are not the base."""
    fields: dict[str, Any] = {}
    merged = [key for key in keys if key != base]
    for name, value in parameters.items():
        field = "lambda_" if name == "lambda" else name
        if field not in chosen.__dataclass_fields__:
            continue  # a method without it: mergekit documents it and ignores it
        one = value
        if type(value).__name__ == "PerGroupValues":
            one = list(value.values if hasattr(value, "values") else value)[group or 0]
        if isinstance(one, Mapping):
            one = [one[key] for key in merged]
        elif isinstance(one, Sequence) and not isinstance(one, str):
            one = list(one)[len(one) - len(merged) :]
        fields[field] = one
    return fields


if __name__ == "__main__":
    sys.exit(main())
