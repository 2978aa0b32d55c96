"""Our vector store beside LlamaIndex's own, node by node: `.peers/llamaindex/bin/python -m pytest peers/llamaindex_store.py`."""

from pathlib import Path

import numpy as np
import pytest
from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, SimpleVectorStore
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from polmrs import rag
from polmrs.errors import UsageError
from polmrs.rag.llamaindex import PolmrsVectorStore

KINDS = [rag.Flat(), rag.Quantized()]


def nodes(n: int = 60) -> list[TextNode]:
    """Nodes of six documents, with metadata that some lack."""
    vectors = np.random.default_rng(5).standard_normal((n, 16))
    made = []
    for at, vector in enumerate(vectors):
        about = {"year": 2000 + at % 7, "lang": "de" if at % 3 else "en", "code": f"A{at:02}b"} | (
            {"draft": 1, "tags": ["wine", "red"][: at % 3]} if at % 5 == 0 else {}
        )
        source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc{at // 10}")}
        made.append(
            TextNode(
                id_=f"n{at}",
                text=f"text {at}",
                metadata=about,
                embedding=vector.tolist(),
                relationships=source,
            )
        )
    return made


def filled(kind: rag.Kind) -> tuple[PolmrsVectorStore, SimpleVectorStore]:
    """Both stores, with the same nodes."""
    ours, theirs = PolmrsVectorStore(kind=kind), SimpleVectorStore()
    assert ours.add(nodes()) == theirs.add(nodes())
    return ours, theirs


def one(key: str, value: object, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilter:
    """A condition."""
    return MetadataFilter(key=key, value=value, operator=operator)


CONDITIONS = [
    None,
    MetadataFilters(filters=[one("year", 2003)]),
    MetadataFilters(filters=[one("year", 2003, FilterOperator.GT), one("lang", "en")]),
    MetadataFilters(filters=[one("year", 2003, FilterOperator.LTE), one("lang", "en", FilterOperator.NE)]),
    MetadataFilters(filters=[one("draft", 1), one("lang", "en")], condition=FilterCondition.OR),
    MetadataFilters(filters=[one("draft", 1), one("year", 2001)], condition=FilterCondition.NOT),
    MetadataFilters(filters=[one("year", [2001, 2004], FilterOperator.IN)]),
    MetadataFilters(filters=[one("draft", [1], FilterOperator.NIN)]),
    MetadataFilters(filters=[one("draft", None, FilterOperator.IS_EMPTY)]),
    MetadataFilters(filters=[one("nothing", 1)]),
    MetadataFilters(filters=[one("tags", "wine", FilterOperator.CONTAINS)]),
    MetadataFilters(filters=[one("code", "A1", FilterOperator.CONTAINS), one("lang", "en")]),
    MetadataFilters(filters=[one("tags", ["red", "white"], FilterOperator.ANY)]),
    MetadataFilters(
        filters=[one("tags", ["red", "wine"], FilterOperator.ALL), one("year", 2003)], condition="or"
    ),
    MetadataFilters(filters=[one("code", "A2", FilterOperator.TEXT_MATCH)], condition="not"),
    MetadataFilters(filters=[one("code", "7B", FilterOperator.TEXT_MATCH_INSENSITIVE)]),
    MetadataFilters(filters=[one("tags", None, FilterOperator.IS_EMPTY)]),
    MetadataFilters(filters=[one("tags", "wine", FilterOperator.NE), one("year", 2005, FilterOperator.GTE)]),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("condition", range(len(CONDITIONS)))
@pytest.mark.parametrize("node_ids", [None, [f"n{at}" for at in range(0, 60, 2)]], ids=["all", "some"])
def test_a_query_finds_what_theirs_finds(kind: rag.Kind, condition: int, node_ids: list[str] | None) -> None:
    """Ids in order, similarities, and the nodes themselves."""
    ours, theirs = filled(kind)
    by_id = {node.node_id: node for node in nodes()}
    for vector in np.random.default_rng(6).standard_normal((5, 16)):
        query = VectorStoreQuery(
            query_embedding=vector.tolist(),
            similarity_top_k=8,
            filters=CONDITIONS[condition],
            node_ids=node_ids,
        )
        mine, wanted = ours.query(query), theirs.query(query)
        assert mine.ids == wanted.ids
        assert np.allclose(mine.similarities, wanted.similarities, atol=1e-6)
        for node in mine.nodes:
            assert (node.text, node.metadata) == (by_id[node.node_id].text, by_id[node.node_id].metadata)
            assert node.ref_doc_id == by_id[node.node_id].ref_doc_id


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_deleted_in_both_is_gone_in_both(kind: rag.Kind) -> None:
    """By document, by node, by filter."""
    stores: list[BasePydanticVectorStore] = [*filled(kind)]
    found = []
    for store in stores:
        store.delete("doc2")
        store.delete_nodes(node_ids=["n1", "n33"])
        store.delete_nodes(node_ids=["unknown"])
        store.delete_nodes(filters=MetadataFilters(filters=[one("lang", "en")]))
        query = VectorStoreQuery(query_embedding=[1.0] * 16, similarity_top_k=100)
        found.append(store.query(query).ids)
    assert found[0] == found[1]
    assert 0 < len(found[0]) < 58
    ours = stores[0]
    assert {node.node_id for node in ours.get_nodes()} == set(found[0])
    assert [node.text for node in ours.get_nodes(node_ids=["n2", "n20"])] == ["text 2"]
    ours.clear()
    assert ours.get_nodes() == []


def test_a_node_that_comes_again_is_replaced() -> None:
    """Adding is idempotent."""
    ours, _ = filled(rag.Flat())
    again = nodes()[3]
    again.text = "another text"
    ours.add([again, *nodes()[5:9]])
    assert len(ours.get_nodes()) == 60
    assert ours.get_nodes(node_ids=["n3"])[0].get_content() == "another text"


def test_marginal_relevance_at_one_is_similarity() -> None:
    """And below, others come."""
    ours, _ = filled(rag.Flat())
    asked = {"query_embedding": [1.0] * 16, "similarity_top_k": 5}
    plain = ours.query(VectorStoreQuery(**asked))
    mode = VectorStoreQueryMode.MMR
    assert ours.query(VectorStoreQuery(**asked, mode=mode, mmr_threshold=1)).ids == plain.ids
    assert ours.query(VectorStoreQuery(**asked, mode=mode, mmr_threshold=0.2)).ids != plain.ids


def test_an_index_of_llamaindex_retrieves_through_it_and_again_from_its_file(tmp_path: Path) -> None:
    """Documents in, a retriever out."""
    store = PolmrsVectorStore()
    documents = [Document(text=f"number {at}", metadata={"at": at}) for at in range(5)]
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex.from_documents(
        documents, storage_context=context, embed_model=MockEmbedding(embed_dim=4)
    )
    store.persist(str(tmp_path / "store"))
    opened = PolmrsVectorStore.from_persist_path(tmp_path / "store", mmap=True)
    index = VectorStoreIndex.from_vector_store(opened, embed_model=MockEmbedding(embed_dim=4))
    condition = MetadataFilters(filters=[one("at", 3)])
    [found] = index.as_retriever(similarity_top_k=3, filters=condition).retrieve("any")
    assert found.text == "number 3"


def test_what_the_index_has_not_is_refused() -> None:
    """With the modes that it has."""
    ours, _ = filled(rag.Flat())
    for settings, message in [
        ({"mode": VectorStoreQueryMode.HYBRID}, "is not one of default, mmr"),
        ({"query_embedding": None}, "query_embedding: none given"),
    ]:
        with pytest.raises(UsageError, match=message):
            ours.query(VectorStoreQuery(**{"query_embedding": [1.0] * 16, **settings}))
