"""How long a clean build of the program takes, and how large the wheel is.

python benches/run.py --build
"""

import tempfile
from pathlib import Path

from checkpoints import HOME
from measure import Command, measured
from record import ROOT, Measurement, record


def record_build(out: Path) -> None:
    """Build from nothing in a folder of its own (crates come from cargo's cache), and record what it took."""
    HOME.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME) as name:
        target = Path(name)
        env = {"CARGO_TARGET_DIR": str(target)}
        cli: Command = ["cargo", "build", "--release", "--locked", "--package", "polmrs-cli"]
        run = measured(cli, env=env)
        line = Measurement(name="build.cli", size="release, clean", median=run.wall, unit="s", cpu=run.cpu)
        record(out, line)
        wheels = target / "wheels"
        maturin: Command = [ROOT / ".venv" / "bin" / "maturin", "build", "--locked", "--out", wheels]
        measured(maturin, env=env)
        (wheel,) = wheels.glob("*.whl")
        size = wheel.stat().st_size / 1e6
        record(out, Measurement(name="build.wheel", size=wheel.name.split("-", 2)[2], median=size, unit="MB"))
