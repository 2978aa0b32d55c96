"""LangChain's own tests of a vector store, of ours: `.peers/langchain/bin/python -m pytest peers/langchain_store.py`."""

from pathlib import Path

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests
from polmrs import rag
from polmrs.errors import UsageError
from polmrs.rag.langchain import PolmrsVectorStore

TEXTS = ["red wine", "white wine", "green tea", "black tea"]
ABOUT = [{"year": 1999, "deep": {"a": [1]}}, {"year": 2020}, {"year": 2020, "hot": True}, {}]


class TestFlat(VectorStoreIntegrationTests):
    """The standard tests, sync and async."""

    @pytest.fixture
    def vectorstore(self) -> VectorStore:  # type: ignore[override]
        """An empty store."""
        return PolmrsVectorStore(self.get_embeddings(), kind=rag.Flat())


class TestQuantized(VectorStoreIntegrationTests):
    """The same over codes."""

    @pytest.fixture
    def vectorstore(self) -> VectorStore:  # type: ignore[override]
        """An empty store."""
        return PolmrsVectorStore(self.get_embeddings(), metric="l2", kind=rag.Quantized(bits=4))


def filled() -> PolmrsVectorStore:
    """Four documents."""
    return PolmrsVectorStore.from_texts(
        TEXTS, DeterministicFakeEmbedding(size=12), ABOUT, ids=list("abcd"), kind=rag.Flat()
    )


def test_a_filter_is_part_of_the_search() -> None:
    """As many documents as pass."""
    store = filled()
    found = store.similarity_search("black tea", 4, filter={"year": 2020})
    assert {one.id for one in found} == {"b", "c"}
    assert store.delete(filter={"hot": True})
    assert [one.id for one in store.similarity_search("green tea", 4, filter={"year": 2020})] == ["b"]


def test_scores_are_those_of_the_index_and_relevance_lies_between_0_and_1() -> None:
    """A text is itself at cosine 1."""
    (first, score), *rest = filled().similarity_search_with_score("green tea", 4)
    assert first.id == "c"
    assert score == pytest.approx(1, abs=1e-6)
    assert all(one < score for _, one in rest)
    relevant = filled().similarity_search_with_relevance_scores("green tea", 4)
    assert all(0 <= one <= 1 + 1e-6 for _, one in relevant)
    assert relevant[0][1] == pytest.approx(1, abs=1e-6)


def test_marginal_relevance_is_that_of_polmrs() -> None:
    """At balance 1 it is similarity alone."""
    store = filled()
    plain = [one.id for one in store.similarity_search("red wine", 3)]
    assert [one.id for one in store.max_marginal_relevance_search("red wine", 3, lambda_mult=1)] == plain
    assert store.max_marginal_relevance_search("red wine", 2, lambda_mult=0)[0].id == "a"


def test_what_is_saved_opens_with_nested_metadata(tmp_path: Path) -> None:
    """One file, no pickle."""
    store = filled()
    store.save(tmp_path / "store")
    opened = PolmrsVectorStore.open(tmp_path / "store", store.embeddings, mmap=True)
    assert opened.get_by_ids(["a"]) == store.get_by_ids(["a"])
    assert opened.get_by_ids(["a"])[0].metadata == ABOUT[0]
    assert opened.as_retriever(search_kwargs={"k": 1}).invoke("black tea")[0].id == "d"


def test_what_json_cannot_hold_is_refused() -> None:
    """And nothing is added."""
    store = filled()
    with pytest.raises(UsageError, match="must be what JSON can hold"):
        store.add_texts(["x"], [{"a": object()}])
    with pytest.raises(UsageError, match="nothing was ever added"):
        PolmrsVectorStore(store.embeddings).save("nowhere")
