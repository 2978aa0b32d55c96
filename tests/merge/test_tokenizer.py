"""Models with different vocabularies: what becomes of every token, row and file, without mergekit at hand."""

import json
from pathlib import Path

import numpy as np
import polmrs.merge as pm
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge.made import same_bits, weights
from merge.vocabularies import by_hand
from polmrs.errors import CheckpointError, ConfigError
from safetensors.torch import save_file

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merge(models, tokenizer, *, weight=None, base=None):
    """Merges by a sum with weights; gives the report."""
    weight = weight or [1.0] * len(models)
    rows = [
        f"- {{model: {name}, parameters: {{weight: {w}}}}}\n" for name, w in zip(models, weight, strict=True)
    ]
    base = f"base_model: {base}\n" if base else ""
    text = f"merge_method: linear\n{base}models:\n{''.join(rows)}parameters: {{normalize: false}}\n"
    Path("c.yml").write_text(f"{text}tokenizer: {json.dumps(tokenizer)}\n")
    return pm.merge("c.yml", to="out", overwrite=True)


def vocabulary(path="out"):
    """The tokens of a folder by text."""
    found = json.loads(Path(f"{path}/tokenizer.json").read_text())
    return found["model"]["vocab"] | {token["content"]: token["id"] for token in found["added_tokens"]}


# The rows


def family(path, seed, *, columns, dtypes):
    """Models with random vocabularies in random order: their folders, tokens by row, and matrices."""
    random = np.random.default_rng(seed)
    words = [f"w{at}" for at in range(300)]
    models = {}
    for at, dtype in enumerate(dtypes):
        own = list(random.permutation(words)[: random.integers(40, 300)])
        shared = words[100 : 100 + random.integers(0, 150)]
        own = [*shared, *(word for word in own if word not in shared)]
        unused = int(random.integers(0, 3))
        shape = (len(own) + unused, columns)
        matrix, head, bias = (
            torch.tensor(random.normal(size=size)).to(dtype) for size in (shape, shape, shape[:1])
        )
        tensors = {EMBEDDING: matrix, HEAD: head, "lm_head.bias": bias, "model.norm.weight": head[0].clone()}
        by_hand(path / f"m{at}", {word: row for row, word in enumerate(own)}, tensors)
        models[f"m{at}"] = (own, tensors)
    return models


def aligned(models, name, base, tensor, out, rules):
    """A model's matrix in the rows of ``out``, one row after the other."""
    own = {model: {token: row for row, token in enumerate(tokens)} for model, (tokens, _) in models.items()}
    matrix = {model: tensors[tensor].double().numpy() for model, (_, tensors) in models.items()}
    rows = []
    for token in out:
        source, force = rules.get(token, (None, False))
        holders = [model for model in models if token in own[model]]
        if source == "zero" and (force or token not in own[name]):
            rows.append(np.zeros_like(matrix[name][0]))
        elif source and (force or token not in own[name]):
            rows.append(matrix[source][own[source][token]])
        elif token in own[name]:
            rows.append(matrix[name][own[name][token]])
        elif base in holders:
            rows.append(matrix[base][own[base][token]])
        else:
            found = [matrix[model][own[model][token]] for model in holders]
            rows.append(np.sum(found, 0, dtype=np.float32) / np.float32(len(found)))
    return np.array(rows)


@given(st.data())
def test_every_row_is_the_one_that_the_rules_name(tmp_path_factory, data):
    """Numpy indexing, one row at a time; matrices of several blocks, rows that do not divide them."""
    home = tmp_path_factory.mktemp("rows")
    seed, columns = data.draw(st.integers(0, 1 << 32)), data.draw(st.sampled_from([1, 7, 331, 1024]))
    dtypes = data.draw(st.lists(st.sampled_from([torch.float32, torch.bfloat16]), min_size=2, max_size=3))
    base = data.draw(st.sampled_from([None, "m0", "m1"]))
    models = family(home, seed, columns=columns, dtypes=dtypes)
    source = data.draw(st.sampled_from(["union", "base", "m1"]))
    first = base or "m0"
    order = [first, *(model for model in models if model != first)]
    out = list(models["m1" if source == "m1" else first][0])
    if source == "union":
        out += [token for token in dict.fromkeys(t for m in order for t in models[m][0]) if token not in out]
    rules = {}
    for token in data.draw(st.lists(st.sampled_from(out), unique=True, max_size=4)):
        holders = [model for model in models if token in models[model][0]]
        rules[token] = (data.draw(st.sampled_from([*holders, "zero"])), data.draw(st.booleans()))
    section = {
        "source": str(home / source) if source == "m1" else source,
        "tokens": {
            token: {"source": {"kind": "zero"} if name == "zero" else str(home / name), "force": force}
            for token, (name, force) in rules.items()
        },
    }
    chosen = data.draw(st.sampled_from(list(models)))
    text = "".join(
        f"- {{model: {home / name}, parameters: {{weight: {float(name == chosen)}}}}}\n" for name in models
    )
    (home / "c.yml").write_text(
        f"merge_method: linear\n{f'base_model: {home / base}' if base else ''}\nmodels:\n{text}"
        f"parameters: {{normalize: false}}\ndtype: float32\ntokenizer: {json.dumps(section)}\n"
    )
    report = pm.merge(home / "c.yml", to=home / "out")
    assert report["output"]["vocabulary"] == {"tokens": len(out), "rows": len(out)}
    assert list(vocabulary(home / "out")) == out
    assert list(vocabulary(home / "out").values()) == list(range(len(out)))
    found = weights(home / "out")
    for tensor in (EMBEDDING, HEAD, "lm_head.bias"):
        expected = aligned(models, chosen, base, tensor, out, rules)
        assert np.array_equal(found[tensor].numpy(), expected.astype(np.float32)), tensor
    norms = models[chosen][1]["model.norm.weight"]
    assert torch.equal(found["model.norm.weight"], norms.float())


def test_bits_are_the_same_for_any_number_of_threads_and_a_permutation_keeps_them(home):
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(700, 200, generator=random).bfloat16()
    order = torch.randperm(700, generator=random)
    names = [f"t{at}" for at in range(700)]
    by_hand(home / "a", {name: at for at, name in enumerate(names)}, {EMBEDDING: matrix})
    moved = {names[old]: new for new, old in enumerate(order)}
    by_hand(home / "b", moved, {EMBEDDING: matrix[order]})
    results = []
    for threads in (1, 2, 5):
        merge(["a", "b"], {"source": "base", "pad_to_multiple_of": 64}, weight=[0, 1], base="a")
        config = json.loads(Path("out/config.json").read_text())
        pm.merge("c.yml", to="again", threads=threads, overwrite=True)
        results.append(weights("again")[EMBEDDING])
        assert config["vocab_size"] == len(results[-1]) == 704
    assert all(same_bits(results[0], result) for result in results)
    assert torch.equal(results[0][:700], matrix)
    mean = matrix.double().mean(0).bfloat16()
    assert all(torch.equal(row, mean) for row in results[0][700:])


def test_a_head_that_one_model_ties_follows_the_other_models_heads(home):
    """The tied model's missing head row is the base's head row, not the base's embedding row."""
    a, b = torch.arange(6.0).reshape(3, 2), 100 + torch.arange(4.0).reshape(2, 2)
    by_hand(home / "base", {"x": 0, "y": 1, "z": 2}, {EMBEDDING: a, HEAD: -a})
    by_hand(home / "tied", {"z": 0, "y": 1}, {EMBEDDING: b}, config={"tie_word_embeddings": True})
    merge(["base", "tied"], {"source": "base"}, weight=[0, 1], base="base")
    found = weights("out")
    assert torch.equal(found[EMBEDDING], torch.stack([a[0], b[1], b[0]]))
    assert torch.equal(found[HEAD], torch.stack([-a[0], b[1], b[0]]))


def test_a_tensor_of_any_name_follows_if_its_size_cannot_mean_anything_else(home):
    for name, words, size in (("a", "x y z", 3), ("b", "z x", 2)):
        ids = {word: at for at, word in enumerate(words.split())}
        tensors = {EMBEDDING: torch.zeros(size, 2), "token_bonus": torch.arange(1.0, size + 1), "model.norm.weight": torch.ones(2)}  # fmt: skip
        by_hand(home / name, ids, tensors)
    merge(["a", "b"], {"source": "base"}, weight=[0, 1], base="a")
    assert weights("out")["token_bonus"].tolist() == [2, 2, 1]  # y is the base's


# The files


def test_files_are_those_of_the_chosen_model_and_ids_follow(home):
    matrix = {EMBEDDING: torch.ones(3, 2)}
    for name, ids, eos in (("a", {"</s>": 0, "x": 1, "y": 2}, 0), ("b", {"x": 0, "y": 1, "</s>": 2}, 2)):
        by_hand(
            home / name, ids, matrix, added=[(eos, "</s>", True)], config={"eos_token_id": eos, "pad_token_id": None} | ({"image_token_id": 1} if name == "a" else {}),
            tokenizer_config__json=json.dumps({"eos_token": "</s>", "who": name, "name_or_path": "/home/me"}),
            special_tokens_map__json=f'{{"who": "{name}"}}', LICENSE=name,
            generation_config__json=json.dumps({"eos_token_id": [eos], "top_k": 7 if name == "a" else 9}),
        )  # fmt: skip
    merge(["a", "b"], {"source": "b"}, base="a")
    config = json.loads(Path("out/config.json").read_text())
    assert (config["eos_token_id"], config["vocab_size"], "image_token_id" in config) == (2, 3, False)
    assert json.loads(Path("out/generation_config.json").read_text()) == {"eos_token_id": [2], "top_k": 7}
    assert json.loads(Path("out/tokenizer_config.json").read_text()) == {"eos_token": "</s>", "who": "b"}
    assert Path("out/special_tokens_map.json").read_text() == '{"who": "b"}'
    assert Path("out/LICENSE").read_text() == "a"
    assert Path("out/tokenizer.json").read_text() == (home / "b" / "tokenizer.json").read_text()


def test_files_that_repeat_the_added_tokens_are_kept_true(home):
    decoder = {"1": {"content": "<a>", "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}}  # fmt: skip
    files = {
        "tokenizer_config__json": json.dumps({"added_tokens_decoder": decoder}),
        "added_tokens__json": '{"<a>": 1}',
    }
    by_hand(home / "a", {"x": 0}, {EMBEDDING: torch.ones(2, 2)}, **files)
    by_hand(home / "b", {"x": 0}, {EMBEDDING: torch.ones(2, 2)}, added=[(1, "<b>", True)])
    merge(["a", "b"], {"source": "union"}, base="a")
    assert vocabulary() == {"x": 0, "<a>": 1, "<b>": 2}
    config = json.loads(Path("out/tokenizer_config.json").read_text())
    assert {at: token["content"] for at, token in config["added_tokens_decoder"].items()} == {
        "1": "<a>",
        "2": "<b>",
    }
    assert json.loads(Path("out/added_tokens.json").read_text()) == {"<a>": 1, "<b>": 2}


def test_a_token_beyond_the_matrix_is_one_that_the_model_lacks(home):
    by_hand(home / "a", {"x": 0}, {EMBEDDING: torch.ones(1, 2)}, added=[(1, "<spare>", False)])
    by_hand(home / "b", {"x": 0}, {EMBEDDING: torch.ones(2, 2)}, added=[(1, "<b>", False)])
    report = merge(["a", "b"], {"source": "union"}, base="a")
    assert vocabulary() == {"x": 0, "<b>": 1}
    assert "a: 1 added tokens ('<spare>', ...) lie beyond the 1 rows" in report["notes"][0]


def test_a_union_says_what_foreign_pieces_become(home):
    by_hand(home / "a", {"x": 0}, {EMBEDDING: torch.ones(1, 2)})
    by_hand(home / "b", {"x": 0, "y": 1}, {EMBEDDING: torch.ones(2, 2)})
    report = merge(["a", "b"], {}, base="a")  # union is the default
    assert (
        "1 pieces of the other models are not in the vocabulary of a; in the union they are added tokens"
        in report["notes"][0]
    )


def test_the_plan_counts_tokens_and_rows(home):
    test_a_union_says_what_foreign_pieces_become(home)
    assert pm.plan("c.yml")["output"]["vocabulary"] == {"tokens": 2, "rows": 2}


# Chat templates


def test_a_template_replaces_the_one_in_the_tokenizers_config(home):
    config = json.dumps({"chat_template": "old {{ x }}", "eos_token": "</s>"})
    by_hand(
        home / "a",
        {"x": 0},
        {EMBEDDING: torch.ones(1, 2)},
        tokenizer_config__json=config,
        chat_template__json="{}",
    )
    (home / "c.yml").write_text(
        "merge_method: passthrough\nmodels: [{model: a}]\nchat_template: '{{ messages[0].content }}'\n"
    )
    pm.merge("c.yml", to="out")
    assert Path("out/chat_template.jinja").read_text() == "{{ messages[0].content }}"
    assert json.loads(Path("out/tokenizer_config.json").read_text()) == {"eos_token": "</s>"}
    assert not (home / "out" / "chat_template.json").exists()


# What is refused


SECTION = [
    ("tokenizer: {source: nowhere}", ConfigError, "tokenizer.source: 'nowhere' is not one of the models"),
    ("tokenizer: {source: unoin}", ConfigError, "'union'"),
    ("tokenizer: {sourc: union}", ConfigError, "did you mean 'source'"),
    ("tokenizer_source: union\ntokenizer: {source: base}", ConfigError, "only one of the two"),
    ("tokenizer: {pad_to_multiple_of: 0}", ConfigError, "0 has no multiples"),
    ("tokenizer: {tokens: {x: {force: true}}}", ConfigError, "'force' needs a 'source'"),
    ("tokenizer: {tokens: {q: {}}}", ConfigError, "none of the 2 models has the token 'q'"),
    ("tokenizer: {tokens: {y: {source: a}}}", ConfigError, "'a' has no row for the token 'y'"),
    ("tokenizer: {tokens: {q: {source: {kind: mean}}}}", ConfigError, "'kind' is not one of zero, model_token"),
    ("tokenizer: {tokens: {q: {source: {kind: model_token, model: a}}}}", ConfigError, "exactly one of 'token' and"),
    ("tokenizer: {tokens: {q: {source: {kind: model_token, model: a, token_id: 1}}}}", ConfigError, "token_id 1 is beyond the 1 rows"),
    ("tokenizer: {tokens: {q: {source: {kind: model_token, model: a, token: y}}}}", ConfigError, "no row for the token 'y'"),
    ("tokenizer: {tokens: {q: {source: {kind: model_token, model: c, token: y}}}}", ConfigError, "'c' is not one of the models"),
    ("chat_template: chatlm", ConfigError, "did you mean 'chatml'"),
    ("dtype: float32", CheckpointError, "add 'tokenizer: {source: base}'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "message"), SECTION)
def test_what_makes_no_sense_is_refused_by_name(home, text, kind, message):
    by_hand(home / "a", {"x": 0}, {EMBEDDING: torch.ones(1, 2)})
    by_hand(home / "b", {"x": 0, "y": 1}, {EMBEDDING: torch.ones(2, 2)})
    (home / "c.yml").write_text(
        f"merge_method: linear\nbase_model: a\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {{weight: 1}}\n{text}\n"
    )
    with pytest.raises(kind) as caught:
        pm.merge("c.yml", to="out")
    assert message in str(caught.value)
    assert not (home / "out").exists()


TOKENIZERS = [
    ({"tokenizer__model": "\n"}, None, "tokenizer.model is the only file of its tokenizer"),
    ({}, None, "tokenizer.json is missing"),
    ({}, {"model": {"type": "Character", "vocab": {"x": 0}}}, "'Character' is not one of BPE, WordPiece"),
    ({}, {"model": {"type": "BPE", "vocab": {"x": 0, "y": 0}}}, "share id 0"),
    ({}, {"model": {"type": "BPE", "vocab": {"x": 1 << 30}}}, "ids stay below"),
    ({}, {"model": {"type": "BPE", "vocab": {"x": 0, "y": 5}}}, "token 'y' has id 5, but the embedding has 2 rows"),
    ({}, {"model": {"type": "BPE", "vocab": {"x": 0}}, "added_tokens": [{"id": 1, "content": "x"}]}, "ids 0 and 1"),
    ({}, {"model": {"type": "BPE"}}, "missing field"),
    ({}, {"model": {"type": "BPE", "vocab": {"y": 1}}}, "have gaps"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "tokenizer", "message"), TOKENIZERS)
def test_a_tokenizer_that_cannot_be_read_is_refused(home, files, tokenizer, message):
    by_hand(home / "a", {"x": 0, "y": 1}, {EMBEDDING: torch.ones(2, 2)}, **files)
    by_hand(home / "b", {"z": 0}, {EMBEDDING: torch.ones(1, 2)})
    (home / "a" / "tokenizer.json").unlink()
    if tokenizer:
        (home / "a" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError) as caught:
        merge(["a", "b"], {"source": "union"}, base="a")
    assert message in str(caught.value)


def test_matrices_that_cannot_be_mixed_are_refused(home):
    by_hand(home / "a", {"x": 0}, {EMBEDDING: torch.ones(1, 2), HEAD: torch.ones(2, 2)})
    by_hand(home / "b", {"x": 0}, {EMBEDDING: torch.ones(1, 2), HEAD: torch.ones(2, 2)})
    with pytest.raises(CheckpointError, match="does not have the 1 rows of the input embedding"):
        merge(["a", "b"], {"source": "base"}, base="a")
    for name in ("a", "b"):
        save_file({EMBEDDING: torch.ones(1, 2, dtype=torch.int8)}, home / name / "model.safetensors")
    with pytest.raises(CheckpointError, match="rows of it cannot be mixed"):
        merge(["a", "b"], {"source": "base"}, base="a")
    save_file({"encoder.weight": torch.ones(1, 2)}, home / "a" / "model.safetensors")
    with pytest.raises(CheckpointError, match="no input embedding"):
        merge(["a", "b"], {"source": "base"}, base="a")


def test_rows_that_stand_for_other_tokens_are_noted_where_nothing_aligns_them(home):
    matrix = torch.ones(3, 2)
    for name, tokens in {"a": "xyz", "b": "xzy", "c": "xyz"}.items():
        by_hand(home / name, {token: row for row, token in enumerate(tokens)}, {EMBEDDING: matrix})
    text = (home / "c/tokenizer.json").read_text()
    (home / "c/tokenizer.json").write_text(text + "\n")  # another file, the same tokens
    models = "models:\n- {model: a}\n- {model: b}\n- {model: c}\nparameters: {weight: 1}\n"
    Path("c.yml").write_text(f"merge_method: linear\n{models}")
    [note] = pm.plan("c.yml")["notes"]
    assert note.startswith('b: 2 rows stand for other tokens than in a, row 1 for "z" and not "y"')
    Path("c.yml").write_text(f"merge_method: linear\n{models}tokenizer: {{source: base}}\n")
    assert not [note for note in pm.plan("c.yml")["notes"] if "stand for other tokens" in note]
