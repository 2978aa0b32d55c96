"""Search by words: an inverted index scored by a formula of the BM25 family."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Self, TypeAlias, cast

from polmrs import _core
from polmrs.errors import UsageError
from polmrs.rag.index import (
    Filter,
    Hits,
    Ids,
    Metadata,
    PathLike,
    Scalar,
    _delete,
    _hits,
    _ids,
    _json,
    _metadata,
)

Variant: TypeAlias = Literal["robertson", "lucene", "atire", "bm25l", "bm25+"]

# fmt: off
ENGLISH = (
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not",
    "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
)
# fmt: on
"""The words that Lucene leaves out of English texts."""


class BM25:
    """Texts under string or integer ids, searched by the words that they share with a query.

    Every formula is the idf of a word times ``scale * f / (f + half) + floor`` for a word that is ``f`` times in a document,
    with ``half = k1 * (1 - b + b * length / mean length)``; see `Okapi BM25 and its kin
    <https://doi.org/10.1007/978-3-030-45442-5_4>`_ (Kamphuis et al. 2020), whose names the variants have. Scores are computed
    in float64 and rounded once; those of the library bm25s are the same but for its rounding. Counts and lengths are those
    of the moment: adding and deleting cost what the document is long, and nothing is built before a search.

    A text is split into runs of two letters, digits or underscores or more, in lower case. ``stopwords`` are left out,
    ``stemmer`` maps one word to another, and ``splitter`` replaces the splitting, lower case and all.

    Any number of threads may search while one adds or deletes, while it splits texts, and while it saves. The GIL is released.

    >>> from polmrs.data import porter_stem
    >>> index = BM25(stopwords=ENGLISH, stemmer=porter_stem)
    >>> index.add(["cat", "dog", "fish"], ["The cat sleeps.", "A dog that sleeps", "Fish swim in the sea."])
    >>> hits = index.search("Who is sleeping?", k=2)
    >>> hits.ids, hits.scores.round(3)
    (['cat', 'dog'], array([0.201, 0.201], dtype=float32))
    """

    def __init__(
        self,
        *,
        variant: Variant = "lucene",
        k1: float = 1.5,
        b: float = 0.75,
        delta: float | None = None,
        stopwords: Iterable[str] = (),
        stemmer: Callable[[str], str] | None = None,
        splitter: Callable[[str], Iterable[str]] | None = None,
    ) -> None:
        """An empty index.

        Args:
            variant: ``lucene``; ``robertson`` and ``atire``, with other idf; ``bm25l``, for collections with very long
                documents (Lv and Zhai, SIGIR 2011); ``bm25+``, with a floor under what a word adds (Lv and Zhai, CIKM 2011). As
                in bm25s and rank_bm25, the floor of the last two is added whether or not a document has the word.
            k1: How slowly more of a word stops to count, above 0. 1.5 is what bm25s takes; Lucene takes 1.2.
            b: How much a document's length counts, from 0 to 1.
            delta: The floor; 0.5 for ``bm25l`` and 1 for ``bm25+``, as their papers have it, if nothing is said.
            stopwords: Words to leave out, in lower case: :data:`ENGLISH`, say.
            stemmer: ``polmrs.data.porter_stem``, or ``Stemmer.Stemmer("german").stemWord`` of PyStemmer.
            splitter: A text to its words.

        Raises:
            UsageError: A parameter is out of range.
        """
        floor = {"bm25l": 0.5, "bm25+": 1.0}.get(variant, 0.0)
        note = json.dumps({"stemmer": stemmer is not None, "splitter": splitter is not None})
        words = sorted({str(word) for word in stopwords})
        self._index = _core.search.Bm25(variant, k1, b, floor if delta is None else delta, words, note)
        self._prepare(words, stemmer, splitter)

    def _prepare(
        self,
        stopwords: Sequence[str],
        stemmer: Callable[[str], str] | None,
        splitter: Callable[[str], Iterable[str]] | None,
    ) -> None:
        self._stemmer, self._splitter = stemmer, splitter
        self._stopwords = frozenset(stopwords)
        self._stems: dict[str, str] = {}

    @classmethod
    def open(
        cls,
        path: PathLike,
        *,
        mmap: bool = False,
        verify: bool = False,
        stemmer: Callable[[str], str] | None = None,
        splitter: Callable[[str], Iterable[str]] | None = None,
    ) -> Self:
        """Opens a file that :meth:`save` wrote and :meth:`sync` may have added to.

        A process that died while it added leaves the file as it was before. The file is not a pickle and runs no code, so a
        ``stemmer`` and a ``splitter`` must be given again.

        Args:
            path: The file.
            mmap: Leave postings and lengths in the file, shared between processes; postings are read when they are looked at,
                words and ids are in memory. The postings of a word are copied into memory when a document with it is added.
            verify: Compare the checksum of all bytes, which takes as long as reading them; without ``mmap`` that is done
                in any case.
            stemmer: The one that the index was made with.
            splitter: Likewise.

        Raises:
            NotFoundError: There is no such file.
            CheckpointError: It is no index of words, of another version, or damaged.
            UsageError: It was made with a stemmer or a splitter and none is given, or the other way round.
        """
        native = _core.search.Bm25.open(os.fspath(path), mmap, verify)
        *_, stopwords, note = native.settings()
        for name, wanted in json.loads(note or "{}").items():
            if wanted != ({"stemmer": stemmer, "splitter": splitter}.get(name) is not None):
                raise UsageError(f"{name}: this index was made with{'' if wanted else 'out'} one")
        index = cls.__new__(cls)
        index._index = native
        index._prepare(stopwords, stemmer, splitter)
        return index

    def save(self, path: PathLike) -> None:
        """Writes everything to one file, which appears whole or not at all, in place of one that is there. Ctrl-C stops it.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     index = BM25()
        ...     index.add([1], ["red wine"])
        ...     index.save(f"{folder}/wines.words")
        ...     index.add([2], ["white wine"])
        ...     index.sync()
        ...     BM25.open(f"{folder}/wines.words").search("white", k=1).ids.tolist()
        (1, 0)
        [2]

        Raises:
            StorageError: It cannot be written.
        """
        self._index.save(os.fspath(path))

    def sync(self) -> tuple[int, int]:
        """Adds to the file what has changed since it was saved, opened or synced; how many documents and deletions.

        One record at the end, on the disk when this returns; a process that dies meanwhile leaves the file as it was.

        Raises:
            UsageError: The index has no file yet.
            OutputExistsError: Another process has written the file.
            StorageError: It cannot be written.
        """
        return self._index.sync()

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self._index)

    def add(self, ids: Ids, texts: Sequence[str], metadata: Sequence[Metadata] | None = None) -> None:
        """Adds documents; one whose id is there already is replaced, metadata and all. All are added, or none.

        The texts are not kept, only their words and how often each is there.

        Args:
            ids: As many as texts, all strings or all integers. Of two equal ones the later stands.
            texts: What is searched.
            metadata: A dictionary for each document: names (not beginning with ``$``) and strings, numbers, booleans
                or nothing.

        Raises:
            UsageError: Ids of another kind than the index has, or metadata that cannot be kept.
        """
        given = None if metadata is None else _json("metadata", list(metadata))
        self._index.add(_ids(ids), self._words("texts", texts), given)

    def delete(self, ids: Ids | None = None, *, filter: Filter | None = None) -> int:
        """Deletes the documents of these ids, or those that pass a filter, and says how many that were."""
        return _delete(self._index, ids, filter)

    def metadata(self, ids: Ids) -> list[dict[str, Scalar]]:
        """The metadata of each id.

        Raises:
            UsageError: An id is not there.
        """
        return _metadata(self._index, ids)

    def __contains__(self, one: str | int) -> bool:
        """Whether there is a document of this id."""
        return bool(
            json.loads(self._index.metadata(_ids([one] if isinstance(one, str) else [int(one)])))[0]
            is not None
        )

    def search(
        self,
        queries: str | Sequence[str],
        k: int = 10,
        *,
        filter: Filter | None = None,
        min_score: float | None = None,
    ) -> Hits:
        """The ``k`` best documents for each query, equal ones in the order in which they were added.

        A document that has no word of the query, or only words of no weight, is no hit, so there may be fewer than ``k``.

        Args:
            queries: One text, or a batch.
            k: At least 1.
            filter: Only what passes counts; statistics are those of all documents.
            min_score: Leaves out what scores less.

        Raises:
            UsageError: ``k`` is out of range, or ``filter`` is none.
        """
        if k < 1:
            raise UsageError(f"k: {k} is not at least 1")
        alone = isinstance(queries, str)
        texts = self._words("queries", [cast(str, queries)] if alone else queries)
        condition = None if filter is None else _json("filter", filter)
        return _hits(self._index.search(texts, k, condition, min_score), alone=alone)

    def stats(self) -> dict[str, int]:
        """How many documents and words there are, how many different words, and the bytes of postings in memory."""
        size, words, different = self._index.stats()
        return {"documents": len(self), "words": words, "different": different, "bytes": size}

    def _words(self, name: str, texts: Sequence[str]) -> list[str] | list[list[str]]:
        """Texts as they are, or as words if Python has a say in it."""
        given = [texts] if isinstance(texts, str) else list(texts)
        for at, text in enumerate(given):
            if not isinstance(text, str):
                raise UsageError(f"{name}[{at}]: {text!r} is not a text")
        if self._stemmer is None and self._splitter is None:
            return given
        split: Callable[[str], Iterable[str]] = self._splitter or _core.search.split
        return [[self._stem(word) for word in split(text) if word not in self._stopwords] for text in given]

    def _stem(self, word: str) -> str:
        if self._stemmer is None:
            return word
        stem: Any = self._stems.get(word)
        if stem is None:
            stem = self._stems[word] = self._stemmer(word)
        return str(stem)
