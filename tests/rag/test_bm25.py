"""Search by words: against the formulas in a few lines of numpy, and against bm25s."""

import contextlib
import hashlib
import json
import re
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from elsewhere import digest_of
from hypothesis import given
from hypothesis import strategies as st
from polmrs import rag
from polmrs.data import porter_stem
from polmrs.errors import CheckpointError, NotFoundError, PolmrsError, UsageError

ORACLE = Path(__file__).parents[2] / "peers/bm25s_oracle.py"
VARIANTS = ["robertson", "lucene", "atire", "bm25l", "bm25+"]


def texts(n, seed=0, words=400, length=30):
    """Made-up texts: words as rare as in a language, lengths that differ."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, words + 1)
    made = []
    for size in rng.integers(1, 2 * length, n):
        made.append(" ".join(f"w{word}" for word in rng.choice(words, size, p=chance / chance.sum())))
    return made


def twin(documents, query, variant, k1=1.5, b=0.75, delta=0.5):
    """[documents] in float64: the papers' formulas, the floor for every word of the query that any document has."""
    bags = [re.findall(r"\w\w+", text.lower()) for text in documents]
    length = np.array([len(bag) for bag in bags])
    norm = 1 - b + b * length / length.mean()
    scores = np.zeros(len(bags))
    for word in re.findall(r"\w\w+", query.lower()):
        f = np.array([bag.count(word) for bag in bags], float)
        n, N = (f > 0).sum(), len(bags)
        if n == 0:
            continue
        if variant == "robertson":
            scores += np.log(max(1, (N - n + 0.5) / (n + 0.5))) * f / (f + k1 * norm)
        elif variant == "lucene":
            scores += np.log(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * norm)
        elif variant == "atire":
            scores += np.log(N / n) * (k1 + 1) * f / (f + k1 * norm)
        elif variant == "bm25l":
            c = f / norm
            scores += np.log((N + 1) / (n + 0.5)) * (k1 + 1) * (c + delta) / (k1 + c + delta)
        else:
            scores += np.log((N + 1) / n) * (delta + (k1 + 1) * f / (k1 * norm + f))
    return scores


def floor(documents, query, variant, **settings):
    """What a document gets that has none of the words."""
    return twin([*documents], query, variant, **settings).min() if variant in ("bm25l", "bm25+") else 0


def filled(documents, **settings):
    index = rag.BM25(**settings)
    index.add(range(len(documents)), documents)
    return index


@pytest.mark.method("rag.bm25")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_the_best_are_those_of_the_formula(variant, k):
    documents, queries = texts(300), texts(20, seed=1, length=8)
    index = filled(documents, variant=variant, k1=1.3, b=0.6, delta=0.7)
    for query, ids, scores in zip(queries, *vars(index.search(queries, k)).values(), strict=True):
        wanted = twin(documents, query, variant, k1=1.3, b=0.6, delta=0.7)
        assert np.allclose(scores, np.sort(wanted)[::-1][: len(scores)], rtol=1e-6)
        assert np.allclose(scores, wanted[ids], rtol=1e-6)
        words = set(query.split())
        shared = sum(bool(words & set(text.split())) for text in documents)
        assert len(ids) == min(k, shared) or variant == "robertson"
        assert len(set(ids.tolist())) == len(ids)
        assert all(words & set(documents[one].split()) for one in ids)


@pytest.mark.method("rag.bm25")
@pytest.mark.peer("bm25s")
@pytest.mark.parametrize("stopwords", [[], list(rag.ENGLISH)], ids=["all", "stopwords"])
def test_scores_are_those_of_bm25s(stopwords, peer, tmp_path):
    documents = [
        *texts(400),
        "The cat sat on the mat.",
        "Ärger über Straße_7, it's x y z2",
        "not a cat but an owl",
    ]
    queries = [*texts(30, seed=1, length=6), "the CAT on a mat, the cat!", "ärger straße_7", "unknown cat"]
    cases = {
        f"{variant} {number}": {"method": variant, "k1": k1, "b": b, "delta": delta}
        for variant in VARIANTS
        for number, (k1, b, delta) in enumerate([(1.5, 0.75, 0.5), (0.9, 0.3, 1.0)])
    }
    asked = {"documents": documents, "queries": queries, "cases": cases, "stopwords": stopwords}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    subprocess.run([peer("bm25s"), ORACLE, tmp_path], check=True)
    every = np.load(tmp_path / "scores.npz")
    for name, settings in cases.items():
        settings = {"variant": settings.pop("method"), "stopwords": stopwords, **settings}
        hits = filled(documents, **settings).search(queries, len(documents))
        for wanted, ids, scores in zip(every[name], hits.ids, hits.scores, strict=True):
            assert np.allclose(scores, wanted[ids], rtol=2e-6, atol=2e-6)
            left = np.delete(wanted, ids)
            assert len(left) == 0 or np.allclose(left, wanted.min(), rtol=2e-6, atol=2e-6)


@given(st.data())
def test_what_came_and_went_leaves_no_trace(data):
    documents = texts(60, words=40, length=6)
    index = rag.BM25()
    there = {}
    for step in range(data.draw(st.integers(1, 6))):
        ids = data.draw(st.lists(st.integers(0, 20), max_size=8))
        if data.draw(st.booleans()):
            chosen = data.draw(st.lists(st.integers(0, 59), min_size=len(ids), max_size=len(ids)))
            index.add(ids, [documents[one] for one in chosen])
            for name, one in zip(ids, chosen, strict=True):
                there.pop(name, None)
                there[name] = documents[one]
        else:
            assert index.delete(ids) == len(set(ids) & set(there))
            for name in ids:
                there.pop(name, None)
        if step % 2:
            index.search("w1", 3)  # whatever is kept for later is not kept too long
    fresh = rag.BM25()
    fresh.add(list(there), list(there.values()))
    assert len(index) == len(there)
    for query in ["w0", "w1 w3 w1", "w5 w2 w7 w30"]:
        mine, wanted = index.search(query, 9), fresh.search(query, 9)
        assert list(mine.ids) == list(wanted.ids)
        assert np.array_equal(mine.scores, wanted.scores)


def test_a_filter_is_part_of_the_search_and_changes_no_score():
    documents = texts(3000)
    index = rag.BM25()
    index.add(range(3000), documents, [{"even": one % 2 == 0, "at": one} for one in range(3000)])
    every = index.search("w3 w10 w200 w1", 3000)
    for filter, passes in [
        ({"even": True}, lambda one: one % 2 == 0),
        ({"at": {"$lt": 40}}, lambda one: one < 40),
    ]:
        hits = index.search("w3 w10 w200 w1", 10, filter=filter)
        wanted = [(one, score) for one, score in zip(every.ids, every.scores, strict=True) if passes(one)][
            :10
        ]
        assert [(one, score) for one, score in zip(hits.ids, hits.scores, strict=True)] == wanted
    assert index.delete(filter={"even": True}) == 1500
    assert set(index.search("w1", 3000).ids % 2) == {1}
    assert len(index.search("w3", 10, filter={"even": True}).ids) == 0
    assert index.metadata([5]) == [{"even": False, "at": 5}]


def test_half_of_the_documents_may_go():
    documents = texts(2500)
    index = filled(documents)
    index.search("w1", 1)
    assert index.delete(range(0, 2500, 2)) == 1250
    fresh = rag.BM25()
    fresh.add(range(1, 2500, 2), documents[1::2])
    for query in ["w1 w2", "w40 w300"]:
        mine, wanted = index.search(query, 20), fresh.search(query, 20)
        assert np.array_equal(mine.ids, wanted.ids)
        assert np.array_equal(mine.scores, wanted.scores)


def test_equal_documents_come_in_the_order_in_which_they_were_added():
    index = filled(["same words here"] * 50 + ["something else"])
    assert index.search("words", 5).ids.tolist() == [0, 1, 2, 3, 4]
    index.add([0], ["same words here"])
    assert index.search("words", 5).ids.tolist() == [1, 2, 3, 4, 5]


def test_nothing_shared_is_no_hit():
    index = filled(["red wine", "white wine", ""])
    assert len(index.search("beer", 5).ids) == 0
    assert len(index.search("", 5).ids) == 0
    assert index.search("wine", 5).ids.tolist() == [0, 1]
    assert len(rag.BM25().search("wine", 5).ids) == 0
    assert [len(ids) for ids in index.search(["red", "beer"], 5).ids] == [1, 0]
    least = index.search("red wine", 5).scores[1]
    assert index.search("red wine", 5, min_score=least * 1.01).ids.tolist() == [0]


def test_words_may_be_left_out_stemmed_or_split_by_the_caller():
    plain = filled(["The runner runs", "A run of luck"])
    assert plain.search("running", 2).ids.tolist() == []
    stemmed = filled(["The runner runs", "A run of luck"], stopwords=rag.ENGLISH, stemmer=porter_stem)
    assert stemmed.search("running", 2).ids.tolist() == [0, 1]
    assert stemmed.stats()["words"] == 4
    letters = filled(["abc", "xyz"], splitter=list)
    assert letters.search("b", 2).ids.tolist() == [0]


@pytest.mark.parametrize("names", [str, int])
@pytest.mark.parametrize("mmap", [False, True])
def test_what_is_saved_and_synced_opens_as_it_was(names, mmap, tmp_path):
    documents = texts(200)
    index = rag.BM25(variant="bm25+", k1=1.1, stopwords=["w3"])
    index.add([names(one) for one in range(100)], documents[:100], [{"at": one} for one in range(100)])
    index.delete([names(7)])
    index.save(tmp_path / "a")
    for first in (100, 150):
        index.delete([names(first - 1), names(3)])
        index.add([names(one) for one in range(first, first + 50)], documents[first : first + 50])
        index.add([names(5)], ["w1 w2"])
        assert index.sync() == (51, 2 if first == 100 else 1)
    assert index.sync() == (0, 0)
    opened = rag.BM25.open(tmp_path / "a", mmap=mmap, verify=True)
    assert len(opened) == len(index)
    assert opened.stats()["different"] == index.stats()["different"]
    for query in ["w1 w3 w20", "w100 w2"]:
        mine, wanted = opened.search(query, 200), index.search(query, 200)
        assert list(mine.ids) == list(wanted.ids)
        assert np.array_equal(mine.scores, wanted.scores)
    assert opened.metadata([names(8)]) == [{"at": 8}]
    opened.save(tmp_path / "b")
    assert len(rag.BM25.open(tmp_path / "b")) == len(index)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_mapped_index_leaves_postings_in_the_file_and_changes_as_any_other(tmp_path):
    documents = texts(1300)
    index = filled(documents[:1200])
    index.save(tmp_path / "a")
    mapped = rag.BM25.open(tmp_path / "a", mmap=True)
    assert mapped.stats() == {**index.stats(), "bytes": 0}
    for change in [
        lambda one: one.add([1200], ["w1 w2 w2 never"]),
        lambda one: one.delete(range(0, 1100, 3)),
        lambda one: one.add(range(1150, 1250), documents[1150:1250]),
        lambda one: one.delete(range(900)),  # and moves the rest together
    ]:
        change(index)
        change(mapped)
        for query in ["w1 w3 w20", "w2 never w300"]:
            mine, wanted = mapped.search(query, 50), index.search(query, 50)
            assert list(mine.ids) == list(wanted.ids)
            assert np.array_equal(mine.scores, wanted.scores)
    mapped.save(tmp_path / "a")
    again = rag.BM25.open(tmp_path / "a", mmap=True)
    assert again.stats() == {**index.stats(), "bytes": 0}
    again.add([9000], ["w1"])
    assert again.stats()["bytes"] < index.stats()["bytes"] / 8  # the documents of one word


def test_damage_is_an_error_and_a_torn_tail_is_dropped(tmp_path):
    index = filled(texts(40, length=5))
    index.save(tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    index.add([100], ["w1 w1 w9"])
    index.sync()
    synced = (tmp_path / "a").read_bytes()
    for cut in range(len(whole), len(synced), 61):
        (tmp_path / "b").write_bytes(synced[:cut])
        assert len(rag.BM25.open(tmp_path / "b")) == 40
    for at in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        (tmp_path / "b").write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            assert len(rag.BM25.open(tmp_path / "b")) == 40  # padding
    with pytest.raises(NotFoundError):
        rag.BM25.open(tmp_path / "c")
    rag.Index(3).save(tmp_path / "c")
    with pytest.raises(CheckpointError, match="an index of vectors, not of words"):
        rag.BM25.open(tmp_path / "c")
    with pytest.raises(CheckpointError, match="an index of words, not of vectors"):
        rag.Index.open(tmp_path / "a")
    damaged = bytearray(whole)
    damaged[-70] ^= 1  # a length, which a mapped file is believed
    (tmp_path / "b").write_bytes(damaged)
    assert len(rag.BM25.open(tmp_path / "b", mmap=True)) == 40
    with pytest.raises(CheckpointError, match="damaged at byte 64"):
        rag.BM25.open(tmp_path / "b", mmap=True, verify=True)


def test_an_index_that_python_split_words_for_wants_the_same_again(tmp_path):
    filled(["running dogs"], stemmer=porter_stem, stopwords=["the"]).save(tmp_path / "a")
    with pytest.raises(UsageError, match="stemmer: this index was made with one"):
        rag.BM25.open(tmp_path / "a")
    with pytest.raises(UsageError, match="splitter: this index was made without one"):
        rag.BM25.open(tmp_path / "a", stemmer=porter_stem, splitter=str.split)
    opened = rag.BM25.open(tmp_path / "a", stemmer=porter_stem)
    opened.add([1], ["the dog runs"])
    assert opened.search("the run", 5).ids.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"variant": "bm26"},
            "variant: 'bm26' is not one of 'robertson', 'lucene', 'atire', 'bm25l', 'bm25+'",
        ),
        ({"k1": 0}, "k1: 0 is not in (0, 1e6]"),
        ({"b": 1.5}, "b: 1.5 is not in [0, 1]"),
        ({"delta": -1}, "delta: -1 is not in [0, 1e6]"),
    ],
)
def test_what_is_no_formula_is_refused(settings, message):
    with pytest.raises(PolmrsError, match=re.escape(message)):
        rag.BM25(**settings)


def test_bad_calls_change_nothing():
    index = filled(["one text"])
    for call, message in [
        (lambda: index.add(["a"], ["b"]), "this index has integers for ids, got strings"),
        (lambda: index.add([1, 2], ["b"]), "texts: 1 for 2 ids"),
        (lambda: index.add([1], [None]), r"texts\[0\]: None is not a text"),
        (lambda: index.add([1], ["b"], [{"$x": 1}]), "names do not begin with"),
        (lambda: index.search("text", 0), "k: 0 is not at least 1"),
        (lambda: index.search("text", filter={"$nor": []}), "'\\$nor' is not one of"),
        (lambda: index.sync(), "this index has no file yet"),
        (lambda: index.delete(), "ids, filter: exactly one"),
        (lambda: index.metadata([3]), "ids: 3 is not in the index"),
    ]:
        with pytest.raises(UsageError, match=message):
            call()
    assert len(index) == 1
    assert index.search("text b", 5).ids.tolist() == [0]
    assert 0 in index
    assert 1 not in index


def digest():
    """Ids and scores of searches that no setting of the environment may change."""
    hits = filled(texts(3000)).search(texts(600, seed=1, length=8), 10)
    state = hashlib.sha256()
    for ids, scores in zip(hits.ids, hits.scores, strict=True):
        state.update(ids.tobytes() + scores.tobytes())
    return state.hexdigest()


def test_threads_change_no_bit():
    assert digest() == digest_of("rag.test_bm25", POLMRS_NUM_THREADS="1")
    assert digest() == digest_of("rag.test_bm25", POLMRS_NUM_THREADS="3")


def test_searches_run_beside_a_writer():
    index = filled(["fixed star"] * 20)
    stop, wrong = threading.Event(), []

    def look():
        while not stop.is_set():
            ids = index.search("fixed", 100).ids
            if set(range(20)) - set(ids.tolist()):
                wrong.append(ids)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for one in range(300):
        index.add([100 + one % 7], ["other planet"])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
