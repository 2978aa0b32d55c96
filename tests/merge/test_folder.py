"""A merge into a folder: what it holds, what loads it, and what is left after every kind of failure (nothing)."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polmrs.merge as pm
import pytest
import torch
from merge.made import folder, same_bits, weights
from polmrs.errors import CheckpointError, NonFiniteError, OutputExistsError, StorageError, UsageError
from safetensors import safe_open

NAMES = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]


def tensors(seed=0, dtype=torch.float32, **others):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(40, 16), (24, 16), (16,)]
    made = {name: torch.randn(shape, generator=generator) for name, shape in zip(NAMES, shapes, strict=True)}
    return {name: tensor.to(dtype) for name, tensor in (made | others).items()}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Three models and a configuration that merges two of them on the third."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["base", "math", "code"]):
        folder(tmp_path / name, tensors(seed))
    write_config()
    return tmp_path


def write_config(base="base", math="math", code="code", method="task_arithmetic", extra=""):
    rows = "".join(f"  - model: {model}\n    parameters: {{weight: 0.5}}\n" for model in (math, code))
    Path("c.yml").write_text(f"merge_method: {method}\nbase_model: {base}\nmodels:\n{rows}{extra}")


def listing(path="."):
    """Every file below a folder, and its size."""
    return {
        str(file.relative_to(path)): file.stat().st_size for file in Path(path).rglob("*") if file.is_file()
    }


@pytest.fixture
def fails(home, polmrs):
    """Runs a merge that must fail with an exit code and a message, and leave nothing behind."""

    def run(code, message, *options, out="out", **keywords):
        before = listing()
        result = polmrs("merge", "c.yml", out, *options, **keywords)
        assert result.returncode == code, result.stderr
        assert message in result.stderr
        assert result.stdout == ""
        assert listing() == before
        assert not list(home.glob("*.partial*"))

    return run


# What it holds


@pytest.mark.parametrize("shard_size", [5_000_000_000, 30_000])
def test_transformers_loads_it_and_computes_with_its_tensors(llamas, tmp_path, shard_size):
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    out = tmp_path / "out"
    models, base = [llamas / "math", llamas / "code"], llamas / "base"
    report = pm.merge(
        models, base=base, method=pm.TIES(density=0.5), to=out, out_dtype="bfloat16", shard_size=shard_size
    )
    assert (len(report["output"]["files"]) > 1) == (shard_size == 30_000)
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    found = weights(out)
    assert found.keys() == weights(base).keys()
    assert all(same_bits(model.state_dict()[name], tensor) for name, tensor in found.items())
    by_hand = LlamaForCausalLM(LlamaConfig.from_pretrained(base))
    by_hand.load_state_dict({name: tensor.float() for name, tensor in found.items()})
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        wide = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        assert torch.equal(wide(tokens).logits, by_hand(tokens).logits)
    chat = [{"role": "user", "content": "w1 w2"}]
    assert AutoTokenizer.from_pretrained(out).apply_chat_template(chat, tokenize=False) == "w1 w2"
    assert model.generation_config.max_new_tokens == 5


def test_the_config_is_the_base_s_with_the_new_dtype(home):
    config = {
        "architectures": ["X"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "_name_or_path": str(home),
        "z": 1,
        "a": [1.0, 1e-05],
    }
    folder(home / "base", tensors(0), config=config)
    pm.merge(["math", "code"], base="base", method=pm.TaskArithmetic(), to="out", out_dtype="bfloat16")
    written = json.loads((home / "out/config.json").read_text())
    assert written == {key: value for key, value in config.items() if key != "_name_or_path"} | {
        "torch_dtype": "bfloat16"
    }
    assert list(written) == [key for key in config if key != "_name_or_path"]


def test_without_a_base_the_first_model_gives_config_and_files(home):
    folder(home / "math", tensors(1), config={"model_type": "first"}, tokenizer__json="{1}")
    folder(home / "code", tensors(2), config={"model_type": "second"}, tokenizer__json="{2}")
    pm.merge(["math", "code"], method=pm.Linear(), to="out")
    assert json.loads((home / "out/config.json").read_text())["model_type"] == "first"
    assert (home / "out/tokenizer.json").read_text() == "{1}"


def test_the_card_names_inputs_by_fingerprint_and_licence_and_shows_no_path(home):
    folder(home / "math", tensors(1), README__md="---\nlicense: apache-2.0\ntags: [x]\n---\n# Math\n")
    folder(home / "code", tensors(2), README__md="---\nlicense: 'mit'\n---\n")
    config = {"model_type": "llama", "_name_or_path": str(home / "base")}
    folder(home / "base", tensors(0), config=config)
    pm.merge([home / "math", home / "code"], base=home / "base", method=pm.TIES(density=0.5), to=home / "out")
    for file in (home / "out").iterdir():
        assert str(home).encode() not in file.read_bytes(), file
    card = (home / "out/README.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in card.splitlines()
        if line.startswith("| ")
    ]
    assert [row[:3] for row in rows[1:]] == [
        ["math", "model", "apache-2.0"],
        ["code", "model", "mit"],
        ["base", "base", "not stated"],
    ]
    prints = [row[3].strip("`") for row in rows[1:]]
    assert all(len(bytes.fromhex(fingerprint)) == 32 for fingerprint in prints)
    assert len(set(prints)) == 3
    assert "license:" not in card.split("---")[1]  # two different ones: none is claimed for the whole
    assert "merge_method: ties" in card


def test_a_licence_that_all_share_is_that_of_the_result(home):
    for seed, name in enumerate(["base", "math", "code"]):
        folder(home / name, tensors(seed), README__md="---\nlicense: mit\n---\n")
    pm.merge(["math", "code"], base="base", method=pm.TaskArithmetic(), to="out")
    assert "\nlicense: mit\n" in (home / "out/README.md").read_text().split("---")[1]


def test_a_fingerprint_does_not_depend_on_shards(home):
    pm.merge(["math"], method=pm.Passthrough(), to="whole")
    pm.merge(["math"], method=pm.Passthrough(), to="shards", shard_size=1)
    for name in ("whole", "shards"):
        pm.merge([name], method=pm.Passthrough(), to=f"{name}-copy")
    prints = [(home / f"{name}-copy/README.md").read_text().split("`")[3] for name in ("whole", "shards")]
    assert prints[0] == prints[1]


def test_the_configuration_in_the_folder_makes_the_same_folder_again(home):
    write_config(
        method="dare_ties",
        extra="parameters:\n  density: [{filter: mlp, value: [0.1, 0.9]}, {value: 0.5}]\n  lambda: 1e-1\n",
    )
    pm.merge("c.yml", to="out", seed=3)
    pm.merge("out/mergekit_config.yml", to="again", seed=3)
    assert (home / "out/model.safetensors").read_bytes() == (home / "again/model.safetensors").read_bytes()
    assert (home / "out/mergekit_config.yml").read_text() == (home / "again/mergekit_config.yml").read_text()


@pytest.mark.parametrize("shard_size", [1, 1000, 2000, 10**9])
def test_any_shard_size_holds_the_same_bits(home, shard_size):
    method, models = pm.DARETIES(density=0.3), ["math", "code"]
    report = pm.merge(models, base="base", method=method, to="out", shard_size=shard_size)
    in_memory = pm.merge({name: weights(name) for name in models}, base=weights("base"), method=method)
    found = weights("out")
    assert found.keys() == in_memory.keys()
    assert all(same_bits(found[name], tensor) for name, tensor in in_memory.items())
    files = {file["name"]: file["bytes"] for file in report["output"]["files"]}
    assert files == {name: size for name, size in listing("out").items() if name.endswith(".safetensors")}
    if len(files) > 1:
        index = json.loads((home / "out/model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
        assert set(index["weight_map"].values()) == set(files)
    for file in files:
        with safe_open(home / "out" / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}


def test_a_single_file_is_a_model_too(home):
    pm.merge(
        ["math/model.safetensors", "code"],
        base="base/model.safetensors",
        method=pm.TaskArithmetic(),
        to="one",
    )
    pm.merge(["math", "code"], base="base", method=pm.TaskArithmetic(), to="two")
    assert (home / "one/model.safetensors").read_bytes() == (home / "two/model.safetensors").read_bytes()
    shutil.move("math/model.safetensors", "alone.safetensors")
    pm.merge(["alone.safetensors"], method=pm.Passthrough(), to="three")
    assert not (home / "three/config.json").exists()
    assert weights("three").keys() == set(NAMES)


def test_integer_buffers_are_copied_if_all_agree(home):
    ids = torch.arange(7)
    for seed, name in enumerate(["base", "math", "code"]):
        folder(home / name, tensors(seed) | {"position_ids": ids, "flag": torch.tensor(True)})
    pm.merge(["math", "code"], base="base", method=pm.TIES(density=0.5), to="out", dtype="bfloat16")
    assert same_bits(weights("out")["position_ids"], ids)
    assert same_bits(weights("out")["flag"], torch.tensor(True))
    folder(home / "code", tensors(2) | {"position_ids": ids + 1, "flag": torch.tensor(True)})
    with pytest.raises(
        CheckpointError, match=r"position_ids: .*code hold different values; I64 is not averaged"
    ):
        pm.merge(["math", "code"], base="base", method=pm.TIES(density=0.5), to="other")
    assert not (home / "other").exists()


# Tied embeddings


TIED = {"model_type": "llama", "tie_word_embeddings": True}


def test_a_tied_head_may_be_stored_or_not(home):
    head = torch.randn(40, 16)
    folder(home / "base", tensors(0), config=TIED)
    folder(home / "math", tensors(1, **{"lm_head.weight": head}), config=TIED)
    folder(home / "code", tensors(2), config=TIED)
    report = pm.merge(["math", "code"], base="base", method=pm.TaskArithmetic(), to="out")
    assert weights("out").keys() == set(NAMES)
    assert report["notes"] == ["math: 'lm_head.weight' is left out, because base ties it to the embedding"]


def test_an_untied_base_takes_the_embedding_of_a_tied_model_as_its_head(home):
    folder(
        home / "base",
        tensors(0, **{"lm_head.weight": torch.zeros(40, 16)}),
        config={"tie_word_embeddings": False},
    )
    folder(home / "math", tensors(1), config=TIED)
    pm.merge(["math"], base="base", method=pm.TaskArithmetic(), to="out")
    assert torch.equal(weights("out")["lm_head.weight"], weights("math")[NAMES[0]])
    folder(home / "code", tensors(2))  # neither tied nor whole
    with pytest.raises(CheckpointError, match=r"code: tensor 'lm_head.weight' of base is missing"):
        pm.merge(["code"], base="base", method=pm.TaskArithmetic(), to="other")


@pytest.mark.parametrize("stored", [True, False])
def test_transformers_ties_the_result_again(llamas, tmp_path, stored):
    from transformers import AutoModelForCausalLM, LlamaConfig

    for name in ("base", "math"):
        config = LlamaConfig.from_pretrained(llamas / name).to_dict() | {"tie_word_embeddings": True}
        found = weights(llamas / name)
        found["lm_head.weight"] = found["model.embed_tokens.weight"].clone()
        if not stored:
            del found["lm_head.weight"]
        folder(tmp_path / name, found, config=config)
    pm.merge(
        [tmp_path / "math"], base=tmp_path / "base", method=pm.TaskArithmetic(weight=0.5), to=tmp_path / "out"
    )
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(model.lm_head.weight, weights(tmp_path / "out")["model.embed_tokens.weight"])


# What does not fit, known from headers


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model.norm.weight": torch.ones(17)}, "code: 'model.norm.weight' has shape [17], but [16] in base"),
        ({"model.nrom.weight": torch.ones(16)}, "code: tensor 'model.nrom.weight' is not in base; did you mean 'model.norm.weight'?"),
        ({"model.norm.weight": None}, "code: tensor 'model.norm.weight' of base is missing"),
        ({"model.norm.weight": torch.ones(16, dtype=torch.int32)}, "'model.norm.weight': types F32, F32, I32 do not go together"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit_are_refused_before_any_work(home, fails, polmrs, changed, message):
    found = {name: tensor for name, tensor in (tensors(2) | changed).items() if tensor is not None}
    folder(home / "code", found)
    fails(3, message)
    planned = polmrs("plan", "c.yml")
    assert (planned.returncode, planned.stdout) == (3, "")
    assert message in planned.stderr


def test_unknown_keys_are_refused(home, fails):
    write_config(extra="paramters: {lambda: 1}\n")
    fails(3, "c.yml:8:1: paramters: unknown key; did you mean 'parameters'?")


def test_lenient_notes_unknown_keys_on_stderr(home, polmrs):
    write_config(extra="frobnicate: 1\n")
    result = polmrs("merge", "c.yml", "out", "--lenient")
    assert (result.returncode, result.stderr) == (0, "note: c.yml:8:1: frobnicate: unknown key\n")
    assert polmrs("merge", "c.yml", "silent", "--lenient", "--quiet").stderr == ""


# What goes wrong on the way


def test_a_nan_in_an_input_is_named_by_tensor_and_element(home, fails):
    broken = tensors(2)
    broken[NAMES[0]][3, 5] = torch.nan
    folder(home / "code", broken)
    fails(5, f"code: '{NAMES[0]}': element {3 * 16 + 5} is NaN, not a finite number")
    with pytest.raises(NonFiniteError, match="element 53 is NaN"):
        pm.merge(["math", "code"], base="base", method=pm.TIES(density=0.5), to="out")
    pm.merge("c.yml", to="out", allow_nonfinite=True)
    assert weights("out")[NAMES[0]].isnan().sum() == 1


def test_a_result_too_large_for_its_type_is_named(home, fails):
    folder(home / "code", {name: tensor * 1e5 for name, tensor in tensors(2).items()})
    write_config(extra="out_dtype: float16\n")
    fails(5, "not finite in float16")


@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(home, fails, left):
    path = home / "code/model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    fails(3, "code/model.safetensors")


def test_a_missing_shard_is_named(home, fails):
    pm.merge(["code"], method=pm.Passthrough(), to="shards", shard_size=1000)
    shard = sorted(Path("shards").glob("*.safetensors"))[1]
    shard.unlink()
    write_config(code="shards")
    fails(3, shard.name)


@pytest.mark.parametrize("config", ["", "{", "[1", "\x00"])
def test_a_config_that_is_no_json_is_refused(home, fails, config):
    (home / "code/config.json").write_text(config)
    fails(3, "config.json")


def test_an_output_under_a_file_is_an_io_error(home, fails):
    Path("file").write_text("")
    fails(4, "file/out", out="file/out")
    with pytest.raises(StorageError) as raised:
        pm.merge("c.yml", to="file/out")
    assert isinstance(raised.value, OSError)


def test_a_read_only_disk_is_an_io_error(home, tmpfs, fails):
    tmpfs(home / "disk", "ro")
    fails(4, "Read-only file system (os error 30); write to another file system", out="disk/out")


@pytest.mark.parametrize("shard_size", ["5GB", "40kB"])
def test_a_full_disk_is_an_io_error(home, tmpfs, fails, shard_size):
    disk = tmpfs(home / "disk", "size=128k")
    for seed, name in enumerate(["base", "math", "code"]):
        folder(
            home / name,
            tensors(seed, **{f"model.layers.{at}.w.weight": torch.ones(10_000) for at in range(6)}),
        )
    fails(
        4,
        "No space left on device (os error 28); free some space or write elsewhere",
        "--shard-size",
        shard_size,
        out="disk/out",
    )
    assert not list(disk.iterdir())


def test_a_limit_on_the_size_of_files_is_an_io_error(home, fails):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    fails(4, "File too large (os error 27)", preexec_fn=limit)


# Where it may write


def test_an_output_that_exists_is_kept_unless_overwritten(home, fails, polmrs):
    pm.merge("c.yml", to="out")
    fails(3, "out: exists; --overwrite replaces it")
    with pytest.raises(OutputExistsError):
        pm.merge("c.yml", to="out")
    write_config(method="ties")
    before = (home / "out/model.safetensors").read_bytes()
    assert polmrs("merge", "c.yml", "out", "--overwrite").returncode == 0
    assert (home / "out/model.safetensors").read_bytes() != before
    assert {path.name for path in home.iterdir()} == {"base", "math", "code", "out", "c.yml"}


def test_overwrite_replaces_model_folders_only(home, fails):
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("precious")
    fails(3, "out: holds no *.safetensors, so --overwrite does not replace it", "--overwrite")
    fails(3, "c.yml: exists and is not a folder", "--overwrite", out="c.yml")


def test_a_failed_overwrite_keeps_the_old_folder(home, fails):
    pm.merge("c.yml", to="out")
    broken = tensors(2)
    broken[NAMES[0]][0, 0] = torch.inf
    folder(home / "code", broken)
    fails(5, "element 0 is inf", "--overwrite")


@pytest.mark.parametrize("out", ["math", "./math/", "base/../math", "link", "nowhere/../math"])
def test_an_input_is_never_overwritten(home, fails, out):
    Path("link").symlink_to("math")
    fails(2, "is also the input 'math'; write elsewhere", "--overwrite", out=out)
    with pytest.raises(UsageError, match="is also the input"):
        pm.merge("c.yml", to=out, overwrite=True)


def test_a_folder_that_holds_an_input_is_never_overwritten(home, fails):
    folder(home / "outer", tensors(0))
    shutil.move("math", "outer/math")
    write_config(math="outer/math")
    fails(2, "outer/math", "--overwrite", out="outer")


def test_what_a_killed_run_left_is_replaced(home):
    Path("out.partial").mkdir()
    Path("out.partial/.polmrs.lock").touch()
    Path("out.partial/model.safetensors").write_bytes(b"half")
    pm.merge("c.yml", to="out")
    assert not Path("out.partial").exists()
    assert weights("out").keys() == set(NAMES)


def test_a_folder_called_partial_that_is_not_ours_is_kept(home, polmrs):
    Path("out.partial").mkdir()
    Path("out.partial/mine").write_text("precious")
    result = polmrs("merge", "c.yml", "out")
    assert result.returncode == 3
    assert "out.partial: was not made by polmrs; move it away" in result.stderr
    assert Path("out.partial/mine").exists()


# The command line


def test_the_result_goes_to_stdout_and_json_has_a_schema(home, polmrs):
    plain = polmrs("merge", "c.yml", "out")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert plain.stdout.startswith("out: 1.04 k parameters in ")
    report = json.loads(polmrs("merge", "c.yml", "second", "--json").stdout)
    planned = json.loads(polmrs("plan", "c.yml", "--json").stdout)
    assert report["schema"] == "polmrs.merge/1"
    assert planned["schema"] == "polmrs.plan/1"
    assert report["to"] == "second"
    assert report.keys() - planned.keys() == {"to", "seconds", "resumed_tensors", "verified"}
    assert planned["method"] == "task_arithmetic"
    assert [(row["model"], row["base"], row["tensors"]) for row in planned["inputs"]] == [
        ("math", False, 3), ("code", False, 3), ("base", True, 3)]  # fmt: skip
    assert planned["output"]["dtype"] == "float32"
    assert planned["output"]["parameters"] == 1040
    assert planned["disk_bytes"] == (home / "out/model.safetensors").stat().st_size
    assert planned == pm.plan("c.yml")


def test_a_configuration_may_come_from_stdin(home, polmrs):
    result = polmrs("merge", "-", "out", input=Path("c.yml").read_text())
    assert result.returncode == 0
    result = polmrs("merge", "-", "other", input="merge_method: tise\nmodels: []")
    assert (result.returncode, result.stdout) == (3, "")
    assert "standard input:1:15: " in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["c.yml"], ["c.yml", "out", "--frobnicate"], ["c.yml", "out", "--shard-size", "0"], ["c.yml", "out", "--threads", "0"],
     ["c.yml", "out", "--seed", "x"]],
)  # fmt: skip
def test_a_wrong_command_line_exits_with_2(home, polmrs, arguments):
    result = polmrs("merge", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr
    assert not Path("out").exists()


# No network

# Ends the process at its first socket(2): a seccomp filter on the syscall's number.
WITHOUT_SOCKETS = """
import ctypes, platform
class Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter))]
number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
steps = (Filter * 4)((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(4, steps)), 0, 0) == 0
"""


def test_a_merge_opens_no_socket(home):
    def python(code):
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_SOCKETS + code], capture_output=True, text=True
        ).returncode

    if python("import socket; socket.socket()") != -signal.SIGSYS:
        pytest.skip("seccomp filters do not work here")
    assert (
        python("""
import sys, numpy as np
import polmrs.merge as pm
pm.merge("c.yml", to="out")
pm.merge({"a": {"w": np.ones(100_000)}}, method=pm.Linear())
from polmrs.cli import main
sys.argv = ["polmrs", "merge", "c.yml", "second"]
sys.exit(main())
""")
        == 0
    )
    assert listing("out") == listing("second")
