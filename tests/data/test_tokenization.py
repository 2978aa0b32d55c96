"""Texts as token rows: the ids of the tokenizers package, in order, whole or not at all."""

import json
import multiprocessing
import os
import random
import subprocess
import sys

import pytest
import tokenizers
from data.made import instructions
from polmrs import data
from polmrs.errors import ArrayError, ConfigError, NotFoundError, OutputExistsError, UsageError
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

ALPHABETS = ["abc XYZ 0129 .,!?'", "äßéñçœ ÅØ", "\u0301\u0308e", "漢字かなカナ한국", "жшд λπ عربي हिन्दी", "\t\n\r \u00a0\u3000", "🙂👩‍🔬🇩🇪", "\x00\x7f"]  # fmt: skip


def unicode_texts(n, seed=0):
    rng = random.Random(seed)
    made = ["", " ", "\n\n", "</s>", "[SEP] x</s>y", "I'll we've can't", "a" * 300, " " * 300 + "b"]
    while len(made) < n:
        runs = (rng.choices(rng.choice(ALPHABETS), k=rng.randint(1, 9)) for _ in range(rng.randint(0, 12)))
        words = rng.choice([[], instructions(1, seed=len(made))])
        made.append("".join(map("".join, runs)) + " ".join(words))
        if rng.random() < 0.1:
            made[-1] += "".join(
                chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])) for _ in range(5)
            )
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A byte-level BPE and a WordPiece tokenizer; both files ask for cutting and padding."""
    home = tmp_path_factory.mktemp("tokenizers")
    texts = instructions(300) + unicode_texts(100, seed=1)

    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )

    wordpiece = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]", "</s>"]
    wordpiece.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    )
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    for name, made in (("bpe", bpe), ("wordpiece", wordpiece)):
        made.enable_truncation(4)
        made.enable_padding(length=20)
        (home / name).mkdir()
        made.save(str(home / name / "tokenizer.json"))
    return home


def reference(path):
    plain = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    return plain


@pytest.mark.parametrize("name", ["bpe", "wordpiece"])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("eos", [None, "</s>"])
def test_rows_are_those_of_the_tokenizers_package(files, tmp_path, name, special, eos):
    texts = unicode_texts(600)
    seen = []
    store = data.tokenize(
        iter(texts),
        tmp_path / "a.tokens",
        tokenizer=files / name,
        special_tokens=special,
        eos=eos,
        progress=seen.append,
    )
    plain = reference(files / name)
    end = [] if eos is None else [plain.token_to_id(eos)]
    assert [store[i].tolist() for i in range(len(store))] == [
        plain.encode(text, add_special_tokens=special).ids + end for text in texts
    ]
    assert min(store.lengths) < 4 < 20 < max(store.lengths)  # neither cut nor padded
    assert seen == [len(texts)]


def test_patterns_are_those_of_the_tokenizers_package(files, tmp_path):
    """The pattern of Llama 3 and GPT-4, with a look-ahead, as another regex engine reads it."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    plain = reference(files / "bpe")
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    plain.save(str(tmp_path / "tokenizer.json"))
    texts = unicode_texts(600, seed=2)
    store = data.tokenize(texts, tmp_path / "a.tokens", tokenizer=tmp_path)
    assert [store[i].tolist() for i in range(len(store))] == [
        plain.encode(text, add_special_tokens=False).ids for text in texts
    ]


def test_the_command_writes_the_same_store_with_any_number_of_threads(files, tmp_path):
    texts = [text for text in unicode_texts(600) if text]
    lines = [json.dumps({"row": {"text": text}}) + "\n" for text in [*texts, ""]]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))  # blank lines are no documents; an empty text is one
    file = files / "bpe" / "tokenizer.json"
    data.tokenize([*texts, ""], tmp_path / "0", tokenizer=file, eos="</s>", special_tokens=True)
    for threads in (1, 3):
        command = [sys.executable, "-m", "polmrs.cli", "data", "tokenize", "in.jsonl", str(threads), "--json"]
        command += ["--tokenizer", str(file), "--field", "row.text", "--eos", "</s>", "--special-tokens"]
        environment = {**os.environ, "POLMRS_NUM_THREADS": str(threads)}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["documents"] == len(texts) + 1
        assert (tmp_path / str(threads)).read_bytes() == (tmp_path / "0").read_bytes()
    data.TokenStore.open(tmp_path / "0", verify=True)


def test_a_forked_child_tokenizes_after_its_parent_did(files, tmp_path):
    texts = unicode_texts(600)

    def write(name):
        data.tokenize(texts, tmp_path / name, tokenizer=files / "bpe")

    write("parent")
    child = multiprocessing.get_context("fork").Process(target=write, args=("child",))
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
        pytest.fail("the child waits for threads that it does not have")
    assert (tmp_path / "child").read_bytes() == (tmp_path / "parent").read_bytes()


def test_a_bad_line_is_named_by_the_command_and_nothing_is_written(files, tmp_path):
    (tmp_path / "in.txt").write_text("one\n\ntwo words and many more of them\n")
    command = [sys.executable, "-m", "polmrs.cli", "data", "tokenize", "in.txt", "out.tokens"]
    command += ["--tokenizer", str(files / "wordpiece"), "--max-length", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 3
    assert "in.txt:3: " in done.stderr
    assert "more than max_length, 5; nothing is cut" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_what_is_wrong_is_named_and_nothing_is_written(files, tmp_path):
    out = tmp_path / "a.tokens"

    def refused(kind, message, texts=("a",), tokenizer=files / "bpe", **settings):
        with pytest.raises(kind, match=message):
            data.tokenize(texts, out, tokenizer=tokenizer, **settings)
        assert not list(tmp_path.glob("*.tokens")) + list(tmp_path.glob(".polmrs-*"))

    refused(ConfigError, "eos: '<end>' is not in the vocabulary", eos="<end>")
    refused(
        ConfigError,
        r"documents\[1\]: 6 tokens, more than max_length, 5",
        ["a", "0 1 2"],
        max_length=5,
        eos="</s>",
    )
    refused(ArrayError, r"documents\[1\]: expected a string, got int", ["a", 1])
    refused(UsageError, "documents: one string", "text")
    refused(UsageError, "max_length: 0 is not 1 or more", max_length=0)
    refused(NotFoundError, "no such file", tokenizer=tmp_path / "none")
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    refused(ConfigError, "tokenizer.json: not a tokenizer: ", tokenizer=tmp_path)
    random_bpe = json.loads((files / "bpe" / "tokenizer.json").read_text())
    random_bpe["model"]["dropout"] = 0.1
    (tmp_path / "tokenizer.json").write_text(json.dumps(random_bpe))
    refused(ConfigError, r"model.dropout: 0.1 is not 0", tokenizer=tmp_path)
    out.write_text("mine")
    with pytest.raises(OutputExistsError, match="exists"):
        data.tokenize(["a"], out, tokenizer=files / "bpe")
    assert out.read_text() == "mine"
