r"""Instruction-Following Difficulty (arXiv:2308.12032; eq. 10): how little an instruction helps with its answer.

$$ \mathrm{IFD}(Q, A) = \frac{\sum_i \log P(w_i \mid Q, w_1 \ldots w_{i-1})}{\sum_i \log P(w_i \mid w_1 \ldots w_{i-1})} $$

over the tokens of the answer A. Between 0 and 1 the instruction helps; above 1 it misleads. The authors leave out rows above 1
and keep the highest share: ``screen(data, ifd(data, policy), at_most=1, top=0.1)``.

We differ from their code in that both sums are over the same token ids; the answer alone stands after the beginning-of-text
token, or the end-of-text one where there is none.
"""

from __future__ import annotations

import numpy as np
import torch

from polmrs.data.dataset import Dataset
from polmrs.data.ragged import Batch
from polmrs.data.screening.screen import Scores, completed
from polmrs.data.sequence import encode
from polmrs.errors import PolmrsError, UsageError
from polmrs.models import Policy


@torch.no_grad()
def ifd(data: Dataset, policy: Policy, *, micro: int = 8) -> Scores:
    """[records] IFD of each record's answer.

    Args:
        data: Records with a question and an answer; of a conversation, the last answer.
        policy: The model that is to be tuned, with its tokenizer.
        micro: Records of one forward pass.

    Raises:
        UsageError: A record has no answer, is longer than the model's context, or the policy has no tokenizer.
    """
    tokens = policy.tokenizer
    if tokens is None:
        raise UsageError("policy: it has no tokenizer")
    before = tokens.bos_token_id if tokens.bos_token_id is not None else tokens.eos_token_id
    if before is None:
        raise UsageError("tokenizer: neither a beginning-of-text nor an end-of-text token")
    pairs = []
    for record in data.records:
        one = completed(record)
        try:
            made = encode(one.prompt, one.completion, tokens, tools=one.tools)
        except PolmrsError as error:
            raise UsageError(f"{record.origin}: {error}") from error
        ids, weights = made.ids[made.prompt :], made.weights[made.prompt :]
        sequences, counts = [made.ids, [before, *ids]], [made.weights, [0.0, *weights]]
        pairs.append(Batch.of(sequences, counts, name=record.origin))
    policy_was = policy.training
    policy.eval()
    try:
        ratios = [_ratios(pairs[at : at + micro], policy) for at in range(0, len(pairs), micro)]
    finally:
        policy.train(policy_was)
    return np.concatenate(ratios)


def _ratios(pairs: list[Batch], policy: Policy) -> Scores:
    batch = Batch.cat(pairs).to(policy.device)
    logps = policy.logps(batch).double() * batch.weights
    given, alone = batch.sums(logps).view(-1, 2).unbind(1)
    ratios: Scores = (given / alone).cpu().numpy()
    return ratios
