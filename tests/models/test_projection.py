"""Chunked log-probabilities: the twin holds all logits, float64 gradients are checked, the peak is bounded."""

import pytest
import torch
from polmrs.errors import ArrayError
from polmrs.models.projection import token_stats


def twin(hidden, weight, targets, bias=None, scale=1.0, softcap=None):
    z = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    z = z * scale
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    logp = z.log_softmax(-1)
    return logp[torch.arange(len(targets)), targets], logp.mean(-1), -(logp.exp() * logp).sum(-1)


def made(n=7, dim=5, words=11, dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, dim, generator=random, dtype=dtype)
    weight = torch.randn(words, dim, generator=random, dtype=dtype)
    bias = torch.randn(words, generator=random, dtype=dtype)
    return hidden, weight, bias, torch.randint(words, (n,), generator=random)


FORMS = [{}, {"scale": 0.5}, {"softcap": 3.0}, {"scale": 2.0, "softcap": 3.0}]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunks_give_what_all_logits_give_forward_and_backward(form, chunk, with_bias):
    hidden, weight, bias, targets = made()
    leaves = [hidden, weight, bias] if with_bias else [hidden, weight]
    pulls = torch.randn(3, len(hidden), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def gradients(compute):
        fresh = [leaf.clone().requires_grad_() for leaf in leaves]
        out = compute(*fresh)
        return out, torch.autograd.grad((torch.stack(list(out)) * pulls).sum(), fresh)

    ours, down = gradients(
        lambda h, w, b=None: token_stats(
            h, w, targets, bias=b, with_mean=True, with_entropy=True, chunk=chunk, **form
        )
    )
    theirs, reference = gradients(lambda h, w, b=None: twin(h, w, targets, b, **form))
    for a, b in zip([*ours, *down], [*theirs, *reference], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_gradient_is_the_slope(form):
    hidden, weight, bias, targets = made(n=3, dim=2, words=4)

    def compute(h, w, b):
        return token_stats(h, w, targets, bias=b, with_mean=True, with_entropy=True, chunk=2, **form)

    torch.autograd.gradcheck(compute, [x.requires_grad_() for x in (hidden, weight, bias)])


def test_half_precision_logits_become_float32():
    hidden, weight, _, targets = made(dtype=torch.bfloat16)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    logp = token_stats(hidden, weight, targets).logp
    assert logp.dtype == torch.float32
    logp.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(
        logp.double(), twin(hidden.double(), weight.double(), targets)[0], rtol=0.05, atol=0.05
    )


def test_large_logits_do_not_overflow():
    hidden, weight, _, targets = made(dtype=torch.float32)
    logp = token_stats(hidden * 1e4, weight, targets).logp
    assert torch.isfinite(logp).all()


def test_no_tokens_are_no_log_probabilities():
    hidden, weight, _, targets = made()
    assert token_stats(hidden[:0], weight, targets[:0]).logp.shape == (0,)


def test_shapes_that_do_not_fit_are_named():
    hidden, weight, _, targets = made()
    with pytest.raises(ArrayError, match=r"hidden: \[7, 5\] times a weight of \[11, 4\]"):
        token_stats(hidden, weight[:, :4], targets)
    with pytest.raises(ArrayError, match=r"targets: \[6\], but hidden has 7 rows"):
        token_stats(hidden, weight, targets[:6])
