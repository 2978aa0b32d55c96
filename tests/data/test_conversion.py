"""One kind of record as another, and back from files."""

import pytest
from polmrs.data import convert, judged, preferences, read, write
from polmrs.data.conversion import routes
from polmrs.data.formats.turns import assistant, user
from polmrs.data.messages import Image, Message, Text, ToolCall, ToolResult
from polmrs.data.records import (
    KINDS,
    LanguageModelling,
    Preference,
    PromptCompletion,
    PromptOnly,
    Ranked,
    Stepwise,
    Unpaired,
    Verifiable,
)
from polmrs.errors import ConfigError, OutputExistsError, UsageError

Q, A, B = (user("q"),), (assistant("a"),), (assistant("b"),)
TOOL = {"type": "function", "function": {"name": "add"}}
MADE = {
    LanguageModelling: LanguageModelling(text=Q + A),
    PromptOnly: PromptOnly(prompt=Q),
    PromptCompletion: PromptCompletion(prompt=Q, completion=A),
    Preference: Preference(prompt=Q, chosen=A, rejected=B, margin=0.5),
    Ranked: Ranked(prompt=Q, answers=(B, A), scores=(0.0, 1.0)),
    Unpaired: Unpaired(prompt=Q, completion=A, label=True),
    Stepwise: Stepwise(prompt=Q, steps=("s", "t"), labels=(1.0, 0.0)),
    Verifiable: Verifiable(prompt=Q, truth="4", verifier="number", solution=A),
}
# The matrix of TRL's documentation, and what rankings and verifiable tasks add to it.
MATRIX = {
    LanguageModelling: "prompt_only prompt_completion",
    PromptOnly: "",
    PromptCompletion: "language_modelling prompt_only",
    Preference: "language_modelling prompt_only prompt_completion unpaired",
    Ranked: "language_modelling prompt_only prompt_completion preference",
    Unpaired: "language_modelling prompt_only prompt_completion",
    Stepwise: "language_modelling prompt_only prompt_completion unpaired",
    Verifiable: "language_modelling prompt_only prompt_completion",
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_kind_gives_the_kinds_of_the_matrix_and_no_other(kind):
    assert routes(kind) == MATRIX[kind].split()
    for name, other in KINDS.items():
        if other is kind:
            assert list(convert(MADE[kind], other)) == [MADE[kind]]
        elif name in MATRIX[kind].split():
            assert {type(one) for one in convert(MADE[kind], other)} == {other}
        else:
            with pytest.raises(UsageError, match=f"gives no {name}"):
                list(convert(MADE[kind], other))


@pytest.mark.parametrize("kind", [Preference, Ranked, Unpaired, Verifiable, PromptCompletion])
def test_what_is_learned_of_a_question_is_its_best_answer(kind):
    assert list(convert(MADE[kind], PromptCompletion)) == [MADE[PromptCompletion]]
    assert list(convert(MADE[kind], LanguageModelling)) == [MADE[LanguageModelling]]
    assert list(convert(MADE[kind], PromptOnly)) == [MADE[PromptOnly]]


def test_wrong_answers_and_wrong_steps_are_no_text_to_learn():
    wrong = Unpaired(prompt=Q, completion=A, label=False)
    assert list(convert(wrong, LanguageModelling)) == []
    [kept] = convert(MADE[Stepwise], PromptCompletion)
    assert kept.completion == (assistant("s"),)
    assert list(convert(Stepwise(prompt=Q, steps=("s",), labels=(0.0,)), PromptCompletion)) == []
    [verdict] = convert(MADE[Stepwise], Unpaired)
    assert (verdict.completion, verdict.label) == ((assistant("s\nt"),), False)


def test_a_pair_is_two_verdicts_and_a_ranking_its_pairs():
    assert [(one.completion, one.label) for one in convert(MADE[Preference], Unpaired)] == [
        (A, True),
        (B, False),
    ]
    assert [(one.chosen, one.rejected, one.margin) for one in convert(MADE[Ranked], Preference)] == [
        (A, B, 1.0)
    ]


def test_the_last_answer_of_a_conversation_is_its_completion():
    calling = Message("assistant", (ToolCall("add"),), 1.0)
    result = Message("tool", (ToolResult("3"),), 0.0)
    turns = (*Q, *A, user("r"), calling, result, assistant("3"))
    [made] = convert(LanguageModelling(text=turns), PromptCompletion)
    assert (made.prompt, made.completion) == (turns[:5], turns[5:])
    assert list(convert(LanguageModelling(text="plain"), PromptCompletion)) == []


def test_what_says_nothing_is_left_out_by_name():
    rows = [{"prompt": "q", "completion": c, "label": c == "a"} for c in "ab"]
    made = read(rows, kind=PromptCompletion)
    assert len(made) == 1
    assert made.account.left_out[0] == ("rows:row 2", "says nothing as prompt_completion")
    with pytest.raises(ConfigError, match="no record is left as prompt_completion"):
        read(rows[1:]).to(PromptCompletion)


def test_a_kind_that_a_format_cannot_give_is_refused_before_any_row_is_read():
    with pytest.raises(UsageError, match=r"text gives language_modelling.*, not preference"):
        preferences([{"text": "words"}])


def test_files_of_several_kinds_become_one():
    rows = [{"prompt": "q", "completion": "a"}], [{"prompt": "q", "chosen": "a", "rejected": "b"}]
    with pytest.raises(UsageError, match="several kinds, preference, prompt_completion"):
        read(list(rows))
    assert len(read(list(rows), kind=PromptCompletion)) == 2


def test_checked_samples_are_verdicts_or_pairs_of_right_and_wrong():
    task, samples, right = MADE[Verifiable], [A, B, Q], [True, False, False]
    assert [(one.completion, one.label) for one in judged(task, samples, right)] == list(
        zip(samples, right, strict=True)
    )
    found = judged(task, samples, right, kind=Preference)
    assert [(one.chosen, one.rejected) for one in found] == [(A, B), (A, Q)]
    assert len(list(judged(task, samples, right, kind=Preference, which="one"))) == 1
    assert list(judged(task, [A], [True], kind=Preference)) == []
    with pytest.raises(UsageError, match="right: 1 verdicts, but there are 3 samples"):
        list(judged(task, samples, [True]))


RICH = (
    Message.of("system", "be"),
    Message("user", (Image("1.png"), Text("Who?")), 0.0),
    Message("assistant", (Text("see"), ToolCall("add", {"a": 1}, "x")), 0.5),
    Message("tool", (ToolResult("3", "x"),), 0.0),
    assistant("a"),
)


@pytest.mark.parametrize(
    "record",
    [
        *MADE.values(),
        LanguageModelling(text="plain ünd 三"),
        LanguageModelling(text=RICH, tools=(TOOL,)),
        PromptCompletion(prompt="q", completion="a"),
        Preference(prompt="", chosen="a", rejected="b"),
    ],
    ids=lambda record: type(record).__name__,
)
def test_what_is_written_is_read_back(record, tmp_path):
    assert write([record], tmp_path / "a.jsonl") == 1
    assert list(read(tmp_path / "a.jsonl").records) == [record]


def test_a_file_that_is_there_stays_and_one_that_fails_does_not_appear(tmp_path):
    path = tmp_path / "a.jsonl"
    write([MADE[Preference]], path)
    before = path.read_bytes()
    with pytest.raises(OutputExistsError):
        write([MADE[Unpaired]], path)
    with pytest.raises(TypeError):
        write([PromptOnly(prompt="q", meta={"x": object()})], path, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
