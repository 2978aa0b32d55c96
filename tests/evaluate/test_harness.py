"""The harness's three kinds of request, on the model's own logits; its base class stands in for lm_eval's."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from evaluate.test_evaluate import logp, talker
from models.made import policy
from polmrs import evaluate
from polmrs.errors import UsageError


@pytest.fixture
def lm(monkeypatch):
    for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lm_eval.api.model"].LM = object
    return lambda one: evaluate.harness(one)


def requests(*arguments):
    return [SimpleNamespace(args=one) for one in arguments]


def test_log_likelihoods_are_the_models_and_say_whether_greedy_decoding_gives_them(lm):
    one = talker()
    tokens = one.tokenizer("a bc")["input_ids"]
    best = int(one.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
    likely = one.tokenizer.decode([best])
    found = lm(one).loglikelihood(requests(("a bc", likely), ("a bc", "d 7")))
    assert [greedy for _, greedy in found] == [True, False]
    expected = [logp(one, tokens, one.tokenizer(text)["input_ids"]) for text in (likely, "d 7")]
    assert [value for value, _ in found] == pytest.approx(expected, rel=1e-9)


def test_a_text_longer_than_the_context_is_predicted_stretch_by_stretch(lm):
    one, text = talker(), "ab c9" * 30
    ids = [1, *one.tokenizer(text)["input_ids"]]
    stretches = [(ids[at : at + 1], ids[at + 1 : at + 64]) for at in range(0, 150, 63)]
    expected = sum(logp(one, *stretch) for stretch in stretches)
    assert lm(one).loglikelihood_rolling(requests((text,))) == pytest.approx([expected], rel=1e-9)
    assert sum(len(after) for _, after in stretches) == 150


def test_answers_end_before_the_text_that_stops_them(lm):
    one = talker()
    settings = {"until": [], "max_gen_toks": 12, "temperature": 0.0}
    (whole,) = lm(one).generate_until(requests(("a b", settings)))
    assert len(whole) > 4
    (cut,) = lm(one).generate_until(requests(("a b", settings | {"until": [whole[3]]})))
    assert cut == whole.partition(whole[3])[0]
    assert lm(one).generate_until(requests(("a b" * 40, settings)))[0]


def test_repeated_requests_are_drawn_apart_and_in_batches(lm):
    one, settings = talker(), {"max_gen_toks": 6, "temperature": 1.0, "do_sample": True}
    found = lm(one).generate_until(
        requests(*[("a b", settings)] * 8, ("a b", settings | {"do_sample": False}))
    )
    assert len(set(found[:8])) > 1
    assert found[8:] == lm(one).generate_until(requests(("a b", {"max_gen_toks": 6})))


def test_a_context_that_is_too_long_loses_its_beginning(lm):
    one = talker()
    [(value, _)] = lm(one).loglikelihood(requests(("ab c9" * 30, "d 7")))
    before, after = one.tokenizer("ab c9" * 30)["input_ids"], one.tokenizer("d 7")["input_ids"]
    assert value == pytest.approx(logp(one, before[-(one.context - len(after)) :], after), rel=1e-9)


def test_a_policy_without_a_tokenizer_is_refused(lm):
    with pytest.raises(UsageError, match="the policy has none"):
        lm(policy())
