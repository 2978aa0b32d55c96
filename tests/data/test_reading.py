"""Reading whole data sets: policies, accounts, and every third-party file that is at hand."""

import collections
import json

import pytest
from polmrs.data import read
from polmrs.data.records import named
from polmrs.errors import ConfigError, PolmrsError, UsageError

GOOD = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
MENDED = {"conversations": [*GOOD["conversations"], {"from": "human", "value": "bye"}]}
LOST = {"conversations": [{"from": "alien", "value": "q"}]}


@pytest.fixture
def mixed(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, (GOOD, MENDED, LOST))) + "\nnot json\n")
    return path


def faults(found):
    return [fault.origin.rsplit(":", 1)[1] for fault in found]


def test_strict_lists_every_rejected_row_with_file_line_and_reason(mixed):
    with pytest.raises(ConfigError) as caught:
        read(mixed)
    for part in (
        "sharegpt: conversations[].from, conversations[].value",
        "3 rejected",
        f"{mixed}:2: the last turn is the user's",
        f"{mixed}:3: conversations[0]: role 'alien'",
        f"{mixed}:4: not JSON",
    ):
        assert part in str(caught.value)


def test_skip_leaves_rejected_rows_out_and_repair_mends_what_it_can(mixed, caplog):
    skipped = read(mixed, policy="skip")
    assert (len(skipped), faults(skipped.account.rejected)) == (1, ["2", "3", "4"])
    mended = read(mixed, policy="repair")
    assert (len(mended), faults(mended.account.rejected)) == (2, ["3", "4"])
    assert faults(mended.account.repaired) == ["2"]
    assert "3 rejected" in caplog.text


def test_every_row_is_accounted_for(mixed):
    for policy in ("skip", "repair"):
        found = read(mixed, policy=policy)
        assert found.account.rows == 4 == len(found) + len(found.account.rejected)


def test_a_record_knows_its_file_and_line(mixed):
    assert read(mixed, policy="skip")[0].origin == f"{mixed}:1"


def test_nothing_left_is_an_error_that_says_why(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ConfigError, match="no record is left"):
        read(empty)
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{\n")
    with pytest.raises(ConfigError, match=r"bad.jsonl:1: not JSON"):
        read(bad, policy="skip")


def test_rows_within_one_object_are_found(tmp_path):
    listed = tmp_path / "task.json"
    listed.write_text(json.dumps({"canary": "x", "examples": [{"input": "q", "target": "a"}]}))
    assert read(listed)[0].origin == f"{listed}:1:examples[0]"
    named_rows = tmp_path / "named.json"
    named_rows.write_text(json.dumps({"one": {"text": "a"}, "two": {"text": "b"}}))
    assert [record.text for record in read(named_rows)] == ["a", "b"]


def test_a_good_row_after_many_bad_ones_is_found_and_all_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("bad\n" * 100 + json.dumps(GOOD) + "\n")
    found = read(path, policy="skip")
    assert (len(found), found.account.rows, len(found.account.rejected)) == (1, 101, 100)


def test_bad_lines_beside_an_object_that_holds_rows_are_kept_in_the_account(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"data": [{"text": "a"}], "n": 1}\nbad\n')
    found = read(path, policy="skip")
    assert ([record.text for record in found], faults(found.account.rejected)) == (["a"], ["2"])


def test_several_files_are_read_in_order(tmp_path):
    paths = [tmp_path / f"{i}.txt" for i in range(3)]
    for path in paths:
        path.write_text(path.stem)
    found = read(paths)
    assert [record.text for record in found] == ["0", "1", "2"]
    assert len(found.account.formats) == 3


def test_policies_and_kinds_that_there_are_not_are_refused():
    with pytest.raises(UsageError, match="policy: 'lax' is none of strict, repair, skip"):
        read([GOOD], policy="lax")
    with pytest.raises(UsageError, match="kind: 'pairs' is none of language_modelling"):
        read([GOOD], kind="pairs")


def test_a_part_of_a_data_set_keeps_its_account():
    found = read([GOOD, GOOD])
    assert len(found[:1]) == 1
    assert found[:1].account == found.account


# What each folder of third-party data is read to: records by kind. A twin of every format stands in test_formats.py.
FOLDERS = {
    "bbq": {"verifiable": 11956},
    "data_juicer": {"language_modelling": 14},
    "gsm8k": {"verifiable": 7473 + 1319 + 1319, "unpaired": 1319 * 4},
    "hh_rlhf": {"preference": 2299},
    "humaneval": {"verifiable": 164},
    "llamafactory_demo": {
        "prompt_completion": 999 + 1000 + 91,
        "language_modelling": 300 + 1 + 300 + 6 + 50 + 500,
        "preference": 300 + 10,
        "unpaired": 300,
    },
    "llm_adapters": {"verifiable": 6686},
    "mbpp_reflexion": {"verifiable": 161 + 50 + 397 + 354},
    "minilm": {},
    "oasst": {"ranked": 424, "language_modelling": 250 + 1},
    "open_instruct_ufb": {"prompt_only": 8, "ranked": 1},
    "prontoqa": {"stepwise": 300},
    "reasoning_gym": {"verifiable": 1050},
    "reft": {"verifiable": 1319 + 3076 + 3043 + 1000},
    "self_instruct_seeds": {"prompt_completion": 175, "language_modelling": 1},
    "svamp": {"verifiable": 1000},
    "tinyshakespeare": {"language_modelling": 1},
    "tofu": {"prompt_completion": 8000},
    "xstest": {"prompt_only": 450, "prompt_completion": 1350},
}
REFUSED = {
    "dataset_info.json": "no format fits columns",
    "README.md": "no reader for it",
    "docs_f16.npy": "no reader for it",
    "queries_f16.npy": "no reader for it",
}
REJECTED = {"harmless-base_test.jsonl.gz": 13, "math_data.json": 3}


@pytest.mark.data
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_third_party_file_is_read_or_refused_with_a_reason(data, folder):
    counts = collections.Counter()
    for path in sorted((data / folder).iterdir()):
        if path.name in ("LICENSE", "NOTE.txt"):
            continue
        if path.name in REFUSED:
            with pytest.raises(PolmrsError, match=REFUSED[path.name]):
                read(path, policy="skip")
            continue
        found = read(path, policy="skip")
        assert len(found.account.rejected) == REJECTED.get(path.name, 0)
        counts[named(found.kind)] += len(found)
    assert counts == FOLDERS[folder]


@pytest.mark.data
def test_repair_keeps_transcripts_whose_speakers_go_on(data):
    found = read(data / "hh_rlhf" / "harmless-base_test.jsonl.gz", policy="repair")
    assert (len(found.account.repaired), len(found.account.rejected)) == (9, 4)
