"""The codecs against the libraries whose files they will write."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from polmrs import quantize

PEERS = Path(__file__).resolve().parents[2] / "peers"


@pytest.fixture
def ask(peer, tmp_path):
    """``ask(peer, oracle, weights)`` gives the peer's answers, by name."""

    def answer(name, oracle, weights):
        np.savez(tmp_path / "in.npz", **weights)
        command = [peer(name), PEERS / oracle, tmp_path / "in.npz", tmp_path / "out.npz"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return dict(np.load(tmp_path / "out.npz"))

    return answer


def weights():
    """Normal weights, heavy tails, one group of zeros, and values on the middle of cells."""
    rng = np.random.default_rng(5)
    normal = rng.standard_normal((48, 192)).astype(np.float32)
    heavy = (rng.standard_t(3, (32, 128)) * 0.02).astype(np.float32)
    zeros = normal[:16].copy()
    zeros[3, 64:128] = 0
    middles = (rng.integers(-15, 16, (16, 128)) / 4).astype(np.float32)
    return {"normal": normal, "heavy": heavy, "zeros": zeros, "middles": middles}


@pytest.mark.peer("compressed-tensors")
def test_codes_and_scales_are_those_of_compressed_tensors(ask):
    codecs = {
        **{f"int{bits}": quantize.Integer(bits=bits, group=64) for bits in (2, 3, 4, 8)},
        "int4a": quantize.Integer(bits=4, group=64, span="affine"),
        "nvfp4": quantize.NVFP4(),
        "mxfp4": quantize.MXFP4(),
    }
    cases = {f"{kind}/{name}": weight for kind in codecs for name, weight in weights().items()}
    theirs = ask("compressed-tensors", "compressed_tensors_oracle.py", cases)
    for name, weight in cases.items():
        kind = name.partition("/")[0]
        ours = quantize.encode(weight, codecs[kind])
        packed = theirs[f"{name}/packed"].view(np.uint8)
        if kind in ("nvfp4", "mxfp4"):
            # They give -0 where a small negative number rounds to 0, or 0 itself: the sign of zero is free.
            ours_codes, their_codes = (np.stack([x & 15, x >> 4]) for x in (ours.packed, packed))
            apart = ours_codes != their_codes
            assert not np.any((ours_codes | their_codes)[apart] & 7), name
        else:
            np.testing.assert_array_equal(ours.packed, packed, err_msg=name)
        np.testing.assert_array_equal(quantize.decode(ours), theirs[f"{name}/back"], err_msg=name)


@pytest.mark.peer("bitsandbytes")
def test_nf4_is_that_of_bitsandbytes(ask):
    cases = weights() | {"ragged": np.random.default_rng(1).standard_normal((3, 67)).astype(np.float32)}
    theirs = ask("bitsandbytes", "bitsandbytes_oracle.py", cases)
    for name, weight in cases.items():
        ours = quantize.encode(weight, quantize.NF4())
        np.testing.assert_array_equal(ours.packed, theirs[f"{name}/packed"], err_msg=name)
        np.testing.assert_array_equal(ours.scales, theirs[f"{name}/absmax"], err_msg=name)
        np.testing.assert_array_equal(quantize.decode(ours), theirs[f"{name}/back"], err_msg=name)


@pytest.mark.peer("bitsandbytes")
def test_fp4_is_read_as_bitsandbytes_reads_it(ask):
    cases = weights() | {"ragged": np.random.default_rng(1).standard_normal((3, 67)).astype(np.float32)}
    theirs = ask("bitsandbytes", "bitsandbytes_oracle.py", cases)
    for name in cases:
        for case in (f"{name}/fp4/", f"{name}/fp4 nested/"):
            file = {part.removeprefix(case): theirs[part] for part in theirs if part.startswith(case)}
            back = file.pop("back")
            np.testing.assert_array_equal(quantize.from_format(file, format="bnb"), back, err_msg=case)


@pytest.mark.peer("hqq")
def test_hqq_loses_as_much_as_hqq(ask):
    cases = {
        f"{bits}/{name}": weight
        for bits in (2, 3, 4)
        for name, weight in weights().items()
        if name != "middles"
    }
    theirs = ask("hqq", "hqq_oracle.py", cases)
    for name, weight in cases.items():
        codec = quantize.HQQ(bits=int(name.partition("/")[0]))
        ours = np.abs(quantize.decode(quantize.encode(weight, codec)) - weight).mean()
        reference = np.abs(theirs[name] - weight).mean()
        assert ours <= reference * 1.01, f"{name}: {ours} against {reference}"
        assert ours >= reference * 0.9, f"{name}: {ours} against {reference}; are these the same method?"
