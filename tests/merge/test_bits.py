"""The same bits for any number of threads and any instruction set."""

import json
import os
import subprocess
import sys

import pytest

# Merges that take every path: one block, a ragged end, several passes, a copy; four types; in a fresh process, because
# the instruction set is chosen once. Prints a digest per method and number of threads.
MERGES = """
import hashlib, json, sys
import numpy as np
import polmrs.merge as pm

random = np.random.default_rng(0)
def model(scale):
    shapes = {"one": (1,), "small": (333,), "block": (256, 256), "large": (5, 65_536), "ragged": (300_001,)}
    made = {name: base[name] + random.normal(0, scale, shape) if scale else random.normal(0, 1, shape) for name, shape in shapes.items()}
    return {name: np.round(tensor * 256).astype(np.float16 if name == "small" else np.float32) / 256 for name, tensor in made.items()}
base = model(0)
models = {name: model(0.02) for name in "abc"}
methods = [
    pm.Linear(weight=[1, -0.5, 0.3]), pm.TaskArithmetic(weight=0.3, normalize=True), pm.TIES(density=[0.2, 0.5, 0.9], rescale=True),
    pm.DARETIES(density=0.3), pm.DARE(density=[1e-9, 0.5, 1]), pm.SLERP(t=0.3), pm.Passthrough(scale=0.3),
]
digests = {}
for threads in map(int, sys.argv[1:]):
    for method in methods:
        chosen = {"a": models["a"]} if method.name in ("slerp", "passthrough") else models
        for out_dtype in ("float32", "float16"):
            result = pm.merge(
                chosen, base=base if method.base == "required" else None, method=method, threads=threads, out_dtype=out_dtype, seed=1
            )
            data = b"".join(tensor.tobytes() for tensor in result.values())
            digests.setdefault(f"{method.name} {out_dtype}", []).append(hashlib.sha256(data).hexdigest())
print(json.dumps(digests))
"""


def digests(simd, *threads):
    environment = os.environ | {"POLMRS_SIMD": simd}
    command = [sys.executable, "-c", MERGES, *map(str, threads)]
    return json.loads(
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    )


@pytest.fixture(scope="module")
def reference():
    return {name: found[0] for name, found in digests("scalar", 1).items()}


def test_threads_do_not_change_a_bit(reference):
    found = digests("", 1, 2, 5)
    assert found == {name: [digest] * 3 for name, digest in reference.items()}


@pytest.mark.parametrize("simd", ["scalar", "avx2", "avx512"])
def test_the_instruction_set_does_not_change_a_bit(reference, simd):
    found = digests(simd, 2)
    assert found == {name: [digest] for name, digest in reference.items()}
    assert len(set(reference.values())) == len(reference) == 14
