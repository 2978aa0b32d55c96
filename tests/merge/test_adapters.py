"""Adapters alone merge into an adapter: peft's numbers where it has the method, the nearest of the rank in any case."""

import json

import polmrs.merge as pm
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge.lora import changes, config, factors, loaded, made, merged_by_peft, pair
from merge.made import same_bits
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.filterwarnings("ignore")
LINEAR = ["q_proj", "v_proj", "down_proj"]
SAME = {
    "plain": ("llama", {"target_modules": LINEAR}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "head": ("llama", {"target_modules": ["lm_head", "o_proj"]}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "gpt2 embedding": ("gpt2", {"target_modules": ["wte", "c_attn"]}),
}


def nearest(matrix, rank):
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank] @ v[:rank]).float()


def assert_same_changes(ours, theirs, tolerance=5e-6):
    """Within rounding of peft's decomposition in f32, which differs a little with the number of threads."""
    assert ours.keys() == theirs.keys()
    for name, change in theirs.items():
        assert (ours[name] - change).norm() <= tolerance * change.norm() + 1e-9, name


@pytest.mark.parametrize("case", SAME)
def test_linear_equals_peft_by_svd_and_side_by_side(bases, tmp_path, case):
    which, settings = SAME[case]
    base = bases / which
    adapters = pair(base, tmp_path, second={"r": 3, "lora_alpha": 5}, **settings)
    method = pm.TaskArithmetic(weight=[0.7, -0.4])
    for combination, rank in (("svd", 4), ("cat", 7)):
        to = tmp_path / combination
        pm.merge(adapters, method=method, combination_type=combination, to=to)
        assert (config(to)["r"], config(to)["lora_alpha"], config(to)["use_rslora"]) == (rank, rank, False)
        theirs = merged_by_peft(base, adapters, [0.7, -0.4], combination)
        assert_same_changes(changes(loaded(base, to)), theirs)


def test_with_rslora_peft_gives_more_and_ours_is_the_sum_of_the_changes(bases, tmp_path):
    base = bases / "llama"
    adapters = pair(base, tmp_path, target_modules=LINEAR, use_rslora=True)
    pm.merge(adapters, method=pm.TaskArithmetic(weight=[1.0, 1.0]), svd_rank=8, to=tmp_path / "ours")
    ours = changes(loaded(base, tmp_path / "ours"))
    each = [changes(loaded(base, adapter)) for adapter in adapters]
    assert_same_changes(ours, {name: each[0][name] + each[1][name] for name in each[0]})
    theirs = merged_by_peft(base, adapters, [1.0, 1.0], "svd", svd_rank=8)
    assert_same_changes({name: change * 8**0.5 for name, change in ours.items()}, theirs)


def test_what_was_trained_whole_keeps_its_type_and_a_file_is_its_folder(tmp_path):
    made(tmp_path / "a", {"model.layers.0.up": (30, 20)})
    norm = torch.full((5,), 1.001)
    whole = {"base_model.model.model.norm.weight": norm}
    tensors = {name: tensor.bfloat16() for name, tensor in factors(tmp_path / "a").items()}
    save_file(tensors | whole, tmp_path / "a" / "adapter_model.safetensors")
    said = config(tmp_path / "a") | {"modules_to_save": ["norm"]}
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(said))
    pm.merge([tmp_path / "a" / "adapter_model.safetensors"], method=pm.Linear(), to=tmp_path / "out")
    found = factors(tmp_path / "out")
    assert same_bits(found["base_model.model.model.norm.weight"], norm)
    assert found["base_model.model.model.layers.0.up.lora_A.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("case", ["plain", "embedding", "gpt2"])
def test_ties_and_magnitude_pruning_equal_peft(bases, tmp_path, case):
    which, settings = SAME[case]
    base = bases / which
    adapters = pair(base, tmp_path, **settings)
    for name, method in {
        "ties_svd": pm.TIES(density=0.3),
        "magnitude_prune_svd": pm.Breadcrumbs(density=0.3, gamma=0.0),
    }.items():
        pm.merge(adapters, method=method, svd_rank=6, to=tmp_path / name)
        theirs = merged_by_peft(base, adapters, [1.0, 1.0], name, density=0.3, svd_rank=6)
        assert_same_changes(changes(loaded(base, tmp_path / name)), theirs, 1e-5)


def test_merging_one_adapter_changes_nothing(tmp_path):
    change = made(tmp_path / "a", {"model.layers.0.up": (30, 20), "model.layers.1.up": (20, 30)})
    for method in (pm.Linear(), pm.TIES(), pm.Karcher(), pm.MetaGPT()):
        to = tmp_path / method.name
        pm.merge([tmp_path / "a"], method=method, to=to)
        assert_same_changes(products(to), change)


@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    ranks=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    rank=st.integers(1, 12),
    method=st.sampled_from(
        [pm.TaskArithmetic(weight=[0.5, -2.0]), pm.TIES(density=0.4), pm.DARE(density=0.5)]
    ),
)
def test_no_matrix_of_the_rank_is_nearer_to_what_the_method_makes(
    tmp_path_factory, shape, ranks, rank, method
):
    """By one hundredth at most: what the method makes is computed from dense changes in memory."""
    home = tmp_path_factory.mktemp("nearest")
    name = "model.layers.0.up"
    parts = {
        str(home / f"{at}"): made(home / f"{at}", {name: shape}, rank=own, alpha=3, seed=at)
        for at, own in enumerate(ranks)
    }
    dense = {at: {f"{name}.weight": part[name]} for at, part in parts.items()}
    whole = pm.merge(dense, base={f"{name}.weight": torch.zeros(shape)}, method=method, seed=7)
    rank = min(rank, *shape)
    pm.merge(list(parts), method=method, seed=7, svd_rank=rank, to=home / "out")
    whole, found = whole[f"{name}.weight"], products(home / "out")[name]
    least = (whole - nearest(whole, rank)).norm()
    assert (whole - found).norm() <= 1.01 * least + 3e-6 * whole.norm()


def products(folder):
    """What an adapter without patterns changes, from its files alone."""
    scale, tensors = config(folder)["lora_alpha"] / config(folder)["r"], factors(folder)
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): scale
        * tensors[name.replace("lora_A", "lora_B")]
        @ a
        for name, a in tensors.items()
        if name.endswith("lora_A.weight")
    }


def test_dare_scatters_around_the_sum_as_far_as_peft_s_does(bases, tmp_path):
    """E |M - sum|² = (1/p - 1) sum_i w_i² |d_i|² for dare_linear; dare_ties: the two have the same mean length."""
    base = bases / "llama"
    adapters = pair(base, tmp_path, target_modules=["down_proj"])
    parts = [changes(loaded(base, adapter)) for adapter in adapters]
    ours = {
        "dare_linear_svd": pm.DARE(density=0.4, rescale="expected"),
        "dare_ties_svd": pm.DARETIES(density=0.4, rescale="expected", normalize=True),
    }
    lengths = {}
    for name, method in ours.items():
        merged = merged_by_peft(base, adapters, [1.0, 1.0], name, density=0.4, svd_rank=32)
        pm.merge(adapters, method=method, svd_rank=32, to=tmp_path / name, seed=3)
        lengths[name] = [], []
        for lot, found in zip(lengths[name], (changes(loaded(base, tmp_path / name)), merged), strict=True):
            for module, change in found.items():
                a, b = (part[module] for part in parts)
                if name == "dare_linear_svd":
                    spread = (
                        (change - a - b).square().sum() / (1.5 * (a.square() + b.square()).sum())
                    ).item()
                    assert spread == pytest.approx(1, abs=0.15), module
                lot.append((change.norm() / (a + b).norm()).item())
    for ours_, theirs in lengths.values():
        assert sum(ours_) == pytest.approx(sum(theirs), rel=0.05)


def test_every_rank_alpha_and_target_goes_and_the_result_is_the_nearest_of_its_rank(bases, tmp_path):
    base = bases / "llama"
    adapters = pair(
        base,
        tmp_path,
        {
            "target_modules": LINEAR,
            "r": 6,
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "v_proj": 7},
            "alpha_pattern": {"^model.layers.0.mlp.down_proj": 3},
        },
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2], "use_rslora": True},
    )
    a, b = (changes(loaded(base, adapter)) for adapter in adapters)
    report = pm.merge(adapters, method=pm.Linear(weight=[1, 3]), svd_rank=5, to=tmp_path / "out")
    found = changes(loaded(base, tmp_path / "out"))
    assert found.keys() == a.keys() | b.keys()
    lost = []
    for name, change in found.items():
        zero = torch.zeros_like(change)
        whole = 0.25 * a.get(name, zero) + 0.75 * b.get(name, zero)
        assert (change - nearest(whole, 5)).norm() <= 2e-6 * whole.norm()
        lost.append(((change - whole).norm() / whole.norm()).item() ** 2)
    assert report["adapter"]["lost"]["most"] == pytest.approx(max(lost), abs=1e-5)
    assert report["adapter"]["lost"]["mean"] == pytest.approx(sum(lost) / len(lost), abs=1e-5)
    assert any("9 of 11 modules are not in every adapter" in note for note in report["notes"])
    assert config(tmp_path / "out")["rank_pattern"] == {}
    assert len(config(tmp_path / "out")["target_modules"]) == 11  # by name: layers_to_transform was set
    exact = pm.merge(adapters, method=pm.Linear(weight=[1, 3]), combination_type="cat", to=tmp_path / "cat")
    assert exact["adapter"]["rank"] == 10  # q_proj of the first layer: 6 + 4
    assert exact["adapter"]["lost"]["most"] == 0.0


def test_the_merged_adapter_gives_the_logits_of_the_merged_models(bases, tmp_path):
    base = bases / "llama"
    adapters = pair(base, tmp_path, target_modules="all-linear", modules_to_save=["norm"])
    method = pm.Linear(weight=[0.3, 0.7])
    pm.merge(adapters, method=method, combination_type="cat", to=tmp_path / "adapter")
    pm.merge([f"{base}+{adapter}" for adapter in adapters], method=method, to=tmp_path / "model")
    tokens = torch.arange(1, 13)[None]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.allclose(
        loaded(base, tmp_path / "adapter")(tokens).logits, model(tokens).logits, atol=2e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    "method",
    [pm.Linear(), pm.TIES(density=0.3), pm.DELLA(density=0.5), pm.MetaGPT(), pm.Karcher(), pm.ModelStock()],
    ids=lambda method: method.name,
)
def test_any_number_of_threads_gives_the_same_bits(bases, tmp_path, method):
    adapters = pair(bases / "llama", tmp_path, target_modules="all-linear")
    for threads in (1, 3):
        pm.merge(adapters, method=method, to=tmp_path / f"out{threads}", threads=threads, seed=5)
    one, three = (factors(tmp_path / f"out{threads}") for threads in (1, 3))
    assert one.keys() == three.keys() == factors(adapters[0]).keys()
    assert all(same_bits(one[name], three[name]) for name in one)


def test_filters_and_gradients_hold_as_for_models(bases, tmp_path):
    base = bases / "llama"
    adapters = pair(base, tmp_path, target_modules=LINEAR)
    weight = [{"filter": "q_proj", "value": 0.0}, {"value": [0.0, 1.0]}]
    models = [{"model": str(adapter), "parameters": {"weight": weight}} for adapter in adapters]
    text = json.dumps({"merge_method": "task_arithmetic", "models": models, "combination_type": "cat"})
    (tmp_path / "c.yml").write_text(text)
    pm.merge(tmp_path / "c.yml", to=tmp_path / "out")
    a, b = (changes(loaded(base, adapter)) for adapter in adapters)
    for name, change in changes(loaded(base, tmp_path / "out")).items():
        factor = 0.0 if "q_proj" in name else int(name.split(".")[2]) / 2
        assert torch.allclose(change, factor * (a[name] + b[name]), atol=1e-7)


def test_an_adapter_may_be_the_base(bases, tmp_path):
    """ExPO from a first adapter through a second one, and what was trained whole along with it."""
    base = bases / "llama"
    adapters = pair(base, tmp_path, target_modules=LINEAR, modules_to_save=["norm"])
    pm.merge(
        adapters[1:], base=adapters[0], method=pm.ExPO(alpha=0.5), to=tmp_path / "out", combination_type="cat"
    )
    a, b = (changes(loaded(base, adapter)) for adapter in adapters)
    for name, change in changes(loaded(base, tmp_path / "out")).items():
        assert torch.allclose(change, b[name] + 0.5 * (b[name] - a[name]), atol=1e-7)
    name = "base_model.model.model.norm.weight"
    before, after, found = (factors(folder)[name] for folder in (*adapters, tmp_path / "out"))
    assert torch.allclose(found, after + 0.5 * (after - before))


def test_biases_of_lora_are_changes_too(bases, tmp_path):
    base = bases / "gpt2"
    settings = {"target_modules": ["c_attn"], "lora_bias": True}
    adapters = pair(base, tmp_path, second={"target_modules": ["c_attn"], "lora_bias": False}, **settings)
    pm.merge(adapters, method=pm.TaskArithmetic(weight=0.5), to=tmp_path / "out")
    assert config(tmp_path / "out")["lora_bias"] is True
    name = "base_model.model.transformer.h.1.attn.c_attn.lora_B.bias"
    assert torch.allclose(factors(tmp_path / "out")[name], 0.5 * 1.5 * factors(adapters[0])[name])
    loaded(base, tmp_path / "out")
