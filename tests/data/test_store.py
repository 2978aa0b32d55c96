"""Token stores: what goes in comes out, and nothing damaged is read."""

import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from polmrs.data import TokenStore, TokenWriter, collate_rows
from polmrs.errors import ArrayError, NotFoundError, OutputExistsError, UsageError

ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=6), max_size=8)


def rows_of(store):
    return [store[i].tolist() for i in range(len(store))]


@given(ROWS, st.sampled_from(["list", "int32", "int64", "torch"]))
def test_rows_of_every_kind_come_back(rows, kind):
    kinds = {"list": list, "torch": lambda row: torch.tensor(row, dtype=torch.int64)}
    given_rows = [kinds.get(kind, lambda row: np.array(row, kind))(row) for row in rows]
    store = TokenStore.of(given_rows)
    assert rows_of(store) == rows
    assert store.lengths.tolist() == [len(row) for row in rows]
    wide = TokenStore.flat(store.ids.astype(np.int64), store.offsets.astype(np.int32))
    assert rows_of(wide) == rows
    assert TokenStore.flat(store.ids, store.offsets).ids.ctypes.data == store.ids.ctypes.data


@given(ROWS, st.booleans(), st.integers(0, 8))
def test_a_file_gives_back_what_was_written_in_parts(tmp_path_factory, rows, masked, cut):
    path = tmp_path_factory.mktemp("store") / "a.tokens"
    masks = [[i % 2 for i in range(len(row))] for row in rows] if masked else None
    with TokenWriter(path, mask=masked) as writer:
        writer.append(rows[:cut], masks and masks[:cut])
    with TokenWriter(path, append=True) as writer:
        writer.append(rows[cut:], masks and masks[cut:])
    store = TokenStore.open(path, verify=True)
    assert rows_of(store) == rows
    assert (store.mask is None) != masked or not rows
    if masked and rows:
        assert store.mask.tolist() == [bit for mask in masks for bit in mask]
    assert [file.name for file in path.parent.iterdir()] == ["a.tokens"]


def test_a_file_is_bytes_that_do_not_change(tmp_path):
    TokenStore.of([[1, 2], [], [3]], [[0, 1], [], [1]]).save(tmp_path / "a.tokens")
    data = (tmp_path / "a.tokens").read_bytes()
    assert data[:8] == b"polmrsTK"
    assert np.frombuffer(data[8:16], np.uint32).tolist() == [1, 1]
    assert np.frombuffer(data[16:32], np.uint64).tolist() == [3, 3]
    assert np.frombuffer(data[128:140], np.int32).tolist() == [1, 2, 3]
    assert np.frombuffer(data[144:176], np.int64).tolist() == [0, 2, 2, 3]
    assert data[176:] == bytes([0, 1, 1])


def _interrupted(path):
    with TokenWriter(path) as writer:
        writer.append([[1]])
        raise RuntimeError(writer)


def test_an_exception_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        _interrupted(tmp_path / "a.tokens")
    (writer,) = caught.value.args
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="this writer is closed"):
        writer.append([[1]])


def test_a_file_that_is_there_stays_unless_asked(tmp_path):
    path = tmp_path / "a.tokens"
    TokenStore.of([[1]]).save(path)
    with pytest.raises(OutputExistsError, match=r"a\.tokens: exists; overwrite=True"):
        TokenStore.of([[2]]).save(path)
    TokenStore.of([[2]]).save(path, overwrite=True)
    assert rows_of(TokenStore.open(path)) == [[2]]
    with pytest.raises(UsageError, match="one or the other"):
        TokenWriter(path, overwrite=True, append=True)


def test_an_open_store_outlives_its_replacement(tmp_path):
    path = tmp_path / "a.tokens"
    TokenStore.of([[1, 2, 3]]).save(path)
    old = TokenStore.open(path)
    TokenStore.of([[9]]).save(path, overwrite=True)
    assert rows_of(old) == [[1, 2, 3]]
    with pytest.raises(ValueError, match="read-only"):
        old.ids[0] = 5


def test_what_is_no_store_is_refused(tmp_path):
    path = tmp_path / "a.tokens"
    with pytest.raises(NotFoundError):
        TokenStore.open(path)
    TokenStore.of([[1, 2, 3]]).save(path)
    whole = path.read_bytes()
    changed = {
        "not a token store": b"PK" + whole[2:],
        "version 9": whole[:8] + b"\x09" + whole[9:],
        "header is damaged": whole[:16] + b"\x09" + whole[17:],
        "the file is cut": whole[:-8],
        "is not 3, the length of the ids": whole[:-8] + b"\x02" + whole[-7:],
    }
    for message, data in changed.items():
        path.write_bytes(data)
        with pytest.raises(ArrayError, match=message):
            TokenStore.open(path)
    path.write_bytes(whole[:128] + b"\x09" + whole[129:])
    assert TokenStore.open(path)[0].tolist() == [9, 2, 3]
    with pytest.raises(ArrayError, match="not those that were written"):
        TokenStore.open(path, verify=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenStore.of([[1], [2, -3]]), r"rows\[1\]: element 1: -3 is not a token id"),
        (lambda: TokenStore.of([np.array([2**31])]), r"rows\[0\]: element 0: 2147483648 is not a token id"),
        (lambda: TokenStore.of([np.ones(2)]), r"rows\[0\]: expected .* got float64"),
        (lambda: TokenStore.of([np.arange(4)[::2]]), r"rows\[0\]: the array is not C-contiguous"),
        (lambda: TokenStore.of([["a"]]), r"rows\[0\]: expected a list of integers"),
        (lambda: TokenStore.of([[1]], [[2]]), "masks: 2 is neither 0 nor 1"),
        (lambda: TokenStore.of([[1]], [[1, 1]]), "masks: its rows are not as long"),
        (lambda: TokenStore.flat(np.ones(2), np.array([0, 2])), "ids: expected .* got float64"),
        (lambda: TokenStore.flat(np.arange(2), np.array([0, 3])), "offsets: start with 0"),
        (lambda: TokenStore.flat(np.arange(2), np.array([0, 2, 1, 2])), "never decrease"),
        (lambda: TokenStore.flat(np.arange(2), np.array([0, 2]), np.ones(3, bool)), "mask: 3 elements"),
        (lambda: TokenStore.flat(np.arange(2), np.array([0, 2]), np.ones(2)), "mask: expected .* float64"),
    ],
)
def test_rows_that_are_none_are_named(make, message):
    with pytest.raises(ArrayError, match=message):
        make()


def test_a_row_that_is_not_there_is_an_index_error():
    store = TokenStore.of([[1], [2, 3]])
    assert store[-1].tolist() == [2, 3]
    with pytest.raises(IndexError, match="row 2 of 2"):
        store[2]


def _read(path, connection):
    connection.send(collate_rows(TokenStore.open(path), np.arange(3000)).ids.tolist())


def test_a_forked_child_reads_a_store_after_its_parent_did(tmp_path):
    rows = [list(range(i % 1500)) for i in range(3000)]
    TokenStore.of(rows).save(tmp_path / "a.tokens")
    expected = collate_rows(TokenStore.open(tmp_path / "a.tokens"), np.arange(3000)).ids.tolist()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_read, args=(tmp_path / "a.tokens", theirs))
    child.start()
    assert ours.poll(60), "the child waits for threads that it does not have"
    assert ours.recv() == expected
    child.join(10)
    assert child.exitcode == 0


def test_a_store_in_memory_goes_to_another_process():
    store = pickle.loads(pickle.dumps(TokenStore.of([[1, 2]])))
    assert rows_of(store) == [[1, 2]]
