"""The README's examples run as they stand, in a folder that holds the models they name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

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
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    for seed, name in enumerate(["sft", "math", "code"]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=16, tie_word_embeddings=True, **shape))
        model.save_pretrained(tmp_path / "out" / name)


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
    for folder in ["out/merged", "out/int4"]:
        assert list(Path(folder).glob("*.safetensors"))


@pytest.mark.usefixtures("models")
def test_the_python_of_the_readme_runs():
    for block in blocks("python"):
        exec(compile(block, str(README), "exec"), {})
    assert list(Path("out/merged").glob("*.safetensors"))
