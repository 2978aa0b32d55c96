"""Advantages, returns, KL and whitening over ragged batches, at memory speed.

Flat arrays and ``cu_seqlens``; numpy arrays or torch CPU tensors in, the same kind out, nothing copied. float32 or
float64 in, the same out; all arithmetic is float64, rounded once. The same bits on any number of threads.
Advantages are meant to be averaged over samples (or tokens), whatever the estimator.

>>> import numpy as np
>>> from polmrs import rl
>>> rl.group_advantages(np.array([1.0, 0.0, 0.0, 1.0]), ["a", "a", "b", "b"], scale="none")
array([ 0.5, -0.5, -0.5,  0.5])
"""

from polmrs.rl.entropy import adaptive_entropy
from polmrs.rl.estimators import maj_at_k, pass_at_k
from polmrs.rl.generalized_advantage import gae
from polmrs.rl.group_relative import GroupStats, group_advantages, group_stats
from polmrs.rl.kl import kl_estimate, kl_shaped_rewards
from polmrs.rl.maximum_likelihood import maxrl
from polmrs.rl.optimal_baseline import opo
from polmrs.rl.passk import passk_advantages, passk_training_advantages
from polmrs.rl.process_supervision import process_advantages
from polmrs.rl.pruning import trajectory_pruning
from polmrs.rl.reinforce_plus_plus import reinforce_pp, reinforce_pp_baseline
from polmrs.rl.returns import discounted_returns
from polmrs.rl.rloo import leave_one_out
from polmrs.rl.v_trace import vtrace
from polmrs.rl.whitening import Moments, moments, whiten

__all__ = [
    "GroupStats",
    "Moments",
    "adaptive_entropy",
    "discounted_returns",
    "gae",
    "group_advantages",
    "group_stats",
    "kl_estimate",
    "kl_shaped_rewards",
    "leave_one_out",
    "maj_at_k",
    "maxrl",
    "moments",
    "opo",
    "pass_at_k",
    "passk_advantages",
    "passk_training_advantages",
    "process_advantages",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "trajectory_pruning",
    "vtrace",
    "whiten",
]
