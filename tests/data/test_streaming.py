"""Examples straight from files: all of them, once an epoch, in an order that a seed gives, from any position."""

import itertools
import json
import shutil

import pytest
from data.tokenizers import tokenizer
from hypothesis import given
from hypothesis import strategies as st
from polmrs.data import read
from polmrs.data.mixture import Mixture
from polmrs.data.records import PromptCompletion
from polmrs.data.streaming import Streamed
from polmrs.errors import ConfigError, UsageError

TOKENS = tokenizer()
N = 23


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("stream") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {i} " + "x" * (i % 9)}) + "\n" for i in range(N)))
    return path


def texts(steps):
    return [[TOKENS.decode(one.ids.tolist()) for one in step] for step in steps]


def flat(steps):
    return [text for step in texts(steps) for text in step]


def test_without_a_buffer_a_stream_is_the_file(file):
    stream = Streamed(file, TOKENS, batch=4, buffer=1, epochs=1)
    assert flat(stream) == flat([read(file).examples(TOKENS)])


def test_a_tokenizer_is_loaded_once_from_its_folder(file, tmp_path):
    TOKENS.save_pretrained(tmp_path)
    stream = Streamed(file, tmp_path, batch=4, buffer=1, epochs=1)
    shutil.rmtree(tmp_path)
    assert flat(stream) == flat([read(file).examples(TOKENS)])


@given(st.integers(1, 30), st.integers(0, 3), st.integers(1, 7))
def test_every_epoch_has_every_record_once(file, buffer, seed, batch):
    steps = list(Streamed(file, TOKENS, batch=batch, buffer=buffer, seed=seed, epochs=2))
    everything = flat(steps)
    once = sorted(flat([read(file).examples(TOKENS)]))
    assert sorted(everything[:N]) == sorted(everything[N:]) == once
    assert all(len(step) == batch for step in steps[: N // batch])


def test_orders_depend_on_seed_and_epoch_alone(file):
    def order(seed):
        return flat(Streamed(file, TOKENS, batch=5, buffer=50, seed=seed, epochs=2))

    assert order(1) == order(1) != order(2)
    assert order(1)[:N] != order(1)[N:]


@given(st.integers(0, 14), st.sampled_from([None, 6]))
def test_a_resumed_stream_goes_on_where_it_was(file, steps, limit):
    settings = {"batch": 4, "buffer": 7, "max_length": limit, "too_long": "split" if limit else "refuse"}
    first, again = Streamed(file, TOKENS, **settings), Streamed(file, TOKENS, **settings)
    for _ in range(steps):
        next(first)
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert texts(next(again) for _ in range(8)) == texts(next(first) for _ in range(8))


def test_rejected_rows_stop_a_strict_stream_and_are_counted_by_others(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "q", "completion": "a"}\n{"prompt": "q", "completion": ""}\nnot json\n')
    with pytest.raises(ConfigError, match=r"a.jsonl:2: completion: an empty answer"):
        next(Streamed(path, TOKENS, batch=4))
    stream = Streamed(path, TOKENS, batch=4, policy="skip", epochs=1)
    assert len(list(stream)) == 1
    assert (stream.counts["row"], stream.counts["rejected"], len(stream.faults)) == (3, 2, 2)


def test_what_is_dropped_or_says_nothing_is_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": "q", "completion": "a" * n, "label": n > 1} for n in (1, 2, 99)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stream = Streamed(path, TOKENS, batch=4, kind=PromptCompletion, max_length=9, too_long="drop", epochs=1)
    assert flat(stream) == ["qaa<|eos|>"]
    assert stream.counts["left out"] == stream.counts["dropped"] == 1


def test_streams_mix_and_resume(file):
    def mixture():
        streams = {str(i): Streamed(file, TOKENS, batch=1, buffer=5, seed=i) for i in range(2)}
        return Mixture(streams, {"0": 1, "1": 3}, batch=3)

    first, again = mixture(), mixture()
    for _ in range(9):
        next(first)
    again.load_state_dict(first.state_dict())
    assert texts(next(again) for _ in range(9)) == texts(next(first) for _ in range(9))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_resumed_stream_of_texts_in_pieces_misses_none(file, batch):
    def stream():
        return Streamed(file, TOKENS, batch=batch, buffer=1, max_length=3, too_long="split", epochs=1)

    whole = flat(stream())
    for taken in range(0, 60, 7):
        first, again = stream(), stream()
        before = flat(itertools.islice(first, taken))
        again.load_state_dict(first.state_dict())
        assert before + flat(again) == whole


def test_a_stream_whose_records_are_all_dropped_ends(file):
    with pytest.raises(ConfigError, match="no record is left as an example"):
        next(Streamed(file, TOKENS, batch=4, max_length=2, too_long="drop"))


def test_what_cannot_be_streamed_is_refused(tmp_path, file):
    with pytest.raises(UsageError, match="buffer: 0"):
        Streamed(file, TOKENS, batch=1, buffer=0)
    with pytest.raises(UsageError, match="read only once"):
        Streamed(iter([]), TOKENS, batch=1)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no record is left"):
        next(Streamed(tmp_path / "empty.jsonl", TOKENS, batch=1))
    other = Streamed(file, TOKENS, batch=2)
    with pytest.raises(ConfigError, match="batch: 2, but the run that is resumed had 1"):
        other.load_state_dict(Streamed(file, TOKENS, batch=1).state_dict())
