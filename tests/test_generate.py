"""Sampling is the policy's own distribution: greedy is the argmax, draws follow probabilities, batches change nothing."""

import pytest
import torch
from models.made import model, policy, tokenizer
from polmrs.errors import UsageError
from polmrs.generate import Sampling, generate
from polmrs.models import Policy

PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16], [20, 21]]


def next_logp(one, ids):
    return one.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1).detach()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_greedy_is_the_most_likely_token_each_time(kind):
    more = {"n_layer": 1, "n_head": 2, "n_embd": 16} if kind == "gpt2" else {}
    if kind == "gemma2":  # its softmax is float32, where the mask of float64 overflows
        more = {"dtype": torch.float32}
    one = policy(kind, **more).eval()
    for prompt, answer in zip(PROMPTS, generate(one, PROMPTS, Sampling(temperature=0, most=6)), strict=True):
        ids = list(prompt)
        for token, logp in zip(answer.ids, answer.logps, strict=True):
            expected = next_logp(one, ids)
            assert token == int(expected.argmax())
            assert logp == pytest.approx(float(expected[token]), abs=1e-5 if kind == "gemma2" else 1e-9)
            ids.append(token)
        assert (answer.end == "finished") == (ids[-1] == 2)


def test_answers_do_not_depend_on_the_batch():
    one, sampling = policy(), Sampling(most=8, top_p=0.9, top_k=20, seed=3)
    together = generate(one, PROMPTS, sampling)
    apart = generate(one, PROMPTS, sampling, batch=1)
    assert [a.ids for a in together] == [a.ids for a in apart]
    assert generate(one, PROMPTS, Sampling(most=8, seed=4)) != together
    for a, b in zip(together, apart, strict=True):
        assert a.logps == pytest.approx(b.logps, abs=1e-9)


def test_a_long_prompt_beside_it_does_not_shorten_an_answer():
    one, sampling = policy(), Sampling(most=50, seed=1)
    prompts = [[5] * 10, [5] * (one.context - 4)]
    together = generate(one, prompts, sampling)
    assert [a.ids for a in together] == [a.ids for a in generate(one, prompts, sampling, batch=1)]
    assert len(together[1].ids) == 4 or together[1].end == "finished"


def test_draws_have_the_frequencies_of_the_distribution():
    one, n = policy(), 3000
    drawn = generate(one, [[5, 6]] * n, Sampling(temperature=0.7, most=1), batch=n)
    logits = one.model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].detach()
    expected = (logits / 0.7).softmax(-1)
    seen = torch.bincount(torch.tensor([a.ids[0] for a in drawn]), minlength=50) / n
    assert (seen - expected).abs().max() < 4 * float((expected * (1 - expected) / n).sqrt().max())
    assert drawn[0].logps[0] == pytest.approx(float(expected[drawn[0].ids[0]].log()), abs=1e-9)


@pytest.mark.parametrize(("given", "kept"), [({"top_k": 3}, 3), ({"top_p": 0.5}, None), ({"top_k": 1}, 1)])
def test_only_the_most_likely_tokens_are_drawn(given, kept):
    one = policy()
    ordered = next_logp(one, [5]).sort(descending=True)
    if kept is None:
        kept = int((ordered.values.exp().cumsum(0) < 0.5).sum()) + 1
    seen = {a.ids[0] for a in generate(one, [[5]] * 600, Sampling(most=1, **given), batch=600)}
    assert seen <= set(ordered.indices[:kept].tolist())
    assert len(seen) > kept / 2


def test_an_answer_ends_with_the_models_token_the_text_that_stops_it_or_the_context():
    one = Policy(model(), tokenizer())
    with torch.no_grad():
        one.head.weight.zero_()
        one.body.norm.weight.zero_()
        one.head.weight[2] = 0.0  # all logits are equal: the first token, 0, is the most likely
    greedy = Sampling(temperature=0, most=4)
    assert generate(one, [[5]], greedy)[0].end == "truncated"
    one.config.eos_token_id = [0, 2]
    assert generate(one, [[5]], greedy)[0] == generate(one, [[5]], Sampling(temperature=0, most=9))[0]
    assert generate(one, [[5]], greedy)[0].ids == (0,)
    one.config.eos_token_id = one.model.generation_config.eos_token_id = 2
    stopped = generate(one, [[5]], Sampling(temperature=0, most=4, stop=("<pad><pad>",)))[0]
    assert (stopped.ids, stopped.end) == ((0, 0), "finished")
    assert len(generate(one, [[5] * 60], Sampling(temperature=0, most=50))[0].ids) == 4


def test_prompts_and_settings_that_make_no_sense_are_named():
    with pytest.raises(UsageError, match=r"prompts\[1\]: 0 tokens"):
        generate(policy(), [[5], []])
    with pytest.raises(UsageError, match="64 tokens"):
        generate(policy(), [[5] * 64])
    with pytest.raises(UsageError, match="need a tokenizer"):
        generate(policy(), [[5]], Sampling(stop=("x",)))
    for bad in ({"temperature": -1}, {"top_p": 0}, {"top_k": 0}, {"most": 0}):
        with pytest.raises(UsageError, match="sampling"):
            Sampling(**bad)
