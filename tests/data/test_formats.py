"""The table of formats: a row of each, written here after its data set's description, and what it is read to."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polmrs.data import read
from polmrs.data.formats import FORMATS
from polmrs.data.formats.turns import ROLES
from polmrs.data.messages import Image, Message, ToolCall, ToolResult
from polmrs.data.records import (
    LanguageModelling,
    Preference,
    PromptCompletion,
    PromptOnly,
    Ranked,
    Stepwise,
    Unpaired,
    Verifiable,
    named,
)
from polmrs.errors import ConfigError, UsageError


def system(text):
    return Message.of("system", text)


def user(text):
    return Message.of("user", text)


def bot(text):
    return Message.of("assistant", text)


def ask(text):
    return (user(text),)


def say(text):
    return (bot(text),)


def turn(role, text):
    return {"role": role, "content": text}


def tag(who, text):
    return {"from": who, "value": text}


QA = [tag("human", "q"), tag("gpt", "a")]
NODE = {
    "message_id": "1",
    "text": "q",
    "role": "prompter",
    "lang": "en",
    "replies": [
        {"message_id": "2", "text": "bad", "role": "assistant", "rank": 1, "replies": []},
        {"message_id": "3", "text": "good", "role": "assistant", "rank": 0, "replies": []},
    ],
}
TREE = Ranked(prompt=ask("q"), answers=(say("bad"), say("good")), scores=(-1.0, 0.0))
POST = {"post": "long", "title": "T", "subreddit": "s"}
TLDR = "SUBREDDIT: r/s\n\nTITLE: T\n\nPOST: long\n\nTL;DR:"
PROOF = {"question": "q", "query": "true?", "chain_of_thought": ["s", "t"], "answer": "True"}


def pc(prompt, completion):
    return PromptCompletion(prompt=prompt, completion=completion)


def lm(*turns):
    return LanguageModelling(text=turns)


def pref(prompt, chosen, rejected, margin=None):
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, margin=margin)


def check(prompt, truth, verifier, solution=None):
    return Verifiable(prompt=prompt, truth=truth, verifier=verifier, solution=solution)


# (format, row, records)
CASES = [
    ("text", {"text": "words"}, [LanguageModelling(text="words")]),
    ("prompt", {"prompt": "q"}, [PromptOnly(prompt="q")]),
    ("prompt", {"prompt": [turn("user", "q")]}, [PromptOnly(prompt=ask("q"))]),
    ("prompt_completion", {"prompt": "q", "completion": " a"}, [pc("q", " a")]),
    (
        "prompt_label",
        {"prompt": "q", "completion": "a", "label": "False"},
        [Unpaired(prompt="q", completion="a", label=False)],
    ),
    ("chosen_rejected", {"prompt": "q", "chosen": "a", "rejected": "b"}, [pref("q", "a", "b")]),
    ("chosen_rejected", {"chosen": "qa", "rejected": "qb"}, [pref("", "qa", "qb")]),
    (
        "steps",
        {"prompt": "q", "completions": ["s", "t"], "labels": [True, False]},
        [Stepwise(prompt="q", steps=("s", "t"), labels=(1, 0))],
    ),
    ("alpaca", {"instruction": "do", "input": "", "output": "a"}, [pc(ask("do"), say("a"))]),
    (
        "alpaca",
        {"instruction": "do", "input": "it", "output": "a", "system": "be", "history": [["p", "r"]]},
        [pc((system("be"), user("p"), bot("r"), user("do\nit")), say("a"))],
    ),
    (
        "alpaca_preference",
        {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
        [pref(ask("q"), say("a"), say("b"))],
    ),
    (
        "alpaca_unpaired",
        {"instruction": "q", "output": "a", "kto_tag": True},
        [Unpaired(prompt=ask("q"), completion=say("a"), label=True)],
    ),
    ("gpteacher", {"instruction": "q", "input": "i", "response": "a"}, [pc(ask("q\ni"), say("a"))]),
    ("dolly", {"instruction": "q", "context": "c", "response": "a"}, [pc(ask("q\n\nc"), say("a"))]),
    (
        "orca",
        {"system_prompt": "be", "question": "q", "response": "a"},
        [pc((system("be"), user("q")), say("a"))],
    ),
    ("orca", {"system_prompt": "", "question": "q", "response": "a"}, [pc(ask("q"), say("a"))]),
    (
        "instances",
        {"instruction": "q", "instances": [{"input": "", "output": "a"}, {"input": "i", "output": "b"}]},
        [pc(ask("q"), say("a")), pc(ask("q\ni"), say("b"))],
    ),
    (
        "instances",
        {
            "instruction": "q",
            "instances": [
                {"instruction_with_input": "q: i", "input": "i", "output": "a", "constraints": "None."}
            ],
            "reformulations": [
                {"instruction": "r", "instruction_with_input": "r: i", "input": "i", "output": "a"}
            ],
        },
        [pc(ask("q: i"), say("a")), pc(ask("r: i"), say("a"))],
    ),
    (
        "natural_instructions",
        {"Definition": ["do"], "Positive Examples": [], "Instances": [{"input": "i", "output": ["a", "b"]}]},
        [pc(ask("do\ni"), say("a")), pc(ask("do\ni"), say("b"))],
    ),
    ("p3", {"inputs_pretokenized": "q", "targets_pretokenized": "a"}, [pc("q", "a")]),
    ("flan", {"inputs": "q", "targets": "a", "task": "t", "language": "en"}, [pc("q", "a")]),
    ("targets", {"input": "q", "target": "a"}, [pc("q", "a")]),
    (
        "hc3",
        {"question": "q", "human_answers": ["a"], "chatgpt_answers": ["b"]},
        [pc(ask("q"), say("a")), pc(ask("q"), say("b"))],
    ),
    ("question", {"question": "q", "answer": "a"}, [pc(ask("q"), say("a"))]),
    (
        "baize",
        {"topic": "t", "input": "The talk.\n[|Human|] q\n[|AI|] a\n[|Human|] "},
        [lm(user("q"), bot("a"))],
    ),
    (
        "judge_prompt",
        {"raw_text": "q", "completions": ["a"], "text": "judge", "aspect": "honesty"},
        [PromptOnly(prompt=ask("judge"))],
    ),
    ("messages", {"messages": [turn("user", "q"), turn("assistant", "a")]}, [lm(user("q"), bot("a"))]),
    (
        "messages",
        {"prompt": "q", "prompt_id": "1", "messages": [turn("user", "q"), turn("assistant", "a")]},
        [lm(user("q"), bot("a"))],
    ),
    (
        "messages_unpaired",
        {"messages": [turn("user", "q"), turn("assistant", "a")], "label": False},
        [Unpaired(prompt=ask("q"), completion=say("a"), label=False)],
    ),
    (
        "messages_preference",
        {
            "chosen_messages": [turn("user", "q"), turn("assistant", "a")],
            "rejected_messages": [turn("user", "q"), turn("assistant", "b")],
        },
        [pref(ask("q"), say("a"), say("b"))],
    ),
    (
        "rlvr",
        {"messages": [turn("user", "q")], "ground_truth": "4", "dataset": "gsm8k"},
        [check(ask("q"), "4", "gsm8k")],
    ),
    ("sharegpt", {"id": 1, "conversations": QA}, [lm(user("q"), bot("a"))]),
    ("sharegpt", {"system": "be", "conversations": QA}, [lm(system("be"), user("q"), bot("a"))]),
    (
        "sharegpt_preference",
        {"conversations": QA[:1], "chosen": tag("gpt", "a"), "rejected": tag("gpt", "b")},
        [pref(ask("q"), say("a"), say("b"))],
    ),
    (
        "sharegpt_unpaired",
        {"conversations": QA, "kto_tag": True},
        [Unpaired(prompt=ask("q"), completion=say("a"), label=True)],
    ),
    (
        "conversations",
        {"conversations": [turn("user", "q"), turn("assistant", "a")]},
        [lm(user("q"), bot("a"))],
    ),
    (
        "wildchat",
        {"conversation": [turn("user", "q") | {"toxic": False}, turn("assistant", "a")], "model": "m"},
        [lm(user("q"), bot("a"))],
    ),
    ("ultrachat", {"id": "0", "data": ["q", "a", "r", "b"]}, [lm(user("q"), bot("a"), user("r"), bot("b"))]),
    (
        "hh_rlhf",
        {
            "chosen": "\n\nHuman: p\n\nAssistant: r\n\nHuman: q\n\nAssistant: a",
            "rejected": "\n\nHuman: p\n\nAssistant: r\n\nHuman: q\n\nAssistant: b",
        },
        [pref((user("p"), bot("r"), user("q")), say("a"), say("b"))],
    ),
    (
        "shp",
        {"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0, "score_ratio": 2.5},
        [pref(ask("q"), say("b"), say("a"), 2.5)],
    ),
    (
        "webgpt",
        {
            "question": {"full_text": "q"},
            "answer_0": "a [1]",
            "answer_1": "b [2, 3].",
            "score_0": -0.5,
            "score_1": 0.5,
        },
        [pref(ask("q"), say("b."), say("a"), 1.0)],
    ),
    (
        "summarize_comparisons",
        {"info": POST, "summaries": [{"text": " a"}, {"text": "b "}], "choice": 1},
        [pref(TLDR, " b", " a")],
    ),
    (
        "summarize_comparisons",
        {"info": {"article": "news"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0},
        [pref("news\n\nTL;DR:", " a", " b")],
    ),
    (
        "summarize_axis",
        {"info": POST, "summary": {"text": "a", "axes": {"overall": 6, "accuracy": None}}},
        [Ranked(prompt=TLDR, answers=(" a",), scores=(6,))],
    ),
    (
        "ultrafeedback",
        {
            "instruction": "q",
            "models": ["m", "n"],
            "completions": [
                {"response": "a", "overall_score": 2, "annotations": {"honesty": {"Rating": "N/A"}}},
                {"response": "b", "overall_score": 8, "annotations": {"honesty": {"Rating": "4"}}},
            ],
        },
        [Ranked(prompt=ask("q"), answers=(say("a"), say("b")), scores=(2, 8))],
    ),
    (
        "nectar",
        {
            "prompt": "\n\nHuman: q\n\nAssistant: ",
            "answers": [{"answer": "a", "rank": 2}, {"answer": "b", "rank": 1}],
        },
        [Ranked(prompt=ask("q"), answers=(say("a"), say("b")), scores=(-2, -1))],
    ),
    (
        "stack_exchange",
        {"qid": 1, "question": "q", "answers": [{"text": "a", "pm_score": 3}, {"text": "b", "pm_score": 0}]},
        [Ranked(prompt=ask("q"), answers=(say("a"), say("b")), scores=(3, 0))],
    ),
    (
        "stack_exchange_paired",
        {"question": "q", "response_j": "a", "response_k": "b"},
        [pref(ask("q"), say("a"), say("b"))],
    ),
    (
        "pass_rates",
        {"question": "q", "inferences": [{"completion": "a", "pass_rate": 0.5}]},
        [Ranked(prompt=ask("q"), answers=(say("a"),), scores=(0.5,))],
    ),
    (
        "conversations_preference",
        {
            "prompt": "q",
            "chosen": [turn("user", "q"), turn("assistant", "a")],
            "rejected": [turn("user", "q"), turn("assistant", "b")],
            "score_chosen": 8.5,
            "score_rejected": 8,
        },
        [pref(ask("q"), say("a"), say("b"), 0.5)],
    ),
    (
        "conversations_preference",
        {
            "prompt": [turn("user", "q")],
            "chosen": [turn("assistant", "a")],
            "rejected": [turn("assistant", "b")],
        },
        [pref(ask("q"), say("a"), say("b"))],
    ),
    ("oasst_tree", {"message_tree_id": "1", "tree_state": "x", "prompt": NODE}, [TREE]),
    ("oasst_messages", NODE, [TREE]),
    (
        "ranked",
        {"prompt": "q", "answers": ["a", "b"], "scores": [0, 1]},
        [Ranked(prompt="q", answers=("a", "b"), scores=(0, 1))],
    ),
    ("verifiable", {"prompt": "q", "truth": "4", "verifier": "number"}, [check("q", "4", "number")]),
    (
        "gsm8k",
        {"question": "q", "answer": "1000 + 24 = <<1000+24=1024>>1024\n#### 1,024"},
        [check(ask("q"), "1024", "number", say("1000 + 24 = <<1000+24=1024>>1024\n#### 1,024"))],
    ),
    (
        "reft",
        {"item_id": "1", "question": "q", "answer_cot": "so", "answer_value": 4},
        [check(ask("q"), "4", "number", say("so"))],
    ),
    ("svamp", {"Body": "b.", "Question": "q?", "Answer": 51.0}, [check(ask("b. q?"), "51", "number")]),
    (
        "svamp",
        {"Body": "b.", "Question": "q?", "Answer": 1234567.0},
        [check(ask("b. q?"), "1234567", "number")],
    ),
    (
        "llm_adapters",
        {"instruction": "q", "input": "", "output": "\nso", "answer": "4.0"},
        [check(ask("q"), "4.0", "number", say("so"))],
    ),
    (
        "reasoning_gym",
        {"task": "t", "question": "q", "answer": None, "oracle_score": 1.0},
        [check(ask("q"), None, "reasoning_gym:t")],
    ),
    (
        "code",
        {"prompt": "def f():", "entry_point": "f", "test": "f()", "canonical_solution": " 1"},
        [check("def f():", {"entry_point": "f", "test": "f()"}, "python", " 1")],
    ),
    (
        "bbq",
        {"context": "c", "question": "q", "ans0": "x", "ans1": "y", "ans2": "z", "label": 2},
        [check(ask("c\nq\nA. x\nB. y\nC. z"), "C", "choice", say("C"))],
    ),
    (
        "choices",
        {"question": "q", "choices": ["x", "y"], "answer": "B"},
        [check(ask("q\nA. x\nB. y"), "B", "choice", say("B"))],
    ),
    (
        "prontoqa",
        {"test_example": PROOF},
        [Stepwise(prompt=ask("q\ntrue?"), steps=("s", "t"), labels=(1, 1))],
    ),
    (
        "verdicts",
        {"question": "q", "ground_truth": "4", "6b": {"is_correct": False, "solution": "5"}},
        [Unpaired(prompt=ask("q"), completion=say("5"), label=False)],
    ),
    (
        "prm800k",
        {
            "question": {"problem": "q"},
            "label": {
                "steps": [
                    {"completions": [{"text": "s", "rating": 1}], "chosen_completion": 0},
                    {"completions": [], "human_completion": {"text": "h"}, "chosen_completion": None},
                    {"completions": [{"text": "t", "rating": -1}], "chosen_completion": None},
                    {"completions": [{"text": "u", "rating": 1}], "chosen_completion": 0},
                ]
            },
        },
        [Stepwise(prompt=ask("q"), steps=("s", "h", "t"), labels=(1, 1, 0))],
    ),
    (
        "math_shepherd",
        {"input": "q Step 1: s ки\nStep 2: t ки", "label": "q Step 1: s +\nStep 2: t -", "task": "GSM8K"},
        [Stepwise(prompt=ask("q"), steps=("Step 1: s", "Step 2: t"), labels=(1, 0))],
    ),
]


@pytest.mark.method("data.formats")
@pytest.mark.method("data.formats-multitask")
@pytest.mark.method("data.formats-dialogue")
@pytest.mark.parametrize(("name", "row", "records"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_a_row_is_told_by_its_columns_and_read_to_its_records(name, row, records):
    found = read([row])
    assert found.account.formats[0].split(": ")[1] == name
    assert list(found.records) == records
    assert found.kind is type(records[0]) is FORMATS[name].kind


@pytest.mark.parametrize("prompt", ["q", [turn("user", "q")]])
@pytest.mark.parametrize("completion", ["a", [turn("assistant", "a")]])
def test_a_plain_side_of_messages_becomes_messages(prompt, completion):
    [record] = read([{"prompt": prompt, "completion": completion}])
    assert record == (
        pc("q", "a") if isinstance(prompt, str) and isinstance(completion, str) else pc(ask("q"), say("a"))
    )


def test_every_format_of_the_table_has_a_case():
    assert {name for name, _, _ in CASES} == set(FORMATS)


@pytest.mark.parametrize("row", [{"message_tree_id": "1", "prompt": NODE}, NODE])
def test_a_tree_gives_the_conversation_of_its_best_answers_where_that_is_asked_for(row):
    assert list(read([row], kind="language_modelling").records) == [lm(user("q"), bot("good"))]


def test_flat_messages_make_the_same_trees_as_nested_ones():
    flat = [{**NODE, "replies": [], "parent_id": None}] + [{**r, "parent_id": "1"} for r in NODE["replies"]]
    assert read(flat).records == read([NODE]).records


def test_messages_that_descend_from_themselves_are_rejected():
    loop = [{"message_id": a, "parent_id": b, "text": "t", "role": "prompter"} for a, b in ("ab", "ba")]
    found = read([NODE, *loop], policy="skip")
    assert [fault.reason for fault in found.account.rejected] == [
        "parent_id: the message descends from itself"
    ] * 2


def test_tools_calls_and_their_results_are_typed():
    call = '{"name": "add", "arguments": {"a": 1}}'
    turns = [tag("human", "q"), tag("function_call", call), tag("observation", "3"), tag("gpt", "a")]
    record = read([{"conversations": turns, "tools": '[{"name": "add"}]'}])[0]
    assert record.tools == ({"type": "function", "function": {"name": "add"}},)
    assert record.text[1].content == (ToolCall("add", {"a": 1}),)
    assert record.text[2].content == (ToolResult("3"),)


def test_tool_calls_of_openai_are_the_same_calls():
    call = {"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [turn("user", "q"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    turns += [{"role": "tool", "content": "3", "tool_call_id": "x"}, turn("assistant", "a")]
    record = read([{"messages": turns}])[0]
    assert record.text[1].content == (ToolCall("add", {"a": 1}, "x"),)
    assert record.text[2].content == (ToolResult("3", "x"),)


def test_pictures_stand_where_their_marks_stood():
    row = {"messages": [turn("user", "<image>Who?"), turn("assistant", "a")], "images": ["1.jpg"]}
    content = read([row])[0].text[0].content
    assert content[0] == Image("1.jpg")
    assert content[1].text == "Who?"
    with pytest.raises(ConfigError, match="more files than <image> marks"):
        read([row | {"images": ["1.jpg", "2.jpg"]}])
    with pytest.raises(ConfigError, match="more <image> marks than files"):
        read([row | {"messages": [turn("user", "<image><image>"), turn("assistant", "a")]}])


def test_weights_of_messages_are_read_under_any_of_their_names():
    turns = [
        turn("user", "q"),
        turn("assistant", "a") | {"loss_weight": 0.5},
        turn("user", "r"),
        turn("assistant", "b") | {"weight": 0},
        turn("user", "s") | {"train": True},
        turn("assistant", "c"),
    ]
    assert [t.weight for t in read([{"messages": turns}])[0].text] == [0, 0.5, 0, 0, 1, 1]


def test_what_carries_no_supervision_is_kept_beside_it():
    row = {"instruction": "q", "input": "", "output": "a", "lang": "en", "source": None}
    assert read([row])[0].meta == {"lang": "en"}
    aspects = read([CASES[[c[0] for c in CASES].index("ultrafeedback")][1]])[0].meta["aspects"]
    assert aspects == [{}, {"honesty": 4.0}]


# (row, what is said)
BAD = [
    ({"instruction": "q", "output": " "}, "output: an empty answer"),
    ({"instruction": "q", "output": 3}, "output: expected text, got int"),
    ({"instruction": " ", "output": "a"}, "instruction: an empty question"),
    ({"instruction": "q", "output": "\ud800"}, "half of a surrogate pair"),
    ({"conversations": [tag("alien", "q"), tag("gpt", "a")]}, r"conversations\[0\]: role 'alien' is none of"),
    (
        {"conversations": [tag("human", "q"), tag("human", "r"), tag("gpt", "a")]},
        "turns 1 and 2: two user turns",
    ),
    ({"conversations": [tag("gpt", "a"), *QA]}, "turn 1: the assistant speaks before any user"),
    ({"conversations": [*QA, tag("human", "r")]}, "the last turn is the user's"),
    ({"conversations": [tag("human", "q"), tag("gpt", " ")]}, r"conversations\[1\]: a turn without content"),
    ({"conversations": [*QA, tag("system", "be"), *QA]}, "turn 3: a system turn that is not the first"),
    ({"conversations": QA, "tools": "{"}, "tools: not JSON"),
    ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: a"}, "differ"),
    ({"chosen": "same", "rejected": "same"}, "the same"),
    ({"question": {"full_text": "q"}, "answer_0": "a", "answer_1": "b", "score_0": 0, "score_1": 0}, "a tie"),
    ({"prompt": "q", "completion": "a", "label": "maybe"}, "label: 'maybe' is neither true nor false"),
    ({"prompt": "q", "answers": ["a"], "scores": ["nan"]}, "not a number"),
    ({"question": "q", "answer": "no result\n####"}, "no result after ####"),
    ({"input": "q Step 1: s ки", "label": "q Step 1: s ?"}, r"step 1 does not end in \+ or -"),
    ({"message_tree_id": "1", "prompt": NODE | {"replies": []}}, "two ranked answers"),
]


@pytest.mark.parametrize(("row", "reason"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_a_row_that_does_not_fit_is_refused_with_its_place_and_reason(row, reason):
    with pytest.raises(ConfigError, match=rf"rows:row 1: .*{reason}"):
        read([row])


def test_repairs_mend_the_order_of_turns_and_say_so():
    turns = [tag("gpt", "hi"), tag("human", "q"), tag("human", "r"), tag("gpt", "a"), tag("human", "bye")]
    found = read([{"conversations": turns}], policy="repair")
    assert [(t.role, t.text) for t in found[0].text] == [("user", "q\n\nr"), ("assistant", "a")]
    [fault] = found.account.repaired
    assert [part.rsplit(": ", 1)[1] for part in fault.reason.split("; ")] == [
        "left out",
        "merged",
        "left out",
    ]


def test_columns_that_no_format_has_are_named_with_the_nearest_format():
    with pytest.raises(ConfigError, match=r"no format fits columns instruction, answer; .* lacks"):
        read([{"instruction": "q", "answer": "a"}])


def test_a_format_can_be_named_and_a_wrong_name_lists_them():
    row = {"question": "q", "answer": "so\n#### 4"}
    assert read([row], format="question")[0] == pc(ask("q"), say("so\n#### 4"))
    with pytest.raises(UsageError, match="format: 'gsm' is none of prompt, "):
        read([row], format="gsm")


def test_every_speaker_of_the_table_is_one_of_four():
    assert set(ROLES.values()) == {"system", "user", "assistant", "tool"}


def test_the_page_has_the_table():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = [
        f"| `{f.name}` | {f.of} | {', '.join(f'`{path}`' for path in f.paths)} | `{named(f.kind)}` |"
        for f in FORMATS.values()
    ]
    assert "\n".join(rows) in page


JUNK = [
    None,
    10**400,
    True,
    0,
    -7.5,
    "",
    " ",
    "x",
    "[1]",
    "{}",
    [],
    [[]],
    [None],
    ["x"],
    [{}],
    {},
    {"role": "user"},
    {"text": 3},
]


def mutated(value, draw):
    """A value with something within it that it should not be."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        return value | {key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], mutated(value[at], draw), *value[at + 1 :]]
    return draw(st.sampled_from(JUNK))


@given(st.data())
@settings(max_examples=400)
def test_whatever_a_row_holds_it_is_read_or_rejected_with_a_reason(data):
    name, row, _ = data.draw(st.sampled_from(CASES))
    bad = {**row, data.draw(st.sampled_from(sorted(row))): None}
    key = data.draw(st.sampled_from(sorted(row)))
    for odd in (bad, row | {key: mutated(row[key], data.draw)}):
        found = read([row, odd, row], format=name, policy=data.draw(st.sampled_from(["skip", "repair"])))
        assert found.account.rows == 3
        assert len({record.origin for record in found}) + len(found.account.rejected) == 3


def test_null_fields_of_a_part_hide_nothing():
    blocks = [
        {"type": "text", "text": "see", "image": None},
        {"type": "image", "text": None, "image": "a.png"},
    ]
    row = {
        "messages": [
            {"role": "user", "content": blocks},
            {"role": "assistant", "content": None, "value": "ok"},
        ]
    }
    [record] = read([row]).records
    assert [type(part).__name__ for part in record.text[0].content] == ["Text", "Image"]


def test_a_preference_between_equal_answers_is_rejected():
    same = [{"role": "assistant", "content": "a"}]
    with pytest.raises(ConfigError, match="chosen, rejected: the same"):
        read([{"prompt": "q", "chosen": same, "rejected": same}], policy="strict")
