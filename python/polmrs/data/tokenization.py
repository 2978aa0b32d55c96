"""Texts as a token store, by the ``tokenizer.json`` of a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from polmrs import _core
from polmrs.data.store import PathLike, TokenStore, TokenWriter
from polmrs.errors import ArrayError, UsageError

_BATCH = 1 << 24  # characters that are tokenized before their rows are written


def tokenize(
    documents: Iterable[str],
    out: PathLike,
    *,
    tokenizer: PathLike,
    special_tokens: bool = False,
    eos: str | None = None,
    max_length: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> TokenStore:
    """Writes a token store with one row a document, in order, and opens it.

    Documents may come from a generator: about 16 million characters are in memory at a time. The ids are those of
    ``tokenizers.Tokenizer.encode``. Nothing is cut or padded, whatever the tokenizer's file says. The file appears
    whole or not at all.

    Args:
        documents: Texts; an empty one is a row without tokens of its own.
        out: The store to write.
        tokenizer: A ``tokenizer.json``, or the folder that holds it.
        special_tokens: Whether the tokenizer's template adds its special tokens, ``[CLS]`` and ``[SEP]`` say.
        eos: A token of the vocabulary that ends every row, after those.
        max_length: The most tokens of a row; a longer one is an error. Rows of any length by default.
        overwrite: Whether the file may be there already.
        progress: Called with the number of documents done.

    Raises:
        NotFoundError: There is no such tokenizer.
        ConfigError: It is none, draws at random (BPE dropout) or lacks ``eos``; a document is longer than
            ``max_length``. The message names the document.
        ArrayError: A document is no string.
        OutputExistsError: The file is there, and ``overwrite`` is not set.

    >>> import json, pathlib, tempfile
    >>> words = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "</s>": 2}, "unk_token": "a"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "tokenizer.json")
    ...     _ = file.write_text(json.dumps({"model": words, "pre_tokenizer": {"type": "Whitespace"}}))
    ...     store = tokenize(["b a b", ""], f"{folder}/a.tokens", tokenizer=folder, eos="</s>")
    ...     store[0].tolist(), store[1].tolist()
    ([1, 0, 1, 2], [2])
    """
    if isinstance(documents, str):
        raise UsageError("documents: one string; pass texts")
    with TokenWriter(out, overwrite=overwrite) as writer:
        encoder = _core.data.Tokenizer(os.fspath(tokenizer), special_tokens, eos, max_length)
        done = 0
        for batch in _batches(documents):
            ids, offsets = encoder.rows(batch, done)
            writer.push(TokenStore(ids=ids, offsets=offsets))
            done += len(batch)
            if progress is not None:
                progress(done)
    return TokenStore.open(out)


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for i, text in enumerate(documents):
        if not isinstance(text, str):
            raise ArrayError(f"documents[{i}]: expected a string, got {type(text).__name__}")
        batch.append(text)
        size += len(text) + 64  # so that empty ones fill a batch too
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
