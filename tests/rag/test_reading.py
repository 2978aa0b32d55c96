"""Retrieve, then read: what is shown, what is cited, and that the trace is exact."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs import rag
from polmrs.errors import UsageError

TEXTS = {"a": "Ada wrote it.", "b": "Bob did not write anything at all.", "c": "It was in 1843."}
HITS = rag.Hits(["a", "b", "c"], np.array([3, 2, 1], np.float32))


class Recorded:
    """A generator that keeps what it was given."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, prompt):
        self.prompt = prompt
        return self.answer


class Chat(Recorded):
    def render(self, prompt):
        return f"<user>{prompt}</user>"


@pytest.mark.method("rag.retrieve-read")
@pytest.mark.parametrize("kind", [Recorded, Chat])
def test_the_trace_is_what_the_generator_saw(kind):
    generate = kind("It was Ada [1], in 1843 [3, 1]. [7]")
    answer = rag.read("Who {wrote} it?", HITS, generate, texts=TEXTS)
    assert answer.prompt == generate.prompt
    assert "Question: Who {wrote} it?" in answer.prompt
    assert (
        "[1] Ada wrote it.\n\n[2] Bob did not write anything at all.\n\n[3] It was in 1843.\n\n"
        in answer.prompt
    )
    assert [(one.number, one.id, one.score, one.text) for one in answer.shown] == [
        (number, one, 4.0 - number, TEXTS[one]) for number, one in enumerate("abc", 1)
    ]
    assert [one.id for one in answer.cited] == ["a", "c"]
    assert answer.unknown == (7,)
    assert answer.text == "It was Ada [1], in 1843 [3, 1]. [7]"


def test_what_does_not_fit_is_left_out_and_the_next_is_tried():
    answer = rag.read("?", HITS, Recorded(""), texts=TEXTS.get, budget=9)
    assert [(one.number, one.id) for one in answer.shown] == [(1, "a"), (2, "c")]
    assert answer.left_out == ("b",)
    assert answer.tokens == 9
    assert TEXTS["b"] not in answer.prompt


@given(st.integers(1, 60), st.lists(st.text("ab ", min_size=1, max_size=30), max_size=6))
def test_the_budget_holds_whatever_it_is_counted_in(budget, given_):
    hits = rag.Hits(np.arange(len(given_)), np.ones(len(given_), np.float32))
    answer = rag.read("?", hits, Recorded(""), texts=lambda one: given_[one], budget=budget, count=len)
    block = "\n\n".join(f"[{one.number}] {one.text}" for one in answer.shown)
    assert len(block) == answer.tokens <= budget
    assert block in answer.prompt
    assert len(answer.shown) + len(answer.left_out) == len(given_)


def test_a_template_of_ones_own():
    generate = Recorded("x")
    rag.read("why?", HITS, generate, texts=TEXTS, template="Q {question}\nP {passages}", budget=4)
    assert generate.prompt == "Q why?\nP [1] Ada wrote it."


def test_a_policy_reads():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{word: one for one, word in enumerate("abcdefgh?[]123:.", 3)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    shape = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=64, **shape))
    from polmrs.models import Policy

    policy = Policy(model, tokenizer).train()
    reader = rag.Reader(policy, max_new_tokens=5)
    assert reader.count("a b c") == 3
    hits = rag.Hits([1], np.ones(1, np.float32))
    answer = rag.read("a ?", hits, reader, texts={1: "b c d"}, template="{passages} : {question}")
    again = rag.Reader(model, tokenizer, max_new_tokens=5)(answer.prompt)
    assert answer.prompt == "[1] b c d : a ?"
    assert answer.text == again
    assert answer.tokens == 6
    assert policy.training
    tokenizer.chat_template = "{% for m in messages %}<s> {{ m.content }} </s>{% endfor %}"
    assert (
        rag.read("a ?", hits, reader, texts={1: "b"}, template="{passages} {question}").prompt
        == "<s> [1] b a ? </s>"
    )
    with pytest.raises(UsageError, match="more than the 64 that the model can take; lower the budget"):
        rag.read("a ?", hits, reader, texts={1: "b " * 70})
    with pytest.raises(UsageError, match="tokenizer: none given"):
        rag.Reader(model)
    with pytest.raises(UsageError, match="max_new_tokens: 0"):
        rag.Reader(policy, max_new_tokens=0)


def test_bad_calls_are_refused():
    batch = rag.Hits([["a"]], [np.ones(1, np.float32)])
    for hits, settings, message in [
        (batch, {}, "hits: those of a batch of 1, not of one query"),
        (HITS, {"budget": 0}, "budget: 0 is not at least 1"),
        (HITS, {"template": "{question}"}, r"template: \{passages\} stands in it 0 times, not once"),
        (HITS, {"texts": {}}, "texts: none for the id 'a'"),
    ]:
        with pytest.raises(UsageError, match=message):
            rag.read("?", hits, Recorded(""), **{"texts": TEXTS, **settings})

    class Lossy(Recorded):
        def render(self, prompt):
            return prompt[:5]

    with pytest.raises(UsageError, match="does not hold the passages as they are"):
        rag.read("?", HITS, Lossy(""), texts=TEXTS)


def test_the_example_of_the_page_runs(capsys):
    page = (Path(__file__).parents[2] / "docs/retrieval.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(compile(block, "docs/retrieval.md", "exec"), {})
    assert "Ada Lovelace did [1]. [('ada:0'" in capsys.readouterr().out
