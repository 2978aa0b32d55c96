"""What a model may be called: folders, files, models of the Hub in the cache."""

import shutil

import polmrs.merge as pm
import pytest
from huggingface_hub import constants
from merge.made import same_bits
from polmrs.errors import ConfigError, NotFoundError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return cache


def store(cache, repo, folder, revision="main"):
    """Puts a folder into the cache as huggingface_hub does: blobs, a snapshot of symlinks, a ref."""
    home = cache / f"models--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    for path in (home / "blobs", snapshot, home / "refs"):
        path.mkdir(parents=True, exist_ok=True)
    for at, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, home / "blobs" / f"{at:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{at:040x}")
    (home / "refs" / revision).write_text(COMMIT)


def merged(models, out, **options):
    pm.merge(models, method=pm.Linear(), to=out, **options)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("name", ["org/tiny", "org/tiny@main", f"org/tiny@{COMMIT}"])
def test_a_model_in_the_cache_is_read_from_there(hub, llamas, tmp_path, name):
    store(hub, "org/tiny", llamas / "base")
    result = merged([name], tmp_path / "out")
    assert all(
        same_bits(result[key], value) for key, value in load_file(llamas / "base/model.safetensors").items()
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"org/tiny@{COMMIT}" in card
    assert str(hub) not in card


def test_transformers_reads_the_same_cache(hub, llamas, monkeypatch):
    store(hub, "org/tiny", llamas / "base")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    AutoModelForCausalLM.from_pretrained("org/tiny", local_files_only=True, cache_dir=hub)


def test_a_local_folder_wins_over_a_name_of_the_hub(hub, llamas, tmp_path, monkeypatch):
    store(hub, "org/tiny", llamas / "math")
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "tiny").symlink_to(llamas / "base")
    monkeypatch.chdir(tmp_path)
    result = merged(["org/tiny"], tmp_path / "out")
    assert all(
        same_bits(result[key], value) for key, value in load_file(llamas / "base/model.safetensors").items()
    )


def test_what_is_nowhere_says_where_it_was_looked_for(hub, llamas, tmp_path):
    with pytest.raises(
        NotFoundError, match=r"models\[0\]: 'org/none': no such local folder, and not in the cache /"
    ) as raised:
        merged(["org/none"], tmp_path / "out")
    assert str(hub) in str(raised.value)
    with pytest.raises(
        NotFoundError, match=r"models\[0\]: none: no such file or folder \(a model is a local folder"
    ):
        merged(["none"], tmp_path / "out")
    with pytest.raises(ConfigError, match="has no revisions"):
        merged([f"{llamas / 'base'}@main"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
