"""Records as examples: what counts, what else an example carries, what is too long."""

import itertools

import pytest
import torch
from data.tokenizers import OPEN, counted, tokenizer
from models.made import policy as made_policy
from polmrs.data import preferences, read
from polmrs.data.encoding import examples
from polmrs.data.ragged import Batch
from polmrs.data.records import (
    LanguageModelling,
    Preference,
    PromptCompletion,
    PromptOnly,
    Ranked,
    Stepwise,
    Unpaired,
)
from polmrs.data.scored import Scored
from polmrs.errors import ConfigError, UsageError

TOKENS = tokenizer()


def sequences(batch):
    ends = batch.cu_seqlens.tolist()
    return [(batch.ids[a:b].tolist(), batch.weights[a:b].tolist()) for a, b in itertools.pairwise(ends)]


def learned(batch):
    return [counted(TOKENS, ids, weights) for ids, weights in sequences(batch)]


def test_an_example_has_the_sequences_of_its_record():
    completion = examples([PromptCompletion(prompt="q", completion="a", origin="f:1")], TOKENS)[0]
    assert (learned(completion), completion.names) == (["a<|eos|>"], ("f:1",))
    pair = examples([Preference(prompt="q", chosen="a", rejected="b")], TOKENS)[0]
    assert (learned(pair), dict(pair.per_example)) == (["a<|eos|>", "b<|eos|>"], {})
    ranked = examples([Ranked(prompt="q", answers=("c", "a", "b"), scores=(0, 2, 1))], TOKENS)[0]
    assert learned(ranked) == ["a<|eos|>", "b<|eos|>", "c<|eos|>"]
    assert ranked.per_sequence["score"].tolist() == [2, 1, 0]
    verdict = examples([Unpaired(prompt="q", completion="a", label=False)], TOKENS)[0]
    assert verdict.per_example["label"].tolist() == [0]


def test_the_first_token_of_a_text_counts_nothing():
    [[(ids, weights)]] = [sequences(one) for one in examples([LanguageModelling(text="abc")], TOKENS)]
    assert (TOKENS.decode(ids), weights) == ("abc<|eos|>", [0, 1, 1, 1])


def test_a_prompt_is_a_sequence_in_which_nothing_counts():
    [[(ids, weights)]] = [sequences(one) for one in examples([PromptOnly(prompt="abc")], TOKENS)]
    assert (TOKENS.decode(ids), weights) == ("abc", [0, 0, 0])


@pytest.mark.parametrize("prompt", ["q: ", ({"role": "user", "content": "q"},)])
def test_labels_of_steps_stand_at_their_last_tokens(prompt):
    row = {"prompt": prompt if isinstance(prompt, str) else list(prompt)}
    row |= {"completions": ["2+2=4", "so 4"], "labels": [1.0, 0.25]}
    batch = read([row]).examples(TOKENS)[0]
    at = (batch.per_token["step"] >= 0).nonzero()[:, 0].tolist()
    assert batch.per_token["step"][at].tolist() == [1.0, 0.25]
    text = [TOKENS.decode(batch.ids[: i + 1].tolist()) for i in at]
    assert text[0].endswith("2+2=4")
    assert text[1].endswith("2+2=4\nso 4")


def test_labels_of_steps_stand_there_where_the_template_writes_only_the_beginning():
    named = tokenizer("{{ bos_token }}" + OPEN)
    row = {
        "prompt": [{"role": "user", "content": "q"}],
        "completions": ["2+2=4", "so 4"],
        "labels": [1.0, 0.25],
    }
    [batch] = read([row]).examples(named)
    at = (batch.per_token["step"] >= 0).nonzero()[:, 0].tolist()
    assert [named.decode(batch.ids[: i + 1].tolist())[-1] for i in at] == ["4", "4"]


def test_an_end_of_text_that_a_split_leaves_alone_is_said():
    made = examples([LanguageModelling(text="abcdef")], TOKENS, max_length=6, too_long="split")
    assert [TOKENS.decode(one.ids.tolist()) for one in made] == ["abcdef"]
    assert [fault.reason for fault in made.cut] == ["1 tokens cut, split"]


def test_steps_that_share_a_token_are_refused():
    with pytest.raises(UsageError, match=r"f:1: steps\[1\]: not in the text"):
        examples([Stepwise(prompt="q", steps=("a", " "), labels=(1.0, 1.0), origin="f:1")], TOKENS)


def test_margins_are_carried_where_every_pair_has_one():
    pairs = [Preference(prompt="q", chosen="a", rejected="b", margin=m) for m in (0.5, 1.0)]
    assert [one.per_example["margin"].tolist() for one in examples(pairs, TOKENS)] == [[0.5], [1.0]]
    mixed = [*pairs, Preference(prompt="q", chosen="a", rejected="b")]
    assert all(not one.per_example for one in examples(mixed, TOKENS))


LONG = PromptCompletion(prompt="0123456789", completion="ab", origin="f:7")


def test_what_is_too_long_is_refused_by_name():
    with pytest.raises(UsageError, match="f:7: 13 tokens, but max_length is 8"):
        examples([LONG], TOKENS, max_length=8)
    with pytest.raises(UsageError, match="too_long: 'cut' is none of"):
        examples([LONG], TOKENS, max_length=8, too_long="cut")


@pytest.mark.parametrize(
    ("rule", "text"),
    [("prompt_start", "56789ab<|eos|>"), ("prompt_end", "01234ab<|eos|>"), ("completion_end", "0123456789a")],
)
def test_what_is_cut_is_listed(rule, text):
    limit = 11 if rule == "completion_end" else 8
    made = examples([LONG], TOKENS, max_length=limit, too_long=rule)
    assert TOKENS.decode(made[0].ids.tolist()) == text
    assert made.cut == (("f:7", f"{13 - limit} tokens cut, {rule}"),)


def test_a_completion_is_never_cut_away():
    for rule in ("prompt_start", "prompt_end"):
        with pytest.raises(UsageError, match=f"f:7: 13 tokens, of which the prompt has 10: {rule}"):
            examples([LONG], TOKENS, max_length=3, too_long=rule)
    with pytest.raises(UsageError, match="f:7: 13 tokens: completion_end leaves none that counts"):
        examples([LONG], TOKENS, max_length=10, too_long="completion_end")


def test_what_is_dropped_is_listed_and_nothing_left_is_an_error():
    short = PromptCompletion(prompt="0", completion="a")
    made = examples([LONG, short], TOKENS, max_length=8, too_long="drop")
    assert (len(made), made.dropped, made.records) == (
        1,
        (("f:7", "13 tokens, but max_length is 8"),),
        (short,),
    )
    with pytest.raises(ConfigError, match="no example is left of 1 records"):
        examples([LONG], TOKENS, max_length=8, too_long="drop")


def test_a_pair_loses_the_same_prompt_on_both_sides():
    pair = Preference(prompt="0123456789", chosen="a", rejected="bcd")
    made = examples([pair], TOKENS, max_length=8, too_long="prompt_start")[0]
    assert [TOKENS.decode(ids) for ids, _ in sequences(made)] == ["6789a<|eos|>", "6789bcd<|eos|>"]


def test_a_long_text_is_split_into_all_of_its_tokens():
    text = "".join(map(chr, range(48, 108)))
    made = examples([LanguageModelling(text=text)], TOKENS, max_length=7, too_long="split")
    ids = torch.cat([one.ids for one in made])
    assert TOKENS.decode(ids.tolist()) == text + "<|eos|>"
    assert {len(one.ids) for one in made[:-1]} == {7}
    assert len(made.records) == len(made) == 9
    assert made.tokens == 61


def test_a_records_trouble_is_told_with_its_place():
    record = PromptCompletion(prompt=(), completion="a", origin="f:3")
    with pytest.raises(UsageError, match="f:3: completion: plain text after messages"):
        examples([record], TOKENS)


PAIRS = [{"prompt": "q", "chosen": "ab" * i, "rejected": "b" * i} for i in range(1, 8)]


@pytest.fixture
def policy():
    made = made_policy(vocab_size=300)
    made.tokenizer = TOKENS
    return made


def test_a_policys_context_bounds_its_examples(policy):
    with pytest.raises(UsageError, match="tokens, but max_length is 64"):
        preferences([PAIRS[0] | {"chosen": "a" * 99}]).examples(policy)


def test_scored_pairs_carry_the_references_log_probabilities(policy):
    stream = preferences(PAIRS).scored_by(policy.frozen(), batch=4, micro=3)
    step = next(stream)
    assert len(step) == 4
    for one in step:
        alone = policy.logps(Batch.of([ids for ids, _ in sequences(one)], [w for _, w in sequences(one)]))
        assert torch.allclose(one.per_token["reference"], alone, rtol=1e-12, atol=0)
        assert not one.per_token["reference"][one.weights == 0].any()
        assert not one.per_token["reference"].requires_grad


def test_a_scored_stream_goes_on_where_it_was(policy):
    first, again = (preferences(PAIRS).scored_by(policy, batch=3, seed=5) for _ in range(2))
    next(first)
    again.load_state_dict(first.state_dict())
    assert [one.names for one in next(again)] == [one.names for one in next(first)]
    with pytest.raises(UsageError, match="micro: 0"):
        Scored([], policy, micro=0)
