"""Retrieval: indexes of vectors and of words that are searched on the CPU, exactly or nearly so, and fast; and what stands
around them, from a text to an answer that cites it.

>>> import numpy as np
>>> from polmrs import rag
>>> index = rag.Index(dim=2, metric="cosine", kind=rag.Flat())
>>> index.add(["north", "east"], np.array([[0, 1], [1, 0]], np.float32))
>>> index.search(np.array([0.1, 0.9], np.float32), k=1).ids
['north']
"""

from polmrs.rag import export
from polmrs.rag.bm25 import BM25, ENGLISH
from polmrs.rag.chunking import Chunk, chunks, sentence_starts
from polmrs.rag.embedding import Embedder
from polmrs.rag.fusion import RRF, Fusion, WeightedSum, fuse, mmr
from polmrs.rag.hybrid import Hybrid
from polmrs.rag.index import Hits, Index
from polmrs.rag.kinds import HNSW, IVF, Flat, Kind, Quantized
from polmrs.rag.reading import Answer, Reader, Shown, read

__all__ = [
    "BM25",
    "ENGLISH",
    "HNSW",
    "IVF",
    "RRF",
    "Answer",
    "Chunk",
    "Embedder",
    "Flat",
    "Fusion",
    "Hits",
    "Hybrid",
    "Index",
    "Kind",
    "Quantized",
    "Reader",
    "Shown",
    "WeightedSum",
    "chunks",
    "export",
    "fuse",
    "mmr",
    "read",
    "sentence_starts",
]
