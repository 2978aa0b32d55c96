"""Chat templates: which tokens count, what ends an answer, what is refused."""

import pytest
from data.tokenizers import CHATML, MARKED, OPEN, REWRITING, counted, tokenizer
from hypothesis import given
from hypothesis import strategies as st
from polmrs.data.chat import rendered
from polmrs.data.messages import Message, ToolCall
from polmrs.data.sequence import encode, prompt_ids
from polmrs.errors import UsageError

TOKENS = {name: tokenizer(name) for name in (CHATML, MARKED)}
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=12).filter(
    str.strip
)
CHATS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4)


def user(text):
    return Message.of("user", text)


def assistant(text, weight=1.0):
    return Message.of("assistant", text, weight=weight)


def chat(pairs):
    return tuple(turn for question, answer in pairs for turn in (user(question), assistant(answer)))


@given(CHATS)
def test_by_prefix_difference_the_answers_and_their_ends_count_and_nothing_else(pairs):
    tokens = TOKENS[CHATML]
    made = encode("", chat(pairs), tokens)
    assert counted(tokens, made.ids, made.weights) == "".join(f"{answer}<|end|>\n" for _, answer in pairs)
    assert tokens.decode(made.ids) == tokens.apply_chat_template(
        [{"role": t.role, "content": t.text} for t in chat(pairs)], tokenize=False
    )


@given(CHATS)
def test_marked_templates_give_the_mask_of_transformers(pairs):
    tokens = TOKENS[MARKED]
    made = encode("", chat(pairs), tokens)
    theirs = tokens.apply_chat_template(
        [{"role": t.role, "content": t.text} for t in chat(pairs)],
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    assert made.ids == theirs["input_ids"]
    assert made.weights == [float(mark) for mark in theirs["assistant_masks"]]


@given(CHATS)
def test_a_completion_is_what_follows_the_prompt_that_a_model_is_given(pairs):
    tokens = TOKENS[CHATML]
    turns = chat(pairs)
    made = encode(turns[:-1], turns[-1:], tokens)
    assert made.ids[: made.prompt] == prompt_ids(turns[:-1], tokens)
    assert counted(tokens, made.ids, made.weights) == f"{turns[-1].text}<|end|>\n"


def test_messages_count_by_their_weights_users_too():
    tokens = TOKENS[CHATML]
    turns = (user("a"), assistant("b", 0.5), Message.of("user", "c", weight=0.25), assistant("d", 0.0))
    made = encode("", turns, tokens)
    assert counted(tokens, made.ids, made.weights, 0.5) == "b<|end|>\n"
    assert counted(tokens, made.ids, made.weights, 0.25) == "<|start|>user\nc<|end|>\n"
    assert counted(tokens, made.ids, made.weights, 1.0) == ""


def test_a_conversation_in_which_nothing_counts_is_refused():
    with pytest.raises(UsageError, match="no token counts"):
        encode("", (user("a"), assistant("b", 0.0)), TOKENS[CHATML])


def test_a_template_that_rewrites_earlier_turns_is_refused_but_serves_for_the_last_answer():
    tokens = tokenizer(REWRITING)
    turns = chat([("a", "b"), ("c", "d")])
    with pytest.raises(UsageError, match="writes earlier turns otherwise"):
        encode("", turns, tokens)
    made = encode(turns[:-1], turns[-1:], tokens)
    assert counted(tokens, made.ids, made.weights) == "<think></think>d<|end|>\n"


def test_generation_marks_help_where_earlier_turns_are_rewritten():
    both = (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|start|>assistant\n{% if loop.last %}<think></think>{% endif %}"
        "{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% else %}<|start|>user\n{{ m.content }}<|end|>{% endif %}{% endfor %}"
    )
    tokens = tokenizer(both)
    made = encode("", chat([("a", "b"), ("c", "d")]), tokens)
    assert counted(tokens, made.ids, made.weights) == "b<|end|>d<|end|>"


def test_marks_that_do_not_number_the_answers_are_refused():
    once = MARKED.replace("m.role == 'assistant'", "m.role == 'assistant' and loop.last")
    with pytest.raises(UsageError, match="1 generation blocks for 2 assistant messages"):
        encode("", chat([("a", "b"), ("c", "d")]), tokenizer(once))


@pytest.mark.parametrize("pad", ["<|eos|>", "<|bos|>"])
def test_the_end_of_text_is_learned_even_if_padding_is_the_same_token(pad):
    tokens = tokenizer(pad=pad)
    made = encode("2 + 2 =", " 4", tokens)
    assert made.ids[-1] == tokens.eos_token_id
    assert counted(tokens, made.ids, made.weights) == " 4<|eos|>"


def test_an_end_that_stands_in_the_text_is_not_written_twice():
    tokens = tokenizer()
    assert encode("a", "b<|eos|>", tokens).ids == encode("a", "b", tokens).ids


def test_a_template_that_closes_no_answer_gets_the_end_of_text():
    tokens = tokenizer(OPEN)
    made = encode("", chat([("a", "b")]), tokens)
    assert counted(tokens, made.ids, made.weights) == "b\n<|eos|>"
    assert made.ids.count(tokens.eos_token_id) == 1


@pytest.mark.parametrize("text", ["abc", "<|bos|>abc"])
def test_a_beginning_is_written_once(text):
    tokens = tokenizer(adds_bos=True)
    assert encode("", text, tokens).ids.count(tokens.bos_token_id) == 1
    assert prompt_ids(text, tokens).count(tokens.bos_token_id) == 1


def test_a_template_that_writes_the_beginning_gets_no_second_one():
    tokens = tokenizer("{{ bos_token }}" + CHATML, adds_bos=True)
    made = encode("", chat([("a", "b")]), tokens)
    assert made.ids.count(tokens.bos_token_id) == 1
    assert prompt_ids((user("a"),), tokens).count(tokens.bos_token_id) == 1


def test_tokens_without_width_count_with_their_word():
    tokens = tokenizer()
    made = encode("a", "  b c  ", tokens)
    assert counted(tokens, made.ids, made.weights) == "  b c  <|eos|>"


def test_tools_reach_the_template():
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    template = "{{ tools[0].function.name }}|" + CHATML.replace(
        "{{ m.content }}",
        "{{ m.content }}{% for c in m.tool_calls or [] %}[{{ c.function.name }}]{% endfor %}",
    )
    calling = Message("assistant", (ToolCall("add", {"a": 1}),), 1.0)
    text, spans = rendered((user("2 + 2"), calling), tokenizer(template), (tool,))
    assert text.startswith("add|")
    assert text[spans[0].begin : spans[0].end] == "[add]<|end|>\n"


def test_what_a_template_would_drop_without_a_word_is_refused():
    calling = Message("assistant", (ToolCall("add", {"a": 1}),), 1.0)
    with pytest.raises(UsageError, match="it leaves the call of add out of turn 2"):
        encode("", (user("2 + 2"), calling), TOKENS[CHATML])
    tool = {"type": "function", "function": {"name": "add"}}
    with pytest.raises(UsageError, match="it writes none of the tools add"):
        encode("", chat([("q", "a")]), TOKENS[CHATML], tools=(tool,))
    dropping = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
    with pytest.raises(UsageError, match="it leaves words out of turn 2: '<think>"):
        encode("", chat([("q", "<think>so</think>a")]), tokenizer(dropping))
    assert encode("", chat([("q", " a ")]), tokenizer(CHATML.replace("m.content", "m.content.strip()"))).ids


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a", (assistant("b"),)), "plain text before messages"),
        (((user("a"),), "b"), "plain text after messages"),
    ],
)
def test_plain_text_and_messages_do_not_mix(given, message):
    with pytest.raises(UsageError, match=message):
        encode(*given, tokenizer())


def test_messages_need_a_template_and_what_it_raises_is_said():
    with pytest.raises(UsageError, match="no chat template"):
        encode("", chat([("a", "b")]), tokenizer(None))
    with pytest.raises(UsageError, match="roles must alternate"):
        encode("", chat([("a", "b")]), tokenizer("{{ raise_exception('roles must alternate') }}"))


def test_a_template_is_rendered_in_a_sandbox():
    with pytest.raises(UsageError, match="chat template"):
        encode("", chat([("a", "b")]), tokenizer("{{ messages.__class__.__mro__[1].__subclasses__() }}"))
