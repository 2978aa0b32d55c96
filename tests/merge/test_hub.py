"""Models of the Hub, against a Hub on loopback and against what huggingface_hub makes of the same cache."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polmrs.merge as pm
import pytest
import torch
from huggingface_hub import snapshot_download
from merge.fake_hub import COMMIT, FakeHub
from merge.made import same_bits
from peft import LoraConfig, get_peft_model
from polmrs.errors import CheckpointError, NotFoundError, StorageError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture(scope="module")
def files(llamas, tmp_path_factory):
    """The files of a model in two shards, each large enough to break in the middle, and of an adapter."""
    home = tmp_path_factory.mktemp("files")
    base = {path.name: path.read_bytes() for path in (llamas / "base").iterdir()}
    state = load_file(llamas / "base" / "model.safetensors")
    del base["model.safetensors"]
    state["model.filler"] = torch.arange(150_000, dtype=torch.float32)
    state["model.filling"] = torch.arange(150_000, dtype=torch.float32)
    names = sorted(state)
    weight_map = {}
    for at, file in enumerate(SHARDS):
        save_file({name: state[name] for name in names[at::2]}, home / file)
        weight_map |= dict.fromkeys(names[at::2], file)
        base[file] = (home / file).read_bytes()
    base["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    model = AutoModelForCausalLM.from_pretrained(llamas / "base")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(home / "adapter")
    adapter = {path.name: path.read_bytes() for path in (home / "adapter").iterdir()}
    return {"org/tiny": base, "org/lora": adapter}, state


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    """A Hub that serves the files to this process, and an empty cache."""
    server = FakeHub()
    server.repos = {name: dict(repo) for name, repo in files[0].items()}
    server.cache = tmp_path / "hf" / "hub"
    for name in (
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "secret")
    yield server
    server.shutdown()
    server.server_close()


def merged(models, out, **options):
    pm.merge(models, method=pm.Linear(), to=out, **options)
    return load_file(out / "model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


def home_of(hub, repo="org/tiny"):
    return hub.cache / f"models--{repo.replace('/', '--')}"


def test_a_model_is_downloaded_once_and_others_read_what_is_cached(hub, files, tmp_path):
    assert equal(merged(["org/tiny"], tmp_path / "out"), files[1])
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("w3") == ["w3"]
    asked = len(hub.log)
    assert equal(merged(["org/tiny@main"], tmp_path / "again"), files[1])
    assert len(hub.log) == asked  # whole in the cache: nobody is asked
    folder = Path(snapshot_download("org/tiny", cache_dir=hub.cache, local_files_only=True))
    assert folder == home_of(hub) / "snapshots" / COMMIT
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files[0]["org/tiny"]
    assert all(
        path.is_symlink() and str(path.readlink()).startswith("../../blobs/") for path in folder.iterdir()
    )
    AutoModelForCausalLM.from_pretrained("org/tiny", cache_dir=hub.cache, local_files_only=True)
    assert (home_of(hub) / "refs" / "main").read_text() == COMMIT
    assert not list(hub.cache.rglob("*.incomplete"))


def test_huggingface_hub_and_polmrs_go_on_from_each_others_files(hub, files, tmp_path):
    script = "import sys; from huggingface_hub import hf_hub_download as d; print(*[d('org/tiny', n) for n in sys.argv[1:]])"

    def theirs(*names):
        done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert theirs(SHARDS[0]) == [str(home_of(hub) / "snapshots" / COMMIT / SHARDS[0])]
    hub.log = []
    assert equal(merged(["org/tiny"], tmp_path / "out"), files[1])
    whole = {path.rsplit("/", 1)[1] for method, _, path, at, _ in hub.log if method == "GET" and not at}
    assert SHARDS[1] in whole
    assert SHARDS[0] not in whole
    hub.log = []
    assert [Path(path).name for path in theirs(*SHARDS, "config.json")] == [*SHARDS, "config.json"]
    asked = {(method, path.split("/")[1]) for method, _, path, *_ in hub.log if not path.startswith("/api/")}
    assert asked == {("HEAD", "org")}  # what the files are, and none of their bytes


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub, tmp_path):
    merged(["org/tiny"], tmp_path / "out")
    by_host = {
        host: {token for _, other, _, _, token in hub.log if other == host}
        for host in ("127.0.0.1", "localhost")
    }
    assert by_host == {"127.0.0.1": {True}, "localhost": {False}}
    everything = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert everything
    assert not any(b"secret" in path.read_bytes() for path in everything)


def test_a_plan_reads_headers_alone(hub, files):
    plan = pm.plan(["org/tiny"], method=pm.Linear())
    assert plan["output"]["tensors"] == len(files[1])
    assert not list(home_of(hub).glob("blobs/*.incomplete"))
    large = [
        entry
        for entry in hub.log
        if entry[0] == "GET" and ".safetensors" in entry[2] and "index" not in entry[2]
    ]
    assert large
    assert all(at == "bytes=0-131071" for _, _, _, at, _ in large)
    assert not any((home_of(hub) / "snapshots" / COMMIT / name).exists() for name in SHARDS)


def test_a_header_longer_than_the_first_request_is_read_whole(hub, tmp_path):
    state = {f"layers.{at}.{'long' * 20}": torch.full((1,), float(at)) for at in range(2000)}
    save_file(state, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    hub.repos["org/long"] = {"model.safetensors": data}
    assert int.from_bytes(data[:8], "little") > 131_072
    assert equal(merged(["org/long"], tmp_path / "out"), state)


def test_a_transfer_that_breaks_goes_on_where_it_broke(hub, files, tmp_path):
    hub.drops = 3
    assert equal(merged(["org/tiny"], tmp_path / "out"), files[1])
    resumed = [
        at
        for _, _, path, at, _ in hub.log
        if path.startswith("/cdn/") and at and not at.startswith("bytes=0-")
    ]
    assert hub.drops == 0
    assert len(resumed) >= 2


def test_a_server_without_ranges_is_read_from_the_start_again(hub, files, tmp_path):
    hub.drops, hub.ignores_ranges = 2, True
    assert equal(merged(["org/tiny"], tmp_path / "out"), files[1])


def test_a_busy_server_is_asked_again(hub, files, tmp_path):
    hub.busy = 3
    assert equal(merged(["org/tiny"], tmp_path / "out"), files[1])
    hub.busy = 99
    with pytest.raises(StorageError, match=r"cannot reach: the server answers 429, still after 4 tries"):
        merged(["org/tiny@refs/pr/1"], tmp_path / "other")


def test_wrong_bytes_are_refused_and_removed(hub, files, tmp_path):
    pm.plan(["org/tiny"], method=pm.Linear())
    hub.garbled = True
    with pytest.raises(
        CheckpointError,
        match=r"SHA-256 [0-9a-f]{64}, but the Hub says [0-9a-f]{64}; what had arrived is removed",
    ):
        merged(["org/tiny"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
    assert not list(hub.cache.rglob("*.incomplete"))
    hub.garbled = False
    assert equal(merged(["org/tiny"], tmp_path / "out"), files[1])


def test_ctrl_c_leaves_what_the_next_run_goes_on_from(hub, files, tmp_path):
    config = {"merge_method": "linear", "models": [{"model": "org/tiny", "parameters": {"weight": 1}}]}
    (tmp_path / "config.yml").write_text(json.dumps(config))
    hub.slow = 0.3
    command = [Path(sys.executable).with_name("polmrs"), "merge", tmp_path / "config.yml", tmp_path / "out"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 50_000 for path in hub.cache.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=30) == 130
    left = list(hub.cache.rglob("*.incomplete"))
    assert len(left) == 1
    hub.slow, hub.log = 0, []
    have = left[0].stat().st_size
    assert equal(merged(["org/tiny"], tmp_path / "out", overwrite=True), files[1])
    assert any(at == f"bytes={have}-" for _, _, path, at, _ in hub.requests("/cdn/"))


def test_a_disk_that_fills_while_downloading_keeps_what_arrived(hub, files, tmp_path, tmpfs):
    disk = tmpfs(tmp_path / "hf", "size=1m")
    with pytest.raises(StorageError, match=r"No space left on device \(os error 28\); free some space"):
        merged(["org/tiny"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    [left] = hub.cache.rglob("*.incomplete")
    have = left.stat().st_size
    assert have > 0
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
    hub.log = []
    assert equal(merged(["org/tiny"], tmp_path / "out"), files[1])
    assert any(at == f"bytes={have}-" for _, _, path, at, _ in hub.requests("/cdn/"))


def test_an_adapter_and_a_revision_come_from_the_hub(hub, llamas, tmp_path):
    ours = merged([f"{llamas / 'base'}+org/lora@refs/pr/1"], tmp_path / "out")
    (tmp_path / "adapter").mkdir()
    for name, data in hub.repos["org/lora"].items():
        (tmp_path / "adapter" / name).write_bytes(data)
    assert equal(ours, merged([f"{llamas / 'base'}+{tmp_path / 'adapter'}"], tmp_path / "local"))
    assert f"base+org/lora@{COMMIT}" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(CheckpointError, match=r"org/lora: is an adapter, not a model"):
        merged([f"org/lora+{tmp_path / 'adapter'}"], tmp_path / "other")
    for name, adapter in {"far": "org/lora", "near": tmp_path / "adapter"}.items():
        pm.merge([adapter], method=pm.Linear(), to=tmp_path / name)
    far, near = (tmp_path / name / "adapter_model.safetensors" for name in ("far", "near"))
    assert far.read_bytes() == near.read_bytes()


def test_refusals_say_what_to_do(hub, tmp_path, monkeypatch):
    def refused(name, match, error=NotFoundError):
        with pytest.raises(error, match=match):
            merged([name], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused(
        "org/none",
        r"models\[0\]: 'org/none': no such local folder, and http://127.* answers 401: there is no such model",
    )
    refused("org/tiny@v9", r"'org/tiny' has no revision 'v9'")
    hub.repos["org/old"] = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    refused("org/old", r"has no safetensors file; pickles are refused.*polmrs convert")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN")
    hub.gated = True
    refused("org/tiny", r"'org/tiny' is gated: accept its terms at http://.*/org/tiny; then set HF_TOKEN")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.log)
    refused("org/tiny", r"not in the cache /.*; HF_HUB_OFFLINE forbids to ask the Hub")
    assert len(hub.log) == asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused(
        "org/tiny",
        r"http://127\.0\.0\.1:9/api.*cannot reach: .*is no local folder and not whole in the cache",
        StorageError,
    )


def test_a_hostile_hub_writes_nowhere_else(hub, tmp_path):
    evil = dict(hub.repos["org/tiny"]) | {"../../../evil.json": b"{}", "sub/evil.json": b"{}"}
    hub.repos["org/tiny"] = evil
    merged(["org/tiny"], tmp_path / "out")
    assert not list(tmp_path.rglob("evil*"))
