"""The README's examples run as they stand, in a folder that holds the models they name."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

README = Path(__file__).resolve().parent.parent / "README.md"


def blocks(language):
    found = re.findall(
        rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found, f"README.md: no {language} block"
    return found


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["sft", "math", "code"]):
        folder = tmp_path / "out" / name
        folder.mkdir(parents=True)
        random = np.random.default_rng(seed)
        weights = {
            "model.embed_tokens.weight": random.normal(size=(16, 8)).astype(np.float32),
            "model.norm.weight": random.normal(size=8).astype(np.float32),
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.usefixtures("models")
def test_the_commands_of_the_readme_run_on_its_yaml():
    for block in blocks("yaml"):
        name, _, config = block.partition("\n")
        Path(name.removeprefix("# ")).write_text(config)
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("polmrs ")]
    assert lines, "README.md: no polmrs command"
    for line in lines:
        arguments = line.partition("#")[0].split()[1:]
        subprocess.run([Path(sys.executable).with_name("polmrs"), *arguments], check=True)
    assert list(Path("out/merged").glob("*.safetensors"))


@pytest.mark.usefixtures("models")
def test_the_python_of_the_readme_runs():
    for block in blocks("python"):
        exec(compile(block, str(README), "exec"), {})
    assert list(Path("out/merged").glob("*.safetensors"))
