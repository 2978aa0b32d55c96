"""Advantages of TRL, verl and torchrl, run on made batches by the oracles of `peers/`."""

import json
import subprocess
from pathlib import Path

import numpy as np
import polmrs.rl as rl
import pytest

PEERS = Path(__file__).parents[2] / "peers"
GAMMA, LAM = 0.97, 0.9


def ask(python, oracle, folder, **arrays):
    np.savez(folder / "in.npz", **arrays)
    (folder / "cases.json").write_text(json.dumps({"gamma": GAMMA, "lam": LAM, "reps": 1}))
    subprocess.run([python, PEERS / f"{oracle}_oracle.py", folder], check=True, capture_output=True)
    return dict(np.load(folder / "out.npz"))


def batch():
    """Rewards and values of 7 answers of 33 tokens, and which tokens are the policy's own; the last one always is."""
    rng = np.random.default_rng(5)
    rewards, values = rng.normal(size=(2, 7, 33)).astype(np.float32)
    mask = rng.random((7, 33)) < 0.7
    mask[:, -1] = True
    return rewards, values, mask


def ours(rewards, values, mask=None):
    cu_seqlens = np.arange(0, rewards.size + 1, rewards.shape[1])
    flat_mask = None if mask is None else mask.reshape(-1)
    found = rl.gae(rewards.reshape(-1), values.reshape(-1), cu_seqlens, gamma=GAMMA, lam=LAM, mask=flat_mask)
    return [array.reshape(rewards.shape) for array in found]


@pytest.mark.peer("verl-0.9")
def test_verl_carries_over_holes_as_we_do_and_normalises_groups_alike(peer, tmp_path):
    rewards, values, mask = batch()
    scores = np.random.default_rng(6).normal(size=(9, 4)).astype(np.float32)
    theirs = ask(peer("verl-0.9"), "verl", tmp_path, rewards=rewards, values=values, mask=mask, scores=scores)
    _, returns = ours(rewards, values, mask)
    assert np.allclose(returns[mask], theirs["returns"][mask], rtol=1e-5, atol=1e-5)
    grouped = rl.group_advantages(scores.reshape(-1), np.repeat(np.arange(9), 4))
    assert np.allclose(grouped, theirs["group"], rtol=1e-5, atol=1e-5)
    assert np.allclose(grouped, theirs["group_vectorised"], rtol=1e-5, atol=1e-5)


@pytest.mark.peer("trl-1.12")
def test_trl_computes_the_same_without_holes_and_normalises_groups_alike(peer, tmp_path):
    rewards, values, _ = batch()
    scores = np.random.default_rng(6).normal(size=(9, 4)).astype(np.float32)
    theirs = ask(peer("trl-1.12"), "trl", tmp_path, rewards=rewards, values=values, scores=scores)
    assert np.allclose(ours(rewards, values)[0], theirs["advantages"], rtol=1e-5, atol=1e-5)
    grouped = rl.group_advantages(scores.reshape(-1), np.repeat(np.arange(9), 4))
    assert np.allclose(grouped, theirs["group"], rtol=1e-5, atol=1e-5)


@pytest.mark.peer("torchrl")
def test_torchrl_computes_the_same_without_holes(peer, tmp_path):
    rewards, values, _ = batch()
    theirs = ask(peer("torchrl"), "torchrl", tmp_path, rewards=rewards, values=values)
    assert np.allclose(ours(rewards, values)[0], theirs["advantages"], rtol=1e-5, atol=1e-5)
