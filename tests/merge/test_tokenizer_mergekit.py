"""Different vocabularies, equal to mergekit 0.1.5: rows by token, files, text and logits, from one run of it.

mergekit numbers the tokens beyond the base's anew in every run, so rows are compared through the tokens' texts. The
cases after ``mergekit's own`` are those of its `tests/test_tokenizer.py` and `tests/test_chat_template.py`, made again.
Left out of the comparison, on purpose: which flags a new token has when models disagree (mergekit takes those of any
model, polmrs the first's), and special token ids of another model's vocabulary (mergekit leaves the base's).
"""

import json
import subprocess
from pathlib import Path

import polmrs.merge as pm
import pytest
import torch
from merge import vocabularies as made
from merge.made import ulps, weights
from polmrs.errors import CheckpointError, ConfigError
from safetensors.torch import save_file

pytestmark = pytest.mark.peer("mergekit")

MATRICES = ["model.embed_tokens.weight", "lm_head.weight"]
CHATML = ["<|im_start|>", "<|im_end|>"]
NEW, SPECIAL = "<|new_configured_token|>", "<|existing_special|>"


def models():
    """Folder -> (tokenizer, options of the model)."""
    from tokenizers import AddedToken

    plain, chatml = made.bpe(), made.bpe(*CHATML)
    odd = AddedToken(SPECIAL, single_word=True, lstrip=True, rstrip=True, normalized=False, special=True)
    special = made.bpe()
    special.add_special_tokens({"additional_special_tokens": [odd]})
    return {
        "bytes-a": (made.byte_level(made.PROSE, 60), {}),
        "bytes-b": (made.byte_level(made.CODE, 60, *CHATML), {}),
        "bytes-c": (made.byte_level(made.PROSE + made.CODE, 64, "<|im_start|>", "<X>"), {"rows": 70}),
        "pieces-a": (made.word_piece(made.PROSE, 40), {}),
        "pieces-b": (made.word_piece(made.CODE, 44, "[NEW]"), {}),
        "unigram-a": (made.unigram(made.PROSE, 40), {}),
        "unigram-b": (made.unigram(made.CODE, 44), {}),
        "words-a": (made.word_level(["<unk>", "</s>", "the", "cat", "on"]), {}),
        "words-b": (made.word_level(["</s>", "<unk>", "yes", "the", "on", "dog"]), {}),
        "plain": (plain, {}),
        "talks": (chatml, {}),
        "big": (chatml, {"rows": 24}),
        "unused": (made.bpe(*(f"<UNUSED_{at}>" for at in range(4))), {"rows": 16}),
        "special": (special, {}),
        "tied-a": (plain, {"tied": True}),
        "tied-b": (chatml, {"tied": True}),
        "brief-a": (plain, {"dtype": torch.bfloat16}),
        "brief-b": (chatml, {"dtype": torch.bfloat16}),
        "brief-c": (chatml, {"dtype": torch.bfloat16}),
    }


def source(name, tokens=None, **more):
    return {"tokenizer": {"source": name, **({"tokens": tokens} if tokens else {}), **more}}


def kinds(*names):
    """Every source for some models."""
    return {f"{names[-1]} {of}": (names, source(of)) for of in ("union", "base", names[1])}


OWN = ("plain", "unused", "talks")
MISSING = {"source": {"kind": "model_token", "model": "special", "token": "_tok_10"}, "force": True}
KEPT = {"source": "special", "force": True}
# Name -> (models, the first of them the base; what the configuration says besides).
CASES = {
    **kinds("bytes-a", "bytes-b", "bytes-c"),
    **kinds("pieces-a", "pieces-b"),
    **kinds("unigram-a", "unigram-b"),
    **kinds("words-a", "words-b"),
    "mixed kinds": (("bytes-a", "pieces-b"), source("union")),
    "short form": (("plain", "talks"), {"tokenizer_source": "union"}),
    "tied heads": (("tied-a", "tied-b"), source("union")),
    "rows without tokens": (("big", "plain"), source("union")),
    "padded": (("plain", "talks"), source("union", pad_to_multiple_of=8)),
    "ties": (("plain", "talks", "big"), {"merge_method": "ties", **source("union")}),
    "bf16": (("brief-a", "brief-b", "brief-c"), {"out_dtype": "bfloat16", **source("union", pad_to_multiple_of=10)}),
    "rules": (("plain", "talks", "big"), source("union", {
        "_tok_5": {"source": "talks"}, "_tok_6": {"source": "talks", "force": True},
        "_tok_7": {"source": {"kind": "zero"}}, "_tok_8": {"source": {"kind": "zero"}, "force": True},
        "<|im_start|>": {"source": "big"},
        "<|im_end|>": {"source": {"kind": "model_token", "model": "plain", "token": "_tok_4"}, "force": True},
        "<a>": {"source": {"kind": "model_token", "model": "talks", "token": "_tok_9"}},
        "<b>": {"source": {"kind": "model_token", "model": "talks", "token_id": 3}, "force": True},
        "<c>": {"source": {"kind": "zero"}}, "_tok_3": {"source": None},
    })),
    # mergekit's own
    "source base": (OWN, source("base")),
    "source union": (OWN, source("union")),
    "source model": (OWN, source("talks")),
    "task arithmetic base": (("plain", "talks"), {"merge_method": "task_arithmetic", **source("base")}),
    "task arithmetic union": (("plain", "talks"), {"merge_method": "task_arithmetic", **source("union")}),
    "slerp union": (("plain", "talks"), {"merge_method": "slerp", "parameters": {"t": 0.5}, **source("union")}),
    "force": (("plain", "talks"), source("union", {
        "_tok_10": {"source": "talks", "force": True}, "_tok_11": {"source": "plain", "force": True},
    })),
    "token and id": (("plain", "talks"), source("base", {
        "_tok_12": {"source": {"kind": "model_token", "model": "talks", "token_id": 16}, "force": True},
        "_tok_13": {"source": {"kind": "model_token", "model": "plain", "token": "<s>"}, "force": True},
    })),
    "padded alone": (("talks",), source("base", pad_to_multiple_of=16)),
    "new token": (("special",), source("special", {SPECIAL: KEPT, NEW: MISSING})),
    "kept flags, base": (("special",), source("base", {SPECIAL: KEPT})),
    "kept flags, union": (("special",), source("union", {SPECIAL: KEPT})),
}  # fmt: skip
# What both refuse, and what polmrs does although mergekit crashes: the models, the section, polmrs' error.
REFUSED = {
    "mismatch": (OWN[::2], {}, "add 'tokenizer: {source: base}'"),
    "no row of that name": (("plain", "talks"), source("union", {"<z>": {"source": "plain"}}), "no row for the token"),
    "no row of that number": (("plain", "talks"), source("union", {"<z>": {"source": {"kind": "model_token", "model": "plain", "token_id": 99}}}), "beyond the 16 rows"),
    "not merged": (("plain", "talks"), source("union", {"_tok_4": {"source": "big", "force": True}}), "is not one of the models"),
    "no source": (("plain", "talks"), source("union", {"<z>": {}}), "give it a 'source'"),
    "two settings": (("plain", "talks"), {"tokenizer_source": "union", **source("base")}, "only one of the two"),
}  # fmt: skip
CRASHES = {
    "a model's tokens beyond its rows": (OWN, source("unused")),
    "new tokens of the base": (
        ("plain", "talks"),
        source("base", {"<|im_end|>": {"source": {"kind": "zero"}}}),
    ),
}
TEXTS = [
    "the cat sat on the mat", "import numpy as np", "yes the dog on lambda", "<|im_start|>the season<|im_end|> of",
    "_tok_5_tok_7<|im_end|> _tok_3", "<X> function [NEW] main", "unseen qwz", "<s></s>",
]  # fmt: skip
TEMPLATES = ["chatml", "mistral", "llama3", "exaone", "alpaca"]
LITERAL = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}{# "
    + "x" * 300
    + " #}"
)


def configuration(home, names, more):
    """A configuration with every model's folder for its name."""

    def placed(value):
        if isinstance(value, dict):
            return {key: placed(inner) for key, inner in value.items()}
        return str(home / value) if value in names or value in FOLDERS else value

    more = placed(more)
    named = [
        {"model": str(home / name), "parameters": {"weight": 0.5 + 0.2 * at}} for at, name in enumerate(names)
    ]
    if more.get("merge_method") == "slerp":
        named = [{"model": row["model"]} for row in named]
    if more.get("merge_method") in ("task_arithmetic", "ties"):
        named = named[1:]
    base = {"merge_method": "linear", "base_model": str(home / names[0]), "models": named, "dtype": "float32"}
    return json.dumps(base | more)


FOLDERS = ("plain", "talks", "big", "unused", "special", "bytes-b", "pieces-b", "unigram-b", "words-b")


@pytest.fixture(scope="module")
def merged(peer, tmp_path_factory):
    """Every case's configuration and the folders of both; mergekit's error for what it refuses."""
    home = tmp_path_factory.mktemp("vocabularies")
    for seed, (name, (tokenizer, options)) in enumerate(models().items()):
        made.llama(home / name, tokenizer, seed=seed, **options)
    speaking = made.bpe()
    for name, template in {"says-a": "A {{ messages }} of many", "says-b": "B {{ messages }} of many", "says-b2": "B {{ messages }} of many"}.items():  # fmt: skip
        speaking.chat_template = template
        made.llama(home / name, speaking, seed=len(name))
    chats = {f"chat {name}": (("plain", "says-a"), {"chat_template": name}) for name in TEMPLATES}
    chats["chat literal"] = (("plain", "says-a"), {"chat_template": LITERAL})
    chats["chat auto"] = (("says-a", "says-b", "says-b2"), {"chat_template": "auto"})
    chats["chat of a model"] = (("says-a", "says-b"), source("says-b"))
    cases = CASES | chats | {name: case[:2] for name, case in (REFUSED | CRASHES).items()}
    found, attempts = {}, []
    for at, (name, (names, more)) in enumerate(cases.items()):
        config, theirs, ours = (home / f"{at}{end}" for end in (".yml", "-mergekit", "-polmrs"))
        extra = {"tokenizer": {"source": str(home / "says-b")}} if name == "chat of a model" else more
        config.write_text(configuration(home, names, extra))
        found[name] = (config, theirs, ours)
        attempts.append((str(config), str(theirs)))
    oracle = home / "oracle"
    oracle.mkdir()
    save_file({}, oracle / "in.safetensors")
    (oracle / "cases.json").write_text(
        json.dumps({"merges": {}, "settings": {}, "folders": [], "attempts": attempts})
    )
    script = Path(__file__).parents[2] / "peers" / "mergekit_oracle.py"
    run = subprocess.run([peer("mergekit"), script, oracle], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    errors = json.loads((oracle / "out.json").read_text())
    for name in CASES | chats:
        config, _, ours = found[name]
        assert errors[str(config)] is None, f"{name}: {errors[str(config)]}"
        pm.merge(config, to=ours)
    return found, errors


def loaded(path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def permutation(theirs, ours):
    """For each of our ids, mergekit's of the same token."""
    theirs, ours = theirs.get_vocab(), ours.get_vocab()
    assert theirs.keys() == ours.keys()
    assert sorted(ours.values()) == list(range(len(ours)))
    return torch.tensor([theirs[token] for token in sorted(ours, key=ours.get)])


@pytest.mark.parametrize("name", CASES)
def test_every_row_is_mergekits(merged, name):
    _, theirs, ours = merged[0][name]
    to = permutation(loaded(theirs), loaded(ours))
    expected, found = weights(theirs), weights(ours)
    assert expected.keys() == found.keys()
    for tensor, value in expected.items():
        mine = found[tensor]
        assert (value.shape, value.dtype) == (mine.shape, mine.dtype), tensor
        if tensor in MATRICES:
            value = torch.cat([value[to], value[len(to) :]])
        near = (value.float() - mine.float()).abs() <= 1e-6 * value.float().square().mean().sqrt()
        assert ((ulps(value, mine) <= 1) | near).all(), tensor


@pytest.mark.parametrize("name", CASES)
def test_the_tokenizer_reads_text_alike(merged, name):
    _, theirs, ours = (loaded(path) if path.is_dir() else path for path in merged[0][name])
    for text in TEXTS:
        for special in (False, True):
            tokens = [
                tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=special))
                for tokenizer in (theirs, ours)
            ]
            assert tokens[0] == tokens[1], text
        if theirs.unk_token is None or theirs.unk_token not in tokens[0]:
            assert theirs.decode(theirs.encode(text)) == ours.decode(ours.encode(text))
    assert set(theirs.all_special_tokens) == set(ours.all_special_tokens)
    flags = [
        {token.content: repr(token) for token in tokenizer.added_tokens_decoder.values()}
        for tokenizer in (theirs, ours)
    ]
    assert flags[0] == flags[1]


@pytest.mark.parametrize("name", CASES)
def test_logits_for_the_same_text_are_mergekits(merged, name):
    from transformers import AutoModelForCausalLM

    _, theirs, ours = merged[0][name]
    tokenizers = [loaded(path) for path in (theirs, ours)]
    models = [AutoModelForCausalLM.from_pretrained(path, dtype="auto").float() for path in (theirs, ours)]
    to, compared = permutation(*tokenizers), 0
    for text in TEXTS:
        logits = []
        for model, tokenizer in zip(models, tokenizers, strict=True):
            ids = tokenizer(text, return_tensors="pt").input_ids.long()
            if ids.numel():
                with torch.no_grad():
                    logits.append(model(ids).logits[..., : len(to)])
        if logits:
            assert torch.allclose(logits[0][..., to], logits[1], atol=2e-3 * logits[0].abs().max().item())
            compared += 1
    assert compared > 0


@pytest.mark.parametrize("name", CASES)
def test_configs_state_the_same_sizes(merged, name):
    theirs, ours = (json.loads((path / "config.json").read_text()) for path in merged[0][name][1:])
    assert theirs["vocab_size"] == ours["vocab_size"]
    if name not in {"words-b words-b"}:  # the only case whose special tokens have other ids in that model
        ids = [
            {key: value for key, value in config.items() if key.endswith("_token_id")}
            for config in (theirs, ours)
        ]
        assert ids[0] == ids[1]


def test_special_token_ids_are_those_of_the_vocabulary(merged):
    ours = merged[0]["words-b words-b"][2]
    config = json.loads((ours / "config.json").read_text())
    assert config["eos_token_id"] == loaded(ours).eos_token_id == 0


@pytest.mark.parametrize("name", REFUSED)
def test_both_refuse(merged, name):
    config, _, ours = merged[0][name]
    assert merged[1][str(config)] is not None
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        pm.merge(config, to=ours)
    assert REFUSED[name][2] in str(caught.value)


@pytest.mark.parametrize("name", CRASHES)
def test_where_mergekit_crashes_the_rules_hold(merged, name):
    config, _, ours = merged[0][name]
    assert merged[1][str(config)].startswith(("KeyError", "IndexError"))
    pm.merge(config, to=ours)
    tokenizer, found = loaded(ours), weights(ours)
    assert len(tokenizer) == len(found[MATRICES[0]])
    if name == "new tokens of the base":
        assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 16
    else:
        assert len(tokenizer) == 16


# Chat templates


def rendered(path, conversation, *, prompt):
    return loaded(path).apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt)


TALK = [
    {"role": "user", "content": " hi "},
    {"role": "assistant", "content": "yo"},
    {"role": "user", "content": "bye"},
]
TALKS = [TALK, [{"role": "system", "content": "be kind"}, *TALK], TALK[:2], TALK[:1]]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_named_template_says_what_mergekits_says(merged, name):
    """Letter by letter for ChatML and Mistral; the others have stray white space in mergekit, which is left out."""
    _, theirs, ours = merged[0][f"chat {name}"]
    for talk in TALKS:
        for prompt in (False, True):
            said = [rendered(path, talk, prompt=prompt) for path in (theirs, ours)]
            if name not in ("chatml", "mistral"):
                said = ["".join(text.split()) for text in said]
            assert said[0] == said[1]


def test_templates_say_what_models_were_trained_on(merged):
    talk = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"},
    ]
    said = {
        name: rendered(merged[0][f"chat {name}"][2], talk, prompt=False)
        for name in ("llama3", "exaone", "alpaca")
    }
    heads = [f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("system", "user", "assistant")]
    assert said["llama3"] == f"<s>{heads[0]}S<|eot_id|>{heads[1]}U<|eot_id|>{heads[2]}A<|eot_id|>"
    assert said["exaone"] == "[|system|]S[|endofturn|]\n[|user|]U\n[|assistant|]A[|endofturn|]\n"
    assert said["alpaca"] == "S\n\n### Instruction:\nU\n\n### Response:\nA"


@pytest.mark.parametrize("name", ["chat literal", "chat auto", "chat of a model"])
def test_a_template_is_read_back_by_transformers_as_mergekits(merged, name):
    _, theirs, ours = merged[0][name]
    assert loaded(theirs).chat_template == loaded(ours).chat_template
    assert loaded(ours).chat_template == (LITERAL if name == "chat literal" else "B {{ messages }} of many")
