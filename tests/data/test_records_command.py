"""`polmrs data inspect | convert | show`."""

import json

import pytest
from data.tokenizers import tokenizer
from polmrs import cli
from polmrs.data import read
from polmrs.data.command import run
from polmrs.data.picture import COUNTED, PLAIN, SPECIAL, drawn
from polmrs.data.ragged import Batch
from polmrs.data.records import PromptCompletion

CHATS = [
    [{"from": "human", "value": "Hi there"}, {"from": "gpt", "value": "Hello"}],
    [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "好"}],
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "chats.jsonl"
    rows = [{"conversations": chat, "lang": "x"} for chat in CHATS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer().save_pretrained(path)
    return path


def polmrs(monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["polmrs", "data", *map(str, args)])
    return cli.main()


def test_inspect_says_the_format_the_faults_and_the_lengths(file, folder):
    told = run(["inspect", str(file), "--tokenizer", str(folder)])
    for line in (
        "2 records, language_modelling",
        f"{file}: sharegpt: conversations[].from, conversations[].value",
        "3 rows",
        f"  {file}:3: not JSON",
        "messages: least 2, median 2",
        "meta: lang",
        'first: {"messages": [{"role": "user", "content": "Hi there"}',
    ):
        assert line in told
    facts = json.loads(run(["inspect", str(file), "--tokenizer", str(folder), "--json"]))
    lengths = [len(batch.ids) for batch in read(file, policy="skip").examples(folder)]
    assert facts["schema"] == "polmrs.data.inspect/1"
    assert (facts["tokens"]["least"], facts["tokens"]["most"]) == (min(lengths), max(lengths))
    assert facts["account"]["rejected"][0]["origin"] == f"{file}:3"


def test_convert_writes_what_read_reads_and_reports_the_rest(file, tmp_path):
    out, report = tmp_path / "out.jsonl", tmp_path / "report.json"
    args = [file, "--kind", "prompt_completion", "--policy", "skip", "--to", out, "--report", report]
    assert run(["convert", *map(str, args)]) == f"{out}: 2 records, prompt_completion"
    assert read(out).records == read(file, kind=PromptCompletion, policy="skip").records
    assert json.loads(report.read_text())["rejected"][0]["origin"] == f"{file}:3"


def test_show_prints_the_batch_that_training_sees(file, folder):
    args = ["show", str(file), "--policy", "skip", "--tokenizer", str(folder), "--size", "1"]
    told = run([*args, "--batch", "1", "--width", "60"])
    [batch] = read(file, policy="skip")[1:].examples(folder)
    assert told == drawn(batch, tokenizer(), width=60)
    assert f"({file}:2)" in told
    assert max(map(len, told.splitlines()[1:])) <= 60
    assert COUNTED in run([*args, "--color", "always"])


def test_a_drawing_has_every_token_with_its_position_and_weight():
    tokens = tokenizer()
    batch = read([{"conversations": CHATS[0]}]).examples(tokens)[0]
    cells = {"position": [], "id": [], "weight": [], "token": []}
    for line in drawn(batch, tokens, width=70).splitlines()[1:]:
        name, *values = line.split() or [""]
        cells.get(name, []).extend(values)
    assert cells["position"] == [str(i) for i in range(len(batch.ids))]
    assert cells["id"] == [str(i) for i in batch.ids.tolist()]
    assert cells["weight"] == ["1" if weight else "." for weight in batch.weights.tolist()]
    assert "".join(cells["token"]).replace("·", " ").replace("\\n", "\n") == tokens.decode(batch.ids.tolist())


def test_colours_mark_what_counts_and_what_is_special():
    tokens = tokenizer()
    batch = Batch.of([[258, 65, 66]], [[0, 0, 1]])
    told = drawn(batch, tokens, color=True)
    assert f"{SPECIAL}<|start|>{PLAIN}" in told
    assert f"{COUNTED}1" in told
    assert drawn(batch, tokens) == told.replace(SPECIAL, "").replace(COUNTED, "").replace(PLAIN, "")


def test_what_would_move_the_cursor_is_written_out():
    class Bell:
        all_special_ids = ()

        def decode(self, ids):
            return ["\x1b[2J", "\r\n", "\u202e"][ids[0]]

    told = drawn(Batch.of([[0, 1, 2]]), Bell())
    assert told.splitlines()[-1].split()[1:] == ["\\x1b[2J", "\\r\\n", "\\u202e"]


def test_exit_codes_are_those_of_the_native_verbs(file, folder, monkeypatch, capsys):
    assert polmrs(monkeypatch, "inspect", file) == 0
    assert "2 records" in capsys.readouterr().out
    assert polmrs(monkeypatch, "convert", file, "--to", file.with_suffix(".out")) == 3
    assert "chats.jsonl:3: not JSON" in capsys.readouterr().err
    assert polmrs(monkeypatch, "convert", file, "--policy", "skip", "--to", file) == 3
    args = ("show", file, "--policy", "skip", "--tokenizer", folder, "--batch", 9)
    assert polmrs(monkeypatch, *args) == 2
    assert "--batch: 9 is none of 0 to 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        polmrs(monkeypatch, "show", file)
