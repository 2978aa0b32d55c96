"""From files of records to a trained model: pairs, mixtures and streams in ``fit``, which resumes at their position."""

import json

import polmrs as pm
import pytest
import torch
from data.tokenizers import tokenizer
from models.made import model
from polmrs.align import BradleyTerry
from polmrs.data.epochs import Epochs
from polmrs.data.mixture import mixed
from polmrs.data.ragged import Batch
from polmrs.data.streaming import Streamed
from polmrs.finetune import SFT
from polmrs.models import Policy, Scores, load
from polmrs.train import fit
from train.interrupted import Cut

TOKENS = tokenizer()
PAIRS = [
    {"prompt": [{"role": "user", "content": f"q{i}"}], "answers": answers, "scores": [1, 0]}
    for i, answers in enumerate([["aaa", "bb"], ["aa", "bbb"], ["aaaa", "bbbb"]] * 8)
]


def policy():
    return Policy(model(vocab_size=300, dtype=torch.float32), TOKENS)


@pytest.fixture
def files(tmp_path):
    texts, chats = tmp_path / "texts.txt", tmp_path / "chats.jsonl"
    texts.write_text("".join(f"line {i}\n" for i in range(12)))
    chats.write_text("".join(json.dumps({"prompt": f"{i}?", "completion": f"{i}!"}) + "\n" for i in range(9)))
    return texts, chats


def streams(files):
    texts, chats = files
    yield lambda: mixed(
        {
            "texts": pm.data.read(texts, text="line").examples(TOKENS),
            "chats": pm.data.read(chats).examples(TOKENS),
        },
        batch=4,
        temperature=2.0,
        weights={"texts": 0.5},
    )
    yield lambda: Streamed(chats, TOKENS, batch=4, buffer=5)


def test_a_run_on_a_mixture_or_a_stream_resumes_to_the_same_bits(files, tmp_path):
    for i, stream in enumerate(streams(files)):
        whole, resumed = policy(), policy()
        fit(whole, stream(), SFT(), steps=6, lr=1e-3)
        settings = {"steps": 6, "lr": 1e-3, "to": tmp_path / str(i), "save_every": 2}
        with pytest.raises(KeyboardInterrupt):
            fit(policy(), Cut(stream(), 5), SFT(), **settings)
        fit(resumed, stream(), SFT(), resume=True, **settings)
        for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_reward_model_from_a_file_of_rankings_prefers_what_people_preferred(tmp_path):
    model(vocab_size=300, dtype=torch.float32).save_pretrained(tmp_path / "base")
    TOKENS.save_pretrained(tmp_path / "base")
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    pairs = pm.data.preferences(tmp_path / "prefs.jsonl")
    judge = load(tmp_path / "base", head=Scores(outputs=1), dtype=torch.float32)
    made = pairs.examples(judge)
    fit(judge, Epochs(made[:18], batch=6), BradleyTerry(), steps=20, lr=1e-2)
    with torch.no_grad():
        scores = judge.scores(Batch.cat(list(made[18:]))).view(-1, 2)
    assert (scores[:, 0] > scores[:, 1]).all()


def test_pairs_with_a_references_log_probabilities_are_what_fit_takes():
    one = policy()
    stream = pm.data.preferences(PAIRS).scored_by(one.frozen(), batch=4)
    seen = []

    class Watching(SFT):
        def __call__(self, policy, batch, shared, state):
            seen.append((policy.logps(batch).detach() - batch.per_token["reference"]).abs().max().item())
            return super().__call__(policy, batch, shared, state)

    pm.fit(one, stream, Watching(), steps=3, lr=1e-2)
    assert seen[0] < 1e-5 < seen[2]
