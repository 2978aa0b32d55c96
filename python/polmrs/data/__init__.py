"""Records of every kind from any format; token stores, batches, packing, balancing, ROUGE-L, near-duplicates and contamination, at memory speed.

Token rows lie flat, with offsets; a batch is ragged: ids, ``cu_seqlens`` and an explicit mask of targets. numpy arrays
come back; ``Collated.torch()`` gives the same memory as torch tensors. Nothing depends on the number of threads.

>>> from polmrs import data
>>> tokens = data.TokenStore.of([[1, 2], [10, 11, 12], [20]])
>>> batch = data.collate_pairs(tokens, prompts=[0], chosen=[1], rejected=[2])
>>> batch.ids
array([ 1,  2, 10, 11, 12,  1,  2, 20], dtype=int32)
>>> batch.cu_seqlens
array([0, 5, 8], dtype=int32)
"""

from polmrs.data.balancing import balance
from polmrs.data.bucketing import token_batches
from polmrs.data.collated import Collated, Padded
from polmrs.data.collation import collate_completions, collate_lists, collate_pairs, collate_rows
from polmrs.data.contamination import Contamination, Match, contamination, word_spans
from polmrs.data.conversion import convert, judged
from polmrs.data.dataset import Account, Dataset
from polmrs.data.grouping import Grouping
from polmrs.data.near_duplicates import Clusters, near_duplicates, near_pairs
from polmrs.data.novelty import Novel, novel
from polmrs.data.packing import pack
from polmrs.data.reading import preferences, read
from polmrs.data.rouge import Rouge, porter_stem, rouge_l, rouge_l_pool
from polmrs.data.store import TokenStore, TokenWriter
from polmrs.data.tokenization import tokenize
from polmrs.data.writing import write

__all__ = [
    "Account",
    "Clusters",
    "Collated",
    "Contamination",
    "Dataset",
    "Grouping",
    "Match",
    "Novel",
    "Padded",
    "Rouge",
    "TokenStore",
    "TokenWriter",
    "balance",
    "collate_completions",
    "collate_lists",
    "collate_pairs",
    "collate_rows",
    "contamination",
    "convert",
    "judged",
    "near_duplicates",
    "near_pairs",
    "novel",
    "pack",
    "porter_stem",
    "preferences",
    "read",
    "rouge_l",
    "rouge_l_pool",
    "token_batches",
    "tokenize",
    "word_spans",
    "write",
]
